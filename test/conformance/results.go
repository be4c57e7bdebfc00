package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"kubelet/test/harness"
)

// test is what became of a test.
type test struct {
	Group   string  `json:"group"`
	State   string  `json:"state"` // of ginkgo: passed, failed, skipped, panicked, timedout, interrupted
	Seconds float64 `json:"seconds"`
	Message string  `json:"message,omitempty"`
	Date    string  `json:"date,omitempty"` // of the run, 2026-11-27
}

func (t test) passed() bool { return t.State == "passed" }

// skipped says that the test found the machine to be without what it needs.
func (t test) skipped() bool { return t.State == "skipped" }

// record is the last result of each test for one kubelet on one runtime. Runs
// of a part of the suite add to it.
type record struct {
	Kubelet    string          `json:"kubelet"`
	Containerd string          `json:"containerd"`
	Runtime    string          `json:"runtime"`
	Versions   string          `json:"versions"` // of the last run
	Tests      map[string]test `json:"tests"`

	path string
}

// title names the runtime of a record.
func (r *record) title() string { return "containerd " + r.Containerd + ", " + r.Runtime }

// recordName is the file of a record; empty for a kubelet of which none is
// kept.
func recordName(kubelet, containerd, runtime string) string {
	switch kubelet {
	case "", own:
		kubelet = own
	case upstream:
	default:
		return ""
	}
	return filepath.Join(harness.CacheDir(), "conformance-v1.37.2", "results", kubelet+"-containerd-"+containerd+"-"+runtime+".json")
}

// newRecord is the record that a run on a node adds to.
func newRecord(ctx context.Context, kubelet string, node *harness.Node) (*record, error) {
	versions, err := node.RuntimeVersions(ctx)
	if err != nil {
		return nil, err
	}
	return &record{
		Kubelet: cmp.Or(kubelet, own), Containerd: node.Containerd, Runtime: node.OCIRuntime, Versions: versions,
		path: recordName(kubelet, node.Containerd, node.OCIRuntime),
	}, nil
}

// merge adds a run to what is recorded.
func (r *record) merge(tests map[string]test) error {
	if r.path == "" {
		return nil
	}
	old, err := readRecord(r.path)
	if err != nil {
		return err
	}
	r.Tests = old.Tests
	for name, t := range tests {
		t.Date = time.Now().Format(time.DateOnly)
		r.Tests[name] = t
	}
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return fmt.Errorf("encode results: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(r.path), 0o755); err != nil {
		return fmt.Errorf("keep results: %w", err)
	}
	if err := os.WriteFile(r.path+".tmp", text, 0o644); err != nil {
		return fmt.Errorf("keep results: %w", err)
	}
	if err := os.Rename(r.path+".tmp", r.path); err != nil {
		return fmt.Errorf("keep results: %w", err)
	}
	return nil
}

// readRecord returns an empty record if there is none.
func readRecord(path string) (*record, error) {
	r := &record{Tests: map[string]test{}}
	text, err := os.ReadFile(path)
	if path == "" || errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read recorded results: %w", err)
	}
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("decode recorded results %s: %w", path, err)
	}
	return r, nil
}

// tags are the labels at the end of a text of the suite.
var tags = regexp.MustCompile(`( \[[^\]]*\])+$`)

// group is the part of the suite that a test belongs to: its first text that
// is more than the name of a special interest group.
func group(texts []string) string {
	sig := ""
	for _, t := range texts {
		if strings.HasPrefix(t, "[sig-") && strings.HasSuffix(t, "]") && !strings.Contains(t, " ") {
			sig = t + " "
			continue
		}
		return sig + tags.ReplaceAllString(t, "")
	}
	return strings.TrimSpace(sig)
}

// cause is why some tests cannot pass here.
type cause struct {
	text     string
	patterns []*regexp.Regexp
}

// readImpossible reads impossible.txt.
func readImpossible() ([]cause, error) {
	const path = "test/conformance/impossible.txt"
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read what is not possible here: %w", err)
	}
	var causes []cause
	for i, line := range strings.Split(string(text), "\n") {
		switch trimmed := strings.TrimSpace(line); {
		case trimmed == "" || strings.HasPrefix(line, "#"):
		case trimmed == line:
			causes = append(causes, cause{text: trimmed})
		case len(causes) == 0:
			return nil, fmt.Errorf("%s:%d: a pattern before the first cause", path, i+1)
		default:
			pattern, err := regexp.Compile(trimmed)
			if err != nil {
				return nil, fmt.Errorf("%s:%d: %w", path, i+1, err)
			}
			c := &causes[len(causes)-1]
			c.patterns = append(c.patterns, pattern)
		}
	}
	return causes, nil
}

// causeOf is why a test cannot pass here, or empty.
func causeOf(causes []cause, name string) string {
	for _, c := range causes {
		for _, p := range c.patterns {
			if p.MatchString(name) {
				return c.text
			}
		}
	}
	return ""
}
