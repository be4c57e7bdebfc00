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
	rows       []*row    // by group
	parts      []*row    // by what the tests are labelled, those that have tests
	failed     []finding // what upstream passes, or is not known to fail
	shared     []finding // upstream fails, too
	impossible []finding
	skipped    []finding
	surprises  []string // pass although impossible.txt names them
}

// row counts some of the tests.
type row struct {
	name                                        string
	tests, passed, failed, impossible, upstream int
	known                                       int // tests that upstream has a result for
}

type finding struct{ name, group, why, upstream string }

// The parts of the suite, in the order of the document.
const (
	quick  = "`[NodeConformance]`"
	slow   = "`[NodeConformance]`, `[Slow]` or `[Serial]`"
	others = "not `[NodeConformance]`"
)

// partOf is the part of the suite that a test belongs to, by the labels in its
// name.
func partOf(name string) string {
	switch {
	case !strings.Contains(name, "[NodeConformance]"):
		return others
	case strings.Contains(name, "[Slow]") || strings.Contains(name, "[Serial]"):
		return slow
	}
	return quick
}

func judge(tests map[string]test, peer *record, causes []cause) *verdict {
	v := &verdict{}
	groups := map[string]*row{}
	parts := map[string]*row{quick: {name: quick}, slow: {name: slow}, others: {name: others}}
	for _, name := range slices.Sorted(maps.Keys(tests)) {
		t := tests[name]
		r := groups[t.Group]
		if r == nil {
			r = &row{name: t.Group}
			groups[t.Group] = r
			v.rows = append(v.rows, r)
		}
		one := row{tests: 1}
		other, known := peer.Tests[name]
		if known {
			one.known = 1
		}
		if other.passed() {
			one.upstream = 1
		}
		f := finding{name: name, group: t.Group, why: firstLine(t.Message), upstream: cmp.Or(other.State, "not known")}
		why := causeOf(causes, name)
		switch {
		case t.passed():
			one.passed = 1
			if why != "" {
				v.surprises = append(v.surprises, name)
			}
		case t.skipped():
			one.impossible = 1
			v.skipped = append(v.skipped, f)
		case why != "":
			one.impossible = 1
			f.why = why
			v.impossible = append(v.impossible, f)
		case known && !other.passed():
			one.failed = 1
			v.shared = append(v.shared, f)
		default:
			one.failed = 1
			v.failed = append(v.failed, f)
		}
		r.add(&one)
		parts[partOf(name)].add(&one)
	}
	slices.SortFunc(v.rows, func(a, b *row) int { return strings.Compare(a.name, b.name) })
	for _, name := range []string{quick, slow, others} {
		if parts[name].tests > 0 {
			v.parts = append(v.parts, parts[name])
		}
	}
	return v
}

func (r *row) add(o *row) {
	r.tests += o.tests
	r.passed += o.passed
	r.failed += o.failed
	r.impossible += o.impossible
	r.upstream += o.upstream
	r.known += o.known
}

// total is the sum of all rows.
func (v *verdict) total() *row {
	sum := &row{name: "all"}
	for _, r := range v.rows {
		sum.add(r)
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
		line(cut(r.name, 58), fmt.Sprint(r.tests), fmt.Sprint(r.passed), number(r.failed), number(r.impossible), r.peer())
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
	var judged []*judgement
	for _, containerd := range []string{"2.4", "1.6"} {
		for _, runtime := range []string{"runc", "crun"} {
			ours, err1 := readRecord(recordName(own, containerd, runtime))
			theirs, err2 := readRecord(recordName(upstream, containerd, runtime))
			if err := cmp.Or(err1, err2); err != nil {
				return err
			}
			if len(ours.Tests) > 0 {
				judged = append(judged, &judgement{ours, theirs, judge(ours.Tests, theirs, impossible)})
			}
		}
	}
	if len(judged) == 0 {
		return fmt.Errorf("nothing is recorded yet; run make conformance first")
	}
	text := before + docsBegin + "\n" + markdown(judged) + docsEnd + after
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		return fmt.Errorf("write document: %w", err)
	}
	return nil
}

// judgement is what the document says of one runtime.
type judgement struct {
	ours, theirs *record
	verdict      *verdict
}

// markdown is the part of the document that is made: totals of each runtime,
// then all groups with a pair of columns for each, then what does not pass.
func markdown(judged []*judgement) string {
	var b strings.Builder
	b.WriteString("\n| Runtime | Tests | run | not possible | failing | this kubelet | upstream 1.37.2 | last runs |\n|---|---|---|---|---|---|---|---|\n")
	var groups []string
	for _, j := range judged {
		first := j.ours.title()
		if v := j.ours.Versions; v != "" {
			first = v
		}
		for _, p := range j.verdict.parts {
			fmt.Fprintf(&b, "| %s | %s | %d | %s | %s | %d | %s | %s |\n", first, p.name, p.tests, number(p.impossible), number(p.failed), p.passed, p.peer(),
				days(j.ours, p.name))
			first = ""
		}
		for _, r := range j.verdict.rows {
			groups = append(groups, r.name)
		}
	}
	b.WriteString("\n| Group |")
	for _, j := range judged {
		fmt.Fprintf(&b, " %s | upstream |", j.ours.title())
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", 2*len(judged)) + "\n")
	slices.Sort(groups)
	for _, group := range slices.Compact(groups) {
		fmt.Fprintf(&b, "| %s |", group)
		for _, j := range judged {
			own, peer := "", ""
			if i := slices.IndexFunc(j.verdict.rows, func(r *row) bool { return r.name == group }); i >= 0 {
				r := j.verdict.rows[i]
				own, peer = fmt.Sprint(r.passed), r.peer()
				if r.passed != r.tests {
					own = fmt.Sprintf("%d of %d", r.passed, r.tests)
				}
			}
			fmt.Fprintf(&b, " %s | %s |", own, peer)
		}
		b.WriteByte('\n')
	}
	for _, j := range judged {
		if list := j.verdict.exceptions(); list != "" {
			fmt.Fprintf(&b, "\n### %s\n%s", j.ours.title(), list)
		}
	}
	return b.String()
}

// namedAtMost is how many tests of a group a document names.
const namedAtMost = 3

// exceptions are what did not pass, and why, for a document.
func (v *verdict) exceptions() string {
	var b strings.Builder
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

// days are those on which the tests of a part were last run.
func days(r *record, part string) string {
	var all []string
	for name, t := range r.Tests {
		if partOf(name) == part {
			all = append(all, t.Date)
		}
	}
	first, last := slices.Min(all), slices.Max(all)
	if first == last {
		return last
	}
	return first + " to " + last
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
