package config

import (
	"fmt"
	"slices"
	"strings"
)

// Problem is one thing that is wrong with the configuration.
type Problem struct {
	// Source is where the value was given: "file:line", "file", "--flag", or
	// empty for a default.
	Source string
	// Field is the path of the field, such as authentication.webhook.cacheTTL.
	Field string
	// Reason says what is wrong, and what would be right.
	Reason string
}

func (p Problem) String() string {
	var parts []string
	for _, part := range []string{p.Source, p.Field, p.Reason} {
		if part != "" {
			parts = append(parts, part)
		}
	}
	return strings.Join(parts, ": ")
}

// Errors lists every problem that was found; its text has one line for each.
type Errors []Problem

func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, p := range e {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// sorted orders by source, then field, and drops repetitions, so that the
// text does not depend on the order of maps.
func (e Errors) sorted() Errors {
	slices.SortStableFunc(e, func(a, b Problem) int {
		if c := compareSources(a.Source, b.Source); c != 0 {
			return c
		}
		if c := strings.Compare(a.Field, b.Field); c != 0 {
			return c
		}
		return strings.Compare(a.Reason, b.Reason)
	})
	return slices.Compact(e)
}

// compareSources sorts lines of one file by number, not by digit.
func compareSources(a, b string) int {
	fileA, lineA := splitLine(a)
	fileB, lineB := splitLine(b)
	if c := strings.Compare(fileA, fileB); c != 0 {
		return c
	}
	return lineA - lineB
}

func splitLine(source string) (string, int) {
	i := strings.LastIndexByte(source, ':')
	if i < 0 {
		return source, 0
	}
	var line int
	if _, err := fmt.Sscanf(source[i+1:], "%d", &line); err != nil {
		return source, 0
	}
	return source[:i], line
}

// origins remembers where each field's value was given.
type origins struct {
	flags map[string]string // field path → flag name
	docs  []*document       // in the order in which they were merged
}

// of finds the place of a field: a flag, else the last file that names it,
// else the same for the field that contains it.
func (o *origins) of(path string) string {
	for p := path; p != ""; p = parentPath(p) {
		if name, ok := o.flags[p]; ok {
			return "--" + name
		}
		for i := len(o.docs) - 1; i >= 0; i-- {
			if line, ok := o.docs[i].lines[p]; ok {
				return o.docs[i].at(line)
			}
		}
	}
	return ""
}

// parentPath takes the last step off a.b[c][0].
func parentPath(path string) string {
	if strings.HasSuffix(path, "]") {
		if i := strings.LastIndexByte(path, '['); i >= 0 {
			return path[:i]
		}
	}
	if i := strings.LastIndexByte(path, '.'); i >= 0 {
		return path[:i]
	}
	return ""
}
