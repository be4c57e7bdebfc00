package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// unit says how a row's values read.
type unit string

// Units.
const (
	milliseconds    unit = "ms"
	perSecond       unit = "pods/s"
	cpuSeconds      unit = "CPU s"
	cpuMilliseconds unit = "CPU ms"
	millicores      unit = "millicores"
	mebibytes       unit = "MiB"
	perMiB          unit = "CPU ms/MiB"
	kibibytes       unit = "KiB"
	mibPerSecond    unit = "MiB/s"
	kibPerPod       unit = "KiB/pod"
	perPod          unit = "per pod"
	count           unit = ""
)

func inMilliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// report is the result of a run.
type report struct {
	Started  time.Time         `json:"started"`
	Machine  map[string]string `json:"machine"`
	Options  map[string]string `json:"options"`
	Rows     []*row            `json:"rows"`
	Failures []string          `json:"failures,omitempty"`
}

// row is one figure in all columns.
type row struct {
	Scenario string `json:"scenario"`
	What     string `json:"what"`
	Unit     unit   `json:"unit"`
	// Values of each column, in the order in which they were measured.
	Values  map[string][]float64 `json:"values"`
	Summary map[string]summary   `json:"summary"`
	Goals   []goalResult         `json:"goals,omitempty"`

	goals  []ratio
	isNote bool // of one column only, for information
	summed bool // the sum of the values is what counts
}

type summary struct {
	N      int     `json:"n"`
	Median float64 `json:"median"`
	P99    float64 `json:"p99"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
	Sum    float64 `json:"sum"`
}

// ratio is a goal: one column's value over another's.
type ratio struct {
	of, to      string
	most, least float64 // 0 for no such bound
	tail        bool    // of the 99th percentiles, not the medians
}

type goalResult struct {
	Goal  string  `json:"goal"`
	Ratio float64 `json:"ratio"`
	Met   bool    `json:"met"`
}

func newReport(o options) *report {
	return &report{Started: time.Now(), Machine: map[string]string{}, Options: map[string]string{
		"rounds": fmt.Sprint(o.rounds), "pods": fmt.Sprint(o.pods), "idle": o.idle.String(), "scenarios": strings.Join(o.scenarios, ","),
	}}
}

// describe notes where the run takes place.
func (r *report) describe(b *bench) error {
	first := func(path string) string {
		text, _ := os.ReadFile(path)
		line, _, _ := strings.Cut(string(text), "\n")
		return strings.TrimSpace(line)
	}
	version := func(path string, args ...string) string {
		out, err := exec.Command(path, args...).Output()
		if err != nil {
			return err.Error()
		}
		return strings.TrimSpace(string(out))
	}
	r.Machine["cores"] = fmt.Sprint(runtime.NumCPU())
	r.Machine["memory"] = strings.TrimSpace(strings.TrimPrefix(first("/proc/meminfo"), "MemTotal:"))
	r.Machine["kernel"] = first("/proc/sys/kernel/osrelease")
	r.Machine["load at start"] = first("/proc/loadavg")
	r.Machine["containerd"] = b.columns[0].node.Containerd
	r.Machine["commit"] = version("git", "describe", "--always", "--dirty")
	for _, c := range b.kubelets(0) {
		r.Machine[c.name] = version(c.binary, "--version")
		info, err := os.Stat(c.binary)
		if err != nil {
			return fmt.Errorf("describe %s: %w", c.name, err)
		}
		r.Machine[c.name+" binary"] = fmt.Sprintf("%d MiB", info.Size()>>20)
	}
	return nil
}

// row returns the row of that name, made at its first use.
func (r *report) row(scenario, what string, u unit) *row {
	for _, row := range r.Rows {
		if row.Scenario == scenario && row.What == what {
			return row
		}
	}
	row := &row{Scenario: scenario, What: what, Unit: u, Values: map[string][]float64{}}
	r.Rows = append(r.Rows, row)
	return row
}

// ordered are the rows by scenario.
func (r *report) ordered() []*row {
	return slices.SortedStableFunc(slices.Values(r.Rows), func(a, b *row) int { return strings.Compare(a.Scenario, b.Scenario) })
}

func (r *report) failed(name string, err error) {
	r.Failures = append(r.Failures, name+": "+err.Error())
}

func (w *row) add(column string, values ...float64) {
	w.Values[column] = append(w.Values[column], values...)
}

// goal sets what the row has to reach; a ratio without a bound is none.
func (w *row) goal(goals ...ratio) {
	w.goals = slices.DeleteFunc(goals, func(g ratio) bool { return g.most == 0 && g.least == 0 })
}

func (w *row) note()  { w.isNote = true }
func (w *row) total() { w.summed = true }

func summarize(values []float64) (s summary) {
	if len(values) == 0 {
		return s
	}
	sorted := slices.Sorted(slices.Values(values))
	for _, v := range sorted {
		s.Sum += v
	}
	s.N, s.Min, s.Max = len(sorted), sorted[0], sorted[len(sorted)-1]
	s.Median, s.P99 = quantile(sorted, 0.5), quantile(sorted, 0.99)
	return s
}

// quantile of sorted values, interpolated between neighbours.
func quantile(sorted []float64, q float64) float64 {
	at := q * float64(len(sorted)-1)
	low := int(at)
	if low+1 >= len(sorted) {
		return sorted[len(sorted)-1]
	}
	return sorted[low] + (at-float64(low))*(sorted[low+1]-sorted[low])
}

// value is what counts of a column.
func (w *row) value(column string, tail bool) (float64, bool) {
	s := summarize(w.Values[column])
	switch {
	case s.N == 0:
		return 0, false
	case w.summed:
		return s.Sum, true
	case tail:
		return s.P99, true
	}
	return s.Median, true
}

// ratio of one column to another; not ok if one of them has nothing.
func (w *row) ratio(of, to string, tail bool) (float64, bool) {
	a, ok1 := w.value(of, tail)
	b, ok2 := w.value(to, tail)
	if !ok1 || !ok2 || b == 0 {
		return 0, false
	}
	return a / b, true
}

func (w *row) judge() {
	w.Goals, w.Summary = nil, map[string]summary{}
	for column, values := range w.Values {
		w.Summary[column] = summarize(values)
	}
	for _, g := range w.goals {
		got, ok := w.ratio(g.of, g.to, g.tail)
		if !ok {
			continue
		}
		name, bound, met := "", 0.0, false
		if g.most > 0 {
			name, bound, met = "≤", g.most, got <= g.most
		} else {
			name, bound, met = "≥", g.least, got >= g.least
		}
		what := ""
		if g.tail {
			what = "p99 "
		}
		w.Goals = append(w.Goals, goalResult{fmt.Sprintf("%s%s %.4g × %s", what, name, bound, g.to), got, met})
	}
}

// write puts all results into a folder.
func (r *report) write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make folder of results: %w", err)
	}
	for _, w := range r.Rows {
		w.judge()
	}
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return fmt.Errorf("encode results: %w", err)
	}
	for name, text := range map[string][]byte{"bench.json": text, "bench.md": []byte(r.markdown()), "bench.svg": r.picture()} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			return fmt.Errorf("write results: %w", err)
		}
	}
	return nil
}

// The part of a document that is the report's.
const (
	documentBegin = "<!-- begin of what make bench writes -->\n"
	documentEnd   = "<!-- end of what make bench writes -->\n"
)

// writeInto puts the report into a document, in place of the one that is
// there, and the picture beside it.
func (r *report) writeInto(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read document: %w", err)
	}
	before, rest, ok1 := strings.Cut(string(text), documentBegin)
	_, after, ok2 := strings.Cut(rest, documentEnd)
	if !ok1 || !ok2 {
		return fmt.Errorf("write document %s: it has no lines %q and %q", path, documentBegin, documentEnd)
	}
	picture := strings.TrimSuffix(path, filepath.Ext(path)) + ".svg"
	if err := os.WriteFile(picture, r.picture(), 0o644); err != nil {
		return fmt.Errorf("write picture: %w", err)
	}
	report := fmt.Sprintf("%s\n%s\n![distributions of all times](%s)\n\n", documentBegin, r.markdown(), filepath.Base(picture))
	if err := os.WriteFile(path, []byte(before+report+documentEnd+after), 0o644); err != nil {
		return fmt.Errorf("write document: %w", err)
	}
	return nil
}

// verdict lists the goals that were missed.
func (r *report) verdict(b *strings.Builder) {
	met, all := 0, 0
	var missed []string
	for _, w := range r.ordered() {
		for _, g := range w.Goals {
			all++
			if g.Met {
				met++
			} else {
				missed = append(missed, fmt.Sprintf("- %s: %.2f, goal %s", w.What, g.Ratio, g.Goal))
			}
		}
	}
	fmt.Fprintf(b, "\n%d of %d goals met.", met, all)
	if len(missed) > 0 {
		fmt.Fprintf(b, " Missed:\n\n%s", strings.Join(missed, "\n"))
	}
	b.WriteString("\n")
}

// markdown is the report as a table.
func (r *report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Started %s.", r.Started.UTC().Format("2006-01-02 15:04 MST"))
	for _, facts := range []map[string]string{r.Machine, r.Options} {
		var keys []string
		for k := range facts {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		for _, k := range keys {
			if facts[k] != "" {
				fmt.Fprintf(&b, " %s: %s;", k, facts[k])
			}
		}
	}
	b.WriteString("\n\nMedian / 99th percentile (number of samples); single values where there is one.\n\n")
	b.WriteString("| | what | unit | floor | upstream | this kubelet | ÷ floor | ÷ upstream | goal |\n|---|---|---|---|---|---|---|---|---|\n")
	for _, w := range r.ordered() {
		w.judge()
		fmt.Fprintf(&b, "| %s | %s | %s |", w.Scenario, w.What, w.Unit)
		for _, c := range allColumns {
			fmt.Fprintf(&b, " %s |", w.cell(c))
		}
		for _, c := range []string{floorColumn, upstreamColumn} {
			if v, ok := w.ratio(ownColumn, c, false); ok {
				fmt.Fprintf(&b, " %.2f |", v)
			} else {
				b.WriteString(" |")
			}
		}
		var goals []string
		for _, g := range w.Goals {
			verdict := "met"
			if !g.Met {
				verdict = fmt.Sprintf("**missed (%.2f)**", g.Ratio)
			}
			goals = append(goals, g.Goal+": "+verdict)
		}
		fmt.Fprintf(&b, " %s |\n", strings.Join(goals, "; "))
	}
	r.verdict(&b)
	for _, f := range r.Failures {
		fmt.Fprintf(&b, "\nFailed: %s\n", f)
	}
	return b.String()
}

func (w *row) cell(column string) string {
	s := summarize(w.Values[column])
	switch {
	case s.N == 0:
		return ""
	case w.summed:
		return fmt.Sprintf("%s of %d", number(s.Sum), s.N)
	case s.N == 1:
		return number(s.Median)
	case s.N < 20: // a percentile of so few is the greatest
		return fmt.Sprintf("%s / %s (%d)", number(s.Median), number(s.Max), s.N)
	}
	return fmt.Sprintf("%s / %s (%d)", number(s.Median), number(s.P99), s.N)
}

func number(v float64) string {
	switch a := math.Abs(v); {
	case a >= 100 || v == math.Trunc(v):
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

// progress shows the rows so far.
func (b *bench) progress(round int, rows ...*row) {
	for _, w := range rows {
		line := fmt.Sprintf("  round %d  %s:", round+1, w.What)
		for _, c := range allColumns {
			if v, ok := w.value(c, false); ok {
				line += fmt.Sprintf("  %s %s", c, number(v))
			}
		}
		line += " " + string(w.Unit)
		for _, c := range []string{floorColumn, upstreamColumn} {
			if v, ok := w.ratio(ownColumn, c, false); ok {
				line += fmt.Sprintf("  %.2f × %s", v, c)
			}
		}
		say("%s", line)
	}
}
