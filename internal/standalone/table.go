package standalone

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"k8s.io/component-base/term"
)

// Row is what a person wants to know of one pod.
type Row struct {
	Pod      string // namespace/name
	Phase    string
	Ready    string // "1/2"
	Restarts int32
	IP       string
	Since    time.Time // of the stage
	Why      string    // one line
}

// redraw bounds how often the table is drawn; ages change it even if nothing
// else does.
const (
	redraw = 200 * time.Millisecond
	aging  = time.Second
)

// showTable draws the table over and over at the same place until ctx ends.
func showTable(ctx context.Context, w io.Writer, a Agent) {
	lines := 0
	for {
		text := render(a.Rows(), time.Now(), width(w))
		if lines > 0 {
			fmt.Fprintf(w, "\x1b[%dA\x1b[J", lines)
		}
		_, _ = io.WriteString(w, text)
		lines = strings.Count(text, "\n")
		select {
		case <-ctx.Done():
			return
		case <-time.After(redraw):
		}
		select {
		case <-ctx.Done():
			return
		case <-a.Changed():
		case <-time.After(aging):
		}
	}
}

func width(w io.Writer) int {
	columns, _, err := term.TerminalSize(w)
	if err != nil || columns < 60 {
		return 120
	}
	return columns
}

// render makes the table, its lines cut to the width.
func render(rows []Row, now time.Time, width int) string {
	slices.SortFunc(rows, func(a, b Row) int { return strings.Compare(a.Pod, b.Pod) })
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "POD\tPHASE\tREADY\tRESTARTS\tIP\tFOR\tWHY")
	for _, r := range rows {
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%s\t%s\t%s\n", r.Pod, r.Phase, r.Ready, r.Restarts, r.IP, age(now.Sub(r.Since)), r.Why)
	}
	_ = t.Flush()
	lines := strings.Split(strings.TrimRight(b.String(), "\n"), "\n")
	for i, line := range lines {
		if runes := []rune(line); len(runes) > width {
			lines[i] = string(runes[:width-1]) + "…"
		}
	}
	return strings.Join(lines, "\n") + "\n"
}

func age(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%ds", int(d.Minutes()), int(d.Seconds())%60)
	default:
		return fmt.Sprintf("%dh%dm", int(d.Hours()), int(d.Minutes())%60)
	}
}
