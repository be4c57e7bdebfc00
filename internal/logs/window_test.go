package logs

import (
	"strings"
	"testing"
)

// What a container said last is found though its log was rotated meanwhile.
func TestWindow(t *testing.T) {
	w := newWorld(t)
	w.file("0.log.20260102-030404.gz", []byte(at(1)+" stdout F older\n"))
	w.file("0.log.20260102-030405", []byte(strings.Repeat(at(1)+" stdout F before\n", 100)))
	w.file("0.log", []byte(at(2)+" stdout F last words\n"))
	for _, tc := range []struct {
		max int64
		end string
	}{
		{10, "ast words\n"},
		{100, "before\n" + at(2) + " stdout F last words\n"},
		{1 << 20, "before\n" + at(2) + " stdout F last words\n"},
	} {
		got, err := Window(w.path("0.log"), tc.max)
		if text := string(got); err != nil || int64(len(got)) > tc.max || tc.max < 1000 && int64(len(got)) != tc.max || !strings.HasSuffix(text, tc.end) {
			t.Errorf("last %d bytes: %q, %v", tc.max, text, err)
		}
	}
	if _, err := Window(w.path("1.log"), 10); err == nil {
		t.Error("a log that is not there was read")
	}
}

func TestContent(t *testing.T) {
	for _, tc := range []struct {
		line, content string
		partial, ok   bool
	}{
		{at(1) + " stdout F hello world", "hello world", false, true},
		{at(1) + " stderr P half", "half", true, true},
		{at(1) + " stdout F ", "", false, true},
		{`{"log":"a\n","stream":"stdout","time":"2026-01-02T03:04:05Z"}`, "a", false, true},
		{":05Z stdout F cut off", "", false, false},
		{"", "", false, false},
	} {
		content, partial, ok := Content([]byte(tc.line))
		if string(content) != tc.content || partial != tc.partial || ok != tc.ok {
			t.Errorf("%q: %q %v %v", tc.line, content, partial, ok)
		}
	}
}
