package explain

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"k8s.io/apimachinery/pkg/util/duration"
)

// maxCell bounds a column of the list, in bytes; the detailed view has all.
const maxCell = 60

func writeList(w io.Writer, pods []Pod, now time.Time) error {
	if len(pods) == 0 {
		_, err := fmt.Fprintln(w, "This kubelet has no pods.")
		return err
	}
	var b bytes.Buffer
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "POD\tSTAGE\tOBJECT\tSINCE\tWAITS FOR\tNEXT TRY")
	for _, p := range pods {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n",
			clean(p.Namespace+"/"+p.Name), p.Stage, cell(p.Object), since(p.Since, now),
			cell(cmp.Or(p.WaitsFor, p.LastError)), until(p.NextRetry, now))
	}
	t.Flush()
	_, err := w.Write(trimLines(b.Bytes()))
	return err
}

func writeDetail(w io.Writer, p Pod, now time.Time) error {
	var b bytes.Buffer
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	row := func(name, value string) {
		if value != "" {
			fmt.Fprintf(t, "%s:\t%s\n", name, value)
		}
	}
	row("Pod", clean(p.Namespace+"/"+p.Name))
	row("UID", clean(string(p.UID)))
	row("Stage", string(p.Stage))
	row("Object", clean(p.Object))
	if !p.Since.IsZero() {
		row("Since", fmt.Sprintf("%s (%s ago)", p.Since.Format(time.RFC3339), since(p.Since, now)))
	}
	row("Waits for", clean(p.WaitsFor))
	if p.Attempts > 0 {
		row("Failed", fmt.Sprintf("%d times", p.Attempts))
	}
	row("Last error", clean(p.LastError))
	if !p.NextRetry.IsZero() {
		row("Next try", fmt.Sprintf("%s (%s)", p.NextRetry.Format(time.RFC3339), until(p.NextRetry, now)))
	}
	t.Flush()
	if len(p.Events) > 0 {
		fmt.Fprintln(&b, "\nLately:")
		for _, e := range p.Events {
			fmt.Fprintf(t, "  %s ago\t%s\t%s\t%s\n", since(e.Time, now), clean(e.Type), clean(e.Reason), clean(e.Message))
		}
		t.Flush()
	}
	_, err := w.Write(trimLines(b.Bytes()))
	return err
}

func cell(s string) string { return cmp.Or(cut(clean(s), maxCell), "-") }

func since(t, now time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return duration.HumanDuration(max(now.Sub(t), 0))
}

func until(t, now time.Time) string {
	switch {
	case t.IsZero():
		return "-"
	case !t.After(now):
		return "now"
	}
	return "in " + duration.HumanDuration(t.Sub(now))
}

// trimLines drops the blanks that a table leaves at the ends of lines.
func trimLines(text []byte) []byte {
	var b bytes.Buffer
	for line := range bytes.Lines(text) {
		b.WriteString(strings.TrimRight(string(line), " \n"))
		b.WriteByte('\n')
	}
	return b.Bytes()
}
