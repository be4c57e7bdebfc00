package explain

import (
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"sigs.k8s.io/yaml"
)

func TestSinceIsKeptWithinAStage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := NewTable()
		start := time.Now()
		table.Set(Entry{UID: "a", Stage: Image, Object: "nginx"})
		time.Sleep(time.Minute)
		table.Set(Entry{UID: "a", Stage: Image, Object: "nginx", LastError: "no", Attempts: 1})
		if e, _ := table.Get("a"); !e.Since.Equal(start) || e.LastError != "no" {
			t.Errorf("same stage: %+v", e)
		}
		table.Set(Entry{UID: "a", Stage: Image, Object: "redis"})
		if e, _ := table.Get("a"); !e.Since.Equal(start.Add(time.Minute)) {
			t.Errorf("other object: %+v", e)
		}
		table.Set(Entry{UID: "a", Stage: Running, Since: start})
		if e, _ := table.Get("a"); !e.Since.Equal(start) {
			t.Errorf("given time: %+v", e)
		}
		table.Delete("a")
		if _, ok := table.Get("a"); ok || len(table.Snapshot()) != 0 {
			t.Error("deleted entry is still there")
		}
	})
}

func TestSnapshotOrder(t *testing.T) {
	table := NewTable()
	for _, e := range []Entry{{UID: "3", Namespace: "b", Name: "a"}, {UID: "2", Namespace: "a", Name: "b"}, {UID: "1", Namespace: "a", Name: "b"}} {
		table.Set(e)
	}
	var got string
	for _, e := range table.Snapshot() {
		got += string(e.UID)
	}
	if got != "123" {
		t.Errorf("order %s", got)
	}
}

func TestChanged(t *testing.T) {
	table := NewTable()
	isClosed := func(c <-chan struct{}) bool {
		select {
		case <-c:
			return true
		default:
			return false
		}
	}
	first := table.Changed()
	if isClosed(first) {
		t.Error("closed before any change")
	}
	table.Set(Entry{UID: "a", Stage: Running})
	if !isClosed(first) {
		t.Error("a new entry is no change")
	}
	second := table.Changed()
	table.Set(Entry{UID: "a", Stage: Running}) // the same again
	if isClosed(second) {
		t.Error("the same entry again is a change")
	}
	table.Delete("a")
	if !isClosed(second) {
		t.Error("a deletion is no change")
	}
}

func TestLine(t *testing.T) {
	data, err := os.ReadFile("testdata/lines.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Entry Entry  `json:"entry"`
		Line  string `json:"line"`
	}
	if err := yaml.UnmarshalStrict(data, &cases); err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 5, 4, 10, 0, 0, 0, time.UTC)
	for _, c := range cases {
		if got := Line(c.Entry, now); got != c.Line {
			t.Errorf("got  %s\nwant %s", got, c.Line)
		}
		// As time goes by the text stays, except that a try that is due is
		// no longer announced.
		if later := Line(c.Entry, now.Add(9*time.Second)); later != c.Line {
			t.Errorf("9 s later: %s", later)
		}
	}
}

func TestLongErrorsAreCut(t *testing.T) {
	line := Line(Entry{Stage: Sandbox, LastError: strings.Repeat("ä", 10000)}, time.Time{})
	if len(line) > maxError+64 || !utf8.ValidString(line) || !strings.HasSuffix(line, "…") {
		t.Errorf("%d bytes", len(line))
	}
}

func FuzzLine(f *testing.F) {
	f.Add("o\x1b[2J", "w\r\n", "\xff\xfe")
	f.Fuzz(func(t *testing.T, object, waits, last string) {
		line := Line(Entry{Stage: Image, Object: object, WaitsFor: waits, LastError: last}, time.Time{})
		if strings.ContainsFunc(line, unprintable) || !utf8.ValidString(line) {
			t.Fatalf("not fit for a terminal: %q", line)
		}
	})
}
