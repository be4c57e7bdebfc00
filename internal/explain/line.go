package explain

import (
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// maxError bounds how much of an error a line carries, in bytes.
const maxError = 512

// Line is the one-line form for conditions:
//
//	Image nginx:1.27: waits for the pull to be tried again; 3 attempts failed, last error: no such host; next try at 2026-05-04T10:11:12Z
//
// It changes only when the entry does, and once when the next try is due:
// durations that tick would make every status differ from the one before.
func Line(e Entry, now time.Time) string {
	var b strings.Builder
	b.WriteString(string(e.Stage))
	if e.Object != "" {
		b.WriteByte(' ')
		b.WriteString(clean(e.Object))
	}
	separator := ": "
	add := func(format string, args ...any) {
		b.WriteString(separator)
		fmt.Fprintf(&b, format, args...)
		separator = "; "
	}
	if e.WaitsFor != "" {
		add("waits for %s", clean(e.WaitsFor))
	}
	last := cut(clean(e.LastError), maxError)
	switch {
	case e.Attempts == 1:
		add("1 attempt failed")
	case e.Attempts > 1:
		add("%d attempts failed", e.Attempts)
	}
	if last != "" {
		if e.Attempts > 0 {
			separator = ", "
		}
		add("last error: %s", last)
	}
	if e.NextRetry.After(now) {
		add("next try at %s", e.NextRetry.UTC().Format(time.RFC3339))
	}
	return b.String()
}

// clean makes text from outside (errors of runtimes, above all) fit for one
// line on a terminal: no line breaks, no control sequences.
func clean(s string) string {
	s = strings.TrimSpace(s)
	if !strings.ContainsFunc(s, unprintable) && utf8.ValidString(s) {
		return s
	}
	s = strings.Map(func(r rune) rune {
		if unprintable(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	return strings.Join(strings.Fields(s), " ")
}

func unprintable(r rune) bool { return !unicode.IsPrint(r) }

// cut shortens s to at most n bytes, at the border of a character.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	n -= len("…")
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}
