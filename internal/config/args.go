package config

import (
	"fmt"
	"strings"

	"github.com/spf13/pflag"
)

// occurrence is one flag as it was given, value not yet read.
type occurrence struct {
	flag  *pflag.Flag
	value string
}

// scan splits a command line into the flags of fs, in order. It accepts what
// pflag accepts (--name=value, --name value, -v=2, -v2, -v 2, switches without
// a value, underscores for dashes), but goes on after a mistake, so that all
// of them are reported in one run.
func scan(fs *pflag.FlagSet, args []string) ([]occurrence, Errors) {
	var found []occurrence
	var problems Errors
	bad := func(source, reason string) {
		problems = append(problems, Problem{Source: source, Reason: reason})
	}
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		var flag *pflag.Flag
		var value string
		var hasValue bool
		switch {
		case arg == "--":
			for _, rest := range args {
				bad(rest, "is not a flag and not a command of the kubelet")
			}
			return found, problems
		case strings.HasPrefix(arg, "--"):
			var name string
			name, value, hasValue = strings.Cut(arg[2:], "=")
			if flag = fs.Lookup(strings.ReplaceAll(name, "_", "-")); flag == nil {
				reason := "is not a flag of the kubelet"
				if near := nearest(name, flagNames(fs)); near != "" {
					reason += fmt.Sprintf("; did you mean --%s?", near)
				}
				bad("--"+name, reason)
				// What follows may be its value or the next mistake; a word
				// that is no flag is taken for the value.
				if !hasValue && len(args) > 0 && !strings.HasPrefix(args[0], "-") {
					args = args[1:]
				}
				continue
			}
		case strings.HasPrefix(arg, "-") && len(arg) > 1:
			if flag = fs.ShorthandLookup(arg[1:2]); flag == nil || flag.NoOptDefVal != "" && len(arg) > 2 && arg[2] != '=' {
				reason := "is not a flag of the kubelet"
				name, _, _ := strings.Cut(arg[1:], "=")
				if fs.Lookup(name) != nil {
					reason += fmt.Sprintf("; did you mean --%s?", name)
				}
				bad(arg, reason)
				continue
			}
			if rest := arg[2:]; rest != "" {
				value, hasValue = strings.TrimPrefix(rest, "="), true
			}
		default:
			bad(arg, "is not a flag and not a command of the kubelet")
			continue
		}
		switch {
		case hasValue:
		case flag.NoOptDefVal != "":
			value = flag.NoOptDefVal
		case len(args) > 0:
			value, args = args[0], args[1:]
		default:
			bad("--"+flag.Name, "needs a value")
			continue
		}
		found = append(found, occurrence{flag, value})
	}
	return found, problems
}

func flagNames(fs *pflag.FlagSet) []string {
	var names []string
	fs.VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	return names
}
