package config

import (
	_ "embed"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	kubeletconfig "k8s.io/kubelet/config/v1beta1"
)

// State says what the kubelet does with a setting.
type State string

// States of a setting.
const (
	// Acted settings take effect.
	Acted State = "acted"
	// Partly settings take some effect; the note says which, and the rest comes
	// with the named area of work.
	Partly State = "partly"
	// Planned settings are read and checked; the part that they are for comes
	// with the named area of work.
	Planned State = "planned"
	// AcceptedOnly settings are read and checked, and will not take effect.
	AcceptedOnly State = "accepted"
	// Elsewhere gates are read by other components only, and do nothing in
	// the upstream kubelet either.
	Elsewhere State = "elsewhere"
)

// Support is what is said about one flag, field or gate.
type Support struct {
	Kind  string // flag, field or gate
	Name  string
	State State
	Area  string // of work that is still to come
	Note  string
}

//go:embed support.txt
var supportText string

// SupportTable lists the state of every field, of every gate, and of every
// flag that mirrors no field.
func SupportTable() ([]Support, error) {
	var table []Support
	number := 0
	for line := range strings.Lines(supportText) {
		number++
		columns := strings.Fields(line)
		if len(columns) == 0 || strings.HasPrefix(columns[0], "#") {
			continue
		}
		if len(columns) < 3 {
			return nil, fmt.Errorf("support.txt:%d: expected kind, name, state", number)
		}
		entry := Support{Kind: columns[0], Name: columns[1], Note: strings.Join(columns[3:], " ")}
		state, area, _ := strings.Cut(columns[2], ":")
		entry.State, entry.Area = State(state), area
		switch {
		case !slices.Contains([]string{"flag", "field", "gate"}, entry.Kind):
			return nil, fmt.Errorf("support.txt:%d: unknown kind %q", number, entry.Kind)
		case !slices.Contains([]State{Acted, Partly, Planned, AcceptedOnly, Elsewhere}, entry.State):
			return nil, fmt.Errorf("support.txt:%d: unknown state %q", number, state)
		case (entry.State == Planned || entry.State == Partly) != (area != ""):
			return nil, fmt.Errorf("support.txt:%d: planned and partly take an area, other states do not", number)
		case (entry.State == AcceptedOnly || entry.State == Partly) && entry.Note == "":
			return nil, fmt.Errorf("support.txt:%d: say what effect %s has", number, entry.Name)
		}
		table = append(table, entry)
	}
	return table, nil
}

// effect says what is missing, for a warning.
func (s Support) effect() string {
	text := "is accepted, but takes no effect"
	switch s.State {
	case Planned:
		text = "takes no effect yet (area " + s.Area + ")"
	case Partly:
		text = "takes only some effect yet (area " + s.Area + ")"
	}
	if s.Note != "" {
		text += ": " + s.Note
	}
	return text
}

// supportWarnings names every setting that was set off its default and is not
// acted on. changed holds the flags whose value is not their default.
func supportWarnings(cfg *Config, defaults *kubeletconfig.KubeletConfiguration, changed map[string]bool, o *origins) []string {
	table, err := SupportTable()
	if err != nil {
		panic(err) // the table is part of the program, and tested
	}
	var warnings []string
	warn := func(p Problem) { warnings = append(warnings, p.String()) }
	for _, entry := range table {
		if entry.State == Acted || entry.State == Elsewhere {
			continue
		}
		switch entry.Kind {
		case "flag":
			if changed[entry.Name] {
				warn(Problem{Source: "--" + entry.Name, Reason: entry.effect()})
			}
		case "field":
			now := valueAt(&cfg.Kubelet, entry.Name)
			if !equalValues(now, valueAt(defaults, entry.Name)) {
				warn(Problem{Source: o.of(entry.Name), Field: entry.Name, Reason: entry.effect()})
			}
		}
	}
	slices.Sort(warnings)
	return append(warnings, gateWarnings(cfg, table, o)...)
}

// valueAt returns what a field holds, nil if it is not set.
func valueAt(kc *kubeletconfig.KubeletConfiguration, path string) any {
	v, ok := fieldByPath(reflect.ValueOf(kc).Elem(), path)
	if !ok {
		return nil
	}
	for v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return nil
		}
		v = v.Elem()
	}
	return v.Interface()
}

// equalValues takes an unset field, a zero value and an empty list for the
// same.
func equalValues(a, b any) bool {
	empty := func(v any) bool {
		if v == nil {
			return true
		}
		r := reflect.ValueOf(v)
		return r.IsZero() || (r.Kind() == reflect.Map || r.Kind() == reflect.Slice) && r.Len() == 0
	}
	return empty(a) && empty(b) || reflect.DeepEqual(a, b)
}

// gateWarnings covers the gates whose state differs from the default: those
// that were named one by one, those of AllAlpha and AllBeta in one line.
func gateWarnings(cfg *Config, table []Support, o *origins) []string {
	states := map[Gate]Support{}
	for _, entry := range table {
		if entry.Kind == "gate" {
			states[Gate(entry.Name)] = entry
		}
	}
	var warnings []string
	var byGroup int
	for _, name := range slices.Sorted(maps.Keys(cfg.Gates.enabled)) {
		spec, entry := cfg.Gates.specs[name], states[name]
		if cfg.Gates.enabled[name] == spec.Default || entry.State == Acted || entry.State == Elsewhere {
			continue
		}
		if _, named := cfg.Kubelet.FeatureGates[string(name)]; !named {
			byGroup++
			continue
		}
		path := childPath("featureGates", string(name))
		warnings = append(warnings, Problem{Source: o.of(path), Field: path, Reason: entry.effect()}.String())
	}
	if byGroup > 0 {
		warnings = append(warnings, fmt.Sprintf("featureGates: AllAlpha and AllBeta change %d gates that take no effect (yet); docs/compatibility.md lists them", byGroup))
	}
	return warnings
}

// configFields lists every field of KubeletConfiguration by its path, down to
// what is no struct of this API.
func configFields() []string {
	var paths []string
	var walk func(t reflect.Type, prefix string)
	walk = func(t reflect.Type, prefix string) {
		for name, field := range jsonFields(t) {
			inner := field.Type
			if inner.Kind() == reflect.Pointer {
				inner = inner.Elem()
			}
			path := childPath(prefix, name)
			if inner.Kind() == reflect.Struct && !isLeaf(inner) {
				walk(inner, path)
				continue
			}
			paths = append(paths, path)
		}
	}
	walk(reflect.TypeFor[kubeletconfig.KubeletConfiguration](), "")
	slices.Sort(paths)
	return paths
}
