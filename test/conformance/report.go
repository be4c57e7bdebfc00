package main

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
)

// verdict is a run beside the upstream kubelet's record.
type verdict struct {
	rows       []*row
	failed     []finding // what upstream passes, or is not known to fail
	shared     []finding // upstream fails, too
	impossible []finding
	skipped    []finding
	surprises  []string // pass although impossible.txt names them
}

// row counts the tests of a group.
type row struct {
	group                                       string
	tests, passed, failed, impossible, upstream int
	known                                       int // tests that upstream has a result for
}

type finding struct{ name, group, why, upstream string }

func judge(tests map[string]test, peer *record, causes []cause) *verdict {
	v := &verdict{}
	groups := map[string]*row{}
	for _, name := range slices.Sorted(maps.Keys(tests)) {
		t := tests[name]
		r := groups[t.Group]
		if r == nil {
			r = &row{group: t.Group}
			groups[t.Group] = r
			v.rows = append(v.rows, r)
		}
		r.tests++
		other, known := peer.Tests[name]
		if known {
			r.known++
		}
		if other.passed() {
			r.upstream++
		}
		f := finding{name: name, group: t.Group, why: firstLine(t.Message), upstream: cmp.Or(other.State, "not known")}
		why := causeOf(causes, name)
		switch {
		case t.passed():
			r.passed++
			if why != "" {
				v.surprises = append(v.surprises, name)
			}
		case t.skipped():
			r.impossible++
			v.skipped = append(v.skipped, f)
		case why != "":
			r.impossible++
			f.why = why
			v.impossible = append(v.impossible, f)
		case known && !other.passed():
			r.failed++
			v.shared = append(v.shared, f)
		default:
			r.failed++
			v.failed = append(v.failed, f)
		}
	}
	slices.SortFunc(v.rows, func(a, b *row) int { return strings.Compare(a.group, b.group) })
	return v
}

// total is the sum of all rows.
func (v *verdict) total() *row {
	sum := &row{group: "all"}
	for _, r := range v.rows {
		sum.tests += r.tests
		sum.passed += r.passed
		sum.failed += r.failed
		sum.impossible += r.impossible
		sum.upstream += r.upstream
		sum.known += r.known
	}
	return sum
}

// text is the verdict for a terminal.
func (v *verdict) text(kubelet string) string {
	var b strings.Builder
	line := func(group, tests, passed, failed, impossible, peer string) {
		fmt.Fprintf(&b, "%-58s %6s %7s %7s %13s %9s\n", group, tests, passed, failed, impossible, peer)
	}
	b.WriteByte('\n')
	line("judged: "+kubelet, "tests", "passed", "failed", "not possible", "upstream")
	for _, r := range append(slices.Clone(v.rows), v.total()) {
		line(cut(r.group, 58), fmt.Sprint(r.tests), fmt.Sprint(r.passed), number(r.failed), number(r.impossible), r.peer())
	}
	list := func(title string, findings []finding) {
		if len(findings) == 0 {
			return
		}
		fmt.Fprintf(&b, "\n%s:\n", title)
		for _, f := range findings {
			fmt.Fprintf(&b, "  %s\n      %s (upstream: %s)\n", f.name, f.why, f.upstream)
		}
	}
	list("not possible here", v.impossible)
	list("passed over by the tests themselves", v.skipped)
	list("failed, with the upstream kubelet as well", v.shared)
	list("FAILED", v.failed)
	for _, name := range v.surprises {
		fmt.Fprintf(&b, "passes although test/conformance/impossible.txt names it: %s\n", name)
	}
	b.WriteByte('\n')
	return b.String()
}

// peer is how many tests of the row upstream passed, if that is known.
func (r *row) peer() string {
	switch r.known {
	case 0:
		return "not run"
	case r.tests:
		return fmt.Sprint(r.upstream)
	default:
		return fmt.Sprintf("%d of %d", r.upstream, r.known)
	}
}

const (
	docsBegin = "<!-- begin: made by test/conformance from the last runs, do not edit -->"
	docsEnd   = "<!-- end: made by test/conformance -->"
)

// writeDocs writes what is recorded into a document, between two marks.
func writeDocs(path string) error {
	document, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read document: %w", err)
	}
	before, rest, ok1 := strings.Cut(string(document), docsBegin)
	_, after, ok2 := strings.Cut(rest, docsEnd)
	if !ok1 || !ok2 {
		return fmt.Errorf("%s lacks the lines %q and %q", path, docsBegin, docsEnd)
	}
	impossible, err := readImpossible()
	if err != nil {
		return err
	}
	var b strings.Builder
	for _, containerd := range []string{"2.4", "1.6"} {
		for _, runtime := range []string{"", "crun"} {
			ours, err1 := readRecord(recordName(own, containerd, runtime))
			theirs, err2 := readRecord(recordName(upstream, containerd, runtime))
			if err := cmp.Or(err1, err2); err != nil {
				return err
			}
			if len(ours.Tests) > 0 {
				b.WriteString(judge(ours.Tests, theirs, impossible).markdown(containerd, cmp.Or(runtime, "runc"), ours, theirs))
			}
		}
	}
	if b.Len() == 0 {
		return fmt.Errorf("nothing is recorded yet; run make conformance first")
	}
	text := before + docsBegin + "\n" + b.String() + docsEnd + after
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		return fmt.Errorf("write document: %w", err)
	}
	return nil
}

// namedAtMost is how many tests of a group a document names.
const namedAtMost = 3

// markdown is the verdict for a document.
func (v *verdict) markdown(containerd, runtime string, ours, theirs *record) string {
	var b strings.Builder
	sum := v.total()
	fmt.Fprintf(&b, "\n### containerd %s, %s\n\n", containerd, runtime)
	fmt.Fprintf(&b, "%d of %d tests pass, run on %s", sum.passed, sum.tests, dates(ours))
	if sum.impossible > 0 {
		fmt.Fprintf(&b, ", and %d are not possible on the machine of the tests", sum.impossible)
	}
	fmt.Fprintf(&b, "; upstream 1.37.2 passes %s, run on %s.\n\n", sum.peer(), dates(theirs))
	b.WriteString("| Group | tests | this kubelet | upstream |\n|---|---|---|---|\n")
	for _, r := range v.rows {
		fmt.Fprintf(&b, "| %s | %d | %d | %s |\n", r.group, r.tests, r.passed, r.peer())
	}
	list := func(title string, findings []finding) {
		if len(findings) == 0 {
			return
		}
		fmt.Fprintf(&b, "\n%s:\n\n", title)
		// One entry for each cause, and below it the tests; of a group of many
		// only how many they are.
		by := map[string]map[string][]string{}
		for _, f := range findings {
			if by[f.why] == nil {
				by[f.why] = map[string][]string{}
			}
			by[f.why][f.group] = append(by[f.why][f.group], f.name)
		}
		for _, why := range slices.Sorted(maps.Keys(by)) {
			fmt.Fprintf(&b, "- %s:\n", why)
			for _, group := range slices.Sorted(maps.Keys(by[why])) {
				names := by[why][group]
				if len(names) > namedAtMost {
					names = []string{fmt.Sprintf("%s: %d tests", group, len(names))}
				}
				for _, name := range names {
					fmt.Fprintf(&b, "  - %s\n", name)
				}
			}
		}
	}
	list("Not possible on the machine of the tests", append(slices.Clone(v.impossible), v.skipped...))
	list("Failing with upstream as well", v.shared)
	list("Failing", v.failed)
	return b.String()
}

// dates are the days on which the tests of a record were run.
func dates(r *record) string {
	days := map[string]bool{}
	for _, t := range r.Tests {
		days[t.Date] = true
	}
	all := slices.Sorted(maps.Keys(days))
	switch len(all) {
	case 0:
		return "no day yet"
	case 1:
		return all[0]
	}
	return all[0] + " to " + all[len(all)-1]
}

func number(n int) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprint(n)
}

func cut(text string, n int) string {
	if len(text) > n {
		return text[:n-1] + "…"
	}
	return text
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	return cut(line, 200)
}
