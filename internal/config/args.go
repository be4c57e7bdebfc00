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
	s := scanner{fs: fs, args: args}
	for len(s.args) > 0 {
		arg := s.args[0]
		s.args = s.args[1:]
		switch {
		case arg == "--":
			for _, rest := range s.args {
				s.bad(rest, notAFlag)
			}
			return s.found, s.problems
		case strings.HasPrefix(arg, "--"):
			s.long(arg[2:])
		case strings.HasPrefix(arg, "-") && len(arg) > 1:
			s.short(arg[1:])
		default:
			s.bad(arg, notAFlag)
		}
	}
	return s.found, s.problems
}

const notAFlag = "is not a flag and not a command of the kubelet"

type scanner struct {
	fs       *pflag.FlagSet
	args     []string // that are still to be read
	found    []occurrence
	problems Errors
}

func (s *scanner) bad(source, reason string) {
	s.problems = append(s.problems, Problem{Source: source, Reason: reason})
}

// long reads what follows two dashes.
func (s *scanner) long(text string) {
	name, value, hasValue := strings.Cut(text, "=")
	flag := s.fs.Lookup(strings.ReplaceAll(name, "_", "-"))
	switch {
	case flag == nil:
		reason := "is not a flag of the kubelet"
		if near := nearest(name, flagNames(s.fs)); near != "" {
			reason += fmt.Sprintf("; did you mean --%s?", near)
		}
		s.bad("--"+name, reason)
		// What follows may be its value or the next mistake; a word that is
		// no flag is taken for the value.
		if !hasValue && len(s.args) > 0 && !strings.HasPrefix(s.args[0], "-") {
			s.args = s.args[1:]
		}
	case hasValue:
		s.found = append(s.found, occurrence{flag, value})
	case flag.NoOptDefVal != "":
		s.found = append(s.found, occurrence{flag, flag.NoOptDefVal})
	default:
		s.next(flag)
	}
}

// short reads what follows one dash: letters of switches, then perhaps one
// with a value.
func (s *scanner) short(text string) {
	for rest := text; rest != ""; {
		flag := s.fs.ShorthandLookup(rest[:1])
		switch {
		case flag == nil:
			reason := "is not a flag of the kubelet"
			name, _, _ := strings.Cut(text, "=")
			if s.fs.Lookup(name) != nil {
				reason += fmt.Sprintf("; did you mean --%s?", name)
			}
			s.bad("-"+text, reason)
			return
		case len(rest) > 2 && rest[1] == '=':
			s.found = append(s.found, occurrence{flag, rest[2:]})
			return
		case flag.NoOptDefVal != "":
			s.found = append(s.found, occurrence{flag, flag.NoOptDefVal})
			rest = rest[1:]
		case len(rest) > 1:
			s.found = append(s.found, occurrence{flag, rest[1:]})
			return
		default:
			s.next(flag)
			return
		}
	}
}

// next takes the following argument for the flag's value.
func (s *scanner) next(flag *pflag.Flag) {
	if len(s.args) == 0 {
		s.bad("--"+flag.Name, "needs a value")
		return
	}
	s.found = append(s.found, occurrence{flag, s.args[0]})
	s.args = s.args[1:]
}

func flagNames(fs *pflag.FlagSet) []string {
	var names []string
	fs.VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	return names
}
