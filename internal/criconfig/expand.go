package criconfig

import (
	"strings"

	v1 "k8s.io/api/core/v1"
)

// expand replaces $(NAME) in s by what lookup gives for NAME. References that
// lookup does not know stay as they are, and $$ is a plain $, so that
// $$(NAME) is never replaced
// (https://kubernetes.io/docs/tasks/inject-data-application/define-interdependent-environment-variables/).
func expand(s string, lookup func(name string) (string, bool)) string {
	if !strings.Contains(s, "$") {
		return s
	}
	var out strings.Builder
	for {
		before, rest, found := strings.Cut(s, "$")
		out.WriteString(before)
		if !found {
			return out.String()
		}
		switch {
		case strings.HasPrefix(rest, "$"):
			out.WriteByte('$')
			s = rest[1:]
		case strings.HasPrefix(rest, "("):
			name, after, closed := strings.Cut(rest[1:], ")")
			if !closed {
				out.WriteString("$(")
				s = rest[1:]
				continue
			}
			if value, ok := lookup(name); ok {
				out.WriteString(value)
			} else {
				out.WriteString("$(" + name + ")")
			}
			s = after
		default:
			out.WriteByte('$')
			s = rest
		}
	}
}

func expandAll(list []string, lookup func(name string) (string, bool)) []string {
	if len(list) == 0 {
		return nil
	}
	expanded := make([]string, len(list))
	for i, s := range list {
		expanded[i] = expand(s, lookup)
	}
	return expanded
}

// ExpandStatic replaces references in a probe's command by the values that
// stand in the container's own env. A command that is run in a container has
// no other environment at hand here: values from elsewhere count as empty.
func ExpandStatic(command []string, env []v1.EnvVar) []string {
	return expandAll(command, func(name string) (value string, ok bool) {
		for i := range env { // the last of a name counts
			if env[i].Name == name {
				value, ok = env[i].Value, true
			}
		}
		return value, ok
	})
}
