package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A report takes the place of the one before and nothing else, and names the
// goals that were missed.
func TestWriteInto(t *testing.T) {
	path := filepath.Join(t.TempDir(), "performance.md")
	if err := os.WriteFile(path, []byte("# Words\n\n"+documentBegin+"an old report\n"+documentEnd+"\nMore words\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	r := newReport(options{})
	w := r.row("1", "a pod", milliseconds)
	w.goal(ratio{of: ownColumn, to: floorColumn, most: 1.1}, ratio{of: ownColumn, to: upstreamColumn, most: 0.5})
	w.add(floorColumn, 100, 110, 120)
	w.add(upstreamColumn, 400, 410, 420)
	w.add(ownColumn, 130, 132, 140)
	for range 2 {
		if err := r.writeInto(path); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	got := string(text)
	for _, want := range []string{
		"# Words\n", "\nMore words\n", "1 of 2 goals met.", "- a pod: 1.20, goal ≤ 1.1 × floor\n", "(performance.svg)",
		"| 1 | a pod | ms | 110 / 120 (3) | 410 / 420 (3) | 132 / 140 (3) | 1.20 | 0.32 |",
	} {
		if strings.Count(got, want) != 1 {
			t.Errorf("not once in the document: %q", want)
		}
	}
	if strings.Contains(got, "old report") {
		t.Error("the old report is still there")
	}
	picture, err := os.ReadFile(strings.TrimSuffix(path, "md") + "svg")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(picture), "a pod") {
		t.Error("the picture does not show the row")
	}
}

// A document without a place for the report is left alone.
func TestWriteIntoOtherDocument(t *testing.T) {
	path := filepath.Join(t.TempDir(), "other.md")
	if err := os.WriteFile(path, []byte("words\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := newReport(options{}).writeInto(path); err == nil {
		t.Error("no error")
	}
	if text, _ := os.ReadFile(path); string(text) != "words\n" {
		t.Errorf("the document is now %q", text)
	}
}

func TestSlope(t *testing.T) {
	if got := slope([]float64{5, 10, 15, 20}, []float64{101, 112, 119, 132}); got != 2 {
		t.Errorf("slope %v, want 2", got)
	}
	if got := slope([]float64{5}, []float64{101}); got != 0 {
		t.Errorf("slope of one point %v, want 0", got)
	}
}
