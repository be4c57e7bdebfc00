// Package sourcetest is the corpus of static pod manifests that the unit
// tests of package source and the differential test against the upstream
// kubelet share. It reads testdata and is for tests only.
package sourcetest

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"
)

// Verdict is what is expected of a manifest, by upstream's rules.
type Verdict string

// Verdicts, as the corpus writes them.
const (
	OK      Verdict = "ok"
	Refused Verdict = "refused"
	Unsaid  Verdict = "" // whatever upstream says
)

// Manifest is one entry of the corpus.
type Manifest struct {
	Name string // file and title
	Text string
	Want Verdict
}

// Corpus returns the manifests below dir, internal/source/testdata. Those in
// whole/ are files as they are, named after what is expected of them. Those
// in cases/ are YAML documents that a minimal pod is completed from; the
// first line of each says what is expected and why.
func Corpus(dir string) ([]Manifest, error) {
	var all []Manifest
	whole, err := filepath.Glob(filepath.Join(dir, "whole", "*"))
	if err != nil {
		return nil, err
	}
	for _, f := range whole {
		data, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		m := Manifest{Name: filepath.Base(f), Text: string(data)}
		switch base := strings.TrimSuffix(m.Name, filepath.Ext(m.Name)); {
		case strings.HasSuffix(base, "-ok"):
			m.Want = OK
		case strings.HasSuffix(base, "-refused"):
			m.Want = Refused
		}
		all = append(all, m)
	}
	cases, err := filepath.Glob(filepath.Join(dir, "cases", "*.yaml"))
	if err != nil {
		return nil, err
	}
	for _, f := range cases {
		data, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		family := strings.TrimSuffix(filepath.Base(f), ".yaml")
		for _, doc := range strings.Split(string(data), "\n---\n") {
			title, _, _ := strings.Cut(strings.TrimPrefix(doc, "# "), "\n")
			want, why, ok := strings.Cut(title, ": ")
			if !ok || (want != string(OK) && want != string(Refused)) {
				return nil, fmt.Errorf("%s: case starts with %q, not with what is expected", f, title)
			}
			var pod map[string]any
			if err := yaml.Unmarshal([]byte(doc), &pod); err != nil {
				return nil, fmt.Errorf("%s: %s: %w", f, title, err)
			}
			text, err := json.Marshal(complete(pod))
			if err != nil {
				return nil, fmt.Errorf("%s: %s: %w", f, title, err)
			}
			all = append(all, Manifest{Name: family + ": " + why, Text: string(text), Want: Verdict(want)})
		}
	}
	return all, nil
}

// complete gives a case what each pod has to have.
func complete(pod map[string]any) map[string]any {
	if pod == nil {
		pod = map[string]any{}
	}
	orElse(pod, "apiVersion", "v1")
	orElse(pod, "kind", "Pod")
	orElse(pod, "metadata", map[string]any{})
	orElse(pod, "spec", map[string]any{})
	if m, ok := pod["metadata"].(map[string]any); ok {
		orElse(m, "name", "web")
	}
	spec, ok := pod["spec"].(map[string]any)
	if !ok {
		return pod
	}
	orElse(spec, "containers", []any{map[string]any{}})
	for _, list := range []string{"containers", "initContainers"} {
		containers, _ := spec[list].([]any)
		for i, c := range containers {
			if c, ok := c.(map[string]any); ok {
				orElse(c, "name", fmt.Sprintf("%c%d", list[0], i))
				orElse(c, "image", "example.com/app:1")
			}
		}
	}
	return pod
}

func orElse(m map[string]any, key string, value any) {
	if _, ok := m[key]; !ok {
		m[key] = value
	}
}
