package image

import (
	"cmp"
	"os"
	"strings"
	"testing"
)

func TestReferences(t *testing.T) {
	data, err := os.ReadFile("testdata/references.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		name, want, _ := strings.Cut(strings.TrimSpace(line), "=>")
		name, want = strings.TrimSpace(name), strings.TrimSpace(want)
		got := "error"
		if r, err := parseReference(name); err == nil {
			got = strings.Join([]string{r.repository(), cmp.Or(r.tag, "-"), cmp.Or(r.digest, "-"), r.pullName()}, " ")
		}
		if got != want {
			t.Errorf("%q\n got %s\nwant %s", name, got, want)
		}
	}
	if _, err := parseReference("a:" + strings.Repeat("x", 129)); err == nil {
		t.Error("tag of 129 characters accepted")
	}
	if _, err := parseReference("x.io/" + strings.Repeat("a", 256)); err == nil {
		t.Error("repository of 256 characters accepted")
	}
}

func FuzzParseReference(f *testing.F) {
	f.Add("nginx:1.27")
	f.Add("[::1]:5000/a/b@sha256:x")
	f.Fuzz(func(t *testing.T, s string) {
		r, err := parseReference(s)
		if err != nil {
			return
		}
		// What is pulled must mean the same when it is read again.
		again, err := parseReference(r.pullName())
		if err != nil || again.repository() != r.repository() || again.tag != r.tag || again.digest != r.digest {
			t.Fatalf("%q is pulled as %q, which reads as %+v, %v", s, r.pullName(), again, err)
		}
		if strings.ContainsAny(r.repository(), " \t\n\x00@") {
			t.Fatalf("repository %q", r.repository())
		}
	})
}
