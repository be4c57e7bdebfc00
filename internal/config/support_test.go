package config

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	kubeletconfig "k8s.io/kubelet/config/v1beta1"
)

// TestSupportTableIsComplete: each flag, field and gate has one line, and
// there are no others.
func TestSupportTableIsComplete(t *testing.T) {
	table, err := SupportTable()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][]string{}
	for _, entry := range table {
		got[entry.Kind] = append(got[entry.Kind], entry.Name)
	}
	want := map[string][]string{"field": configFields()}
	mirrors := map[string]bool{}
	for _, def := range fieldFlags() {
		mirrors[def.name] = true
		if !slices.Contains(want["field"], def.field) {
			t.Errorf("--%s mirrors %s, which is no field", def.name, def.field)
		}
	}
	newFlagSet(new(Flags), &kubeletconfig.KubeletConfiguration{}).VisitAll(func(f *pflag.Flag) {
		if !mirrors[f.Name] {
			want["flag"] = append(want["flag"], f.Name)
		}
	})
	for _, spec := range KnownGates() {
		want["gate"] = append(want["gate"], string(spec.Name))
	}
	for _, kind := range []string{"flag", "field", "gate"} {
		slices.Sort(got[kind])
		slices.Sort(want[kind])
		if diff := cmp.Diff(want[kind], got[kind]); diff != "" {
			t.Errorf("%ss in support.txt (-exist +listed):\n%s", kind, diff)
		}
	}
}

const (
	compatibilityDoc = "../../docs/compatibility.md"
	docBegin         = "<!-- begin: made from internal/config/support.txt, do not edit -->\n"
	docEnd           = "<!-- end -->\n"
)

// TestCompatibilityDoc keeps the tables of the document equal to the data.
func TestCompatibilityDoc(t *testing.T) {
	data, err := os.ReadFile(compatibilityDoc)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(data), docBegin)
	_, tail, okTail := strings.Cut(rest, docEnd)
	if !ok || !okTail {
		t.Fatalf("%s has lost its markers", compatibilityDoc)
	}
	want := head + docBegin + compatibilityTables(t) + docEnd + tail
	if want == string(data) {
		return
	}
	if !*update {
		t.Fatalf("%s is out of date: go test ./internal/config -run TestCompatibilityDoc -update\n%s", compatibilityDoc, cmp.Diff(want, string(data)))
	}
	if err := os.WriteFile(compatibilityDoc, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}

func compatibilityTables(t *testing.T) string {
	table, err := SupportTable()
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string]Support{}
	counts := map[string]map[State]int{}
	for _, entry := range table {
		byName[entry.Kind+" "+entry.Name] = entry
		if counts[entry.Kind] == nil {
			counts[entry.Kind] = map[State]int{}
		}
		counts[entry.Kind][entry.State]++
	}
	state := func(s Support) string {
		if s.Area != "" {
			return string(s.State) + ": " + s.Area
		}
		return string(s.State)
	}
	var out strings.Builder
	out.WriteString("\n| | acted | partly | planned | accepted | elsewhere |\n|---|---|---|---|---|---|\n")
	for _, kind := range []string{"flag", "field", "gate"} {
		fmt.Fprintf(&out, "| %ss", kind)
		for _, s := range []State{Acted, Partly, Planned, AcceptedOnly, Elsewhere} {
			fmt.Fprintf(&out, " | %d", counts[kind][s])
		}
		out.WriteString(" |\n")
	}
	out.WriteString("\nFlags that mirror a field are not counted.\n")

	flags := newFlagSet(new(Flags), &kubeletconfig.KubeletConfiguration{})
	mirrored := map[string]string{}
	for _, def := range fieldFlags() {
		mirrored[def.name] = def.field
	}
	var names []string
	flags.VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	slices.Sort(names)
	out.WriteString("\n## Flags\n\n| Flag | Field | State | Note |\n|---|---|---|---|\n")
	for _, name := range names {
		entry, field := byName["flag "+name], ""
		if path, ok := mirrored[name]; ok {
			entry, field = byName["field "+path], "`"+path+"`"
		}
		fmt.Fprintf(&out, "| `--%s` | %s | %s | %s |\n", name, field, state(entry), entry.Note)
	}
	out.WriteString("\n## Fields of KubeletConfiguration\n\n| Field | State | Note |\n|---|---|---|\n")
	for _, path := range configFields() {
		entry := byName["field "+path]
		fmt.Fprintf(&out, "| `%s` | %s | %s |\n", path, state(entry), entry.Note)
	}
	out.WriteString("\n## Feature gates\n\n| Gate | Stage | Default | State | Note |\n|---|---|---|---|---|\n")
	for _, spec := range KnownGates() {
		entry := byName["gate "+string(spec.Name)]
		value := fmt.Sprint(spec.Default)
		if spec.Locked {
			value += ", locked"
		}
		fmt.Fprintf(&out, "| %s | %s | %s | %s | %s |\n", spec.Name, spec.Stage, value, state(entry), entry.Note)
	}
	out.WriteString("\n")
	return out.String()
}
