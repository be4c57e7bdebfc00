package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"kubelet/test/harness"
)

// Command lines and configurations that a kubelet must refuse, with what it
// says. The cases stand in testdata/refused.yaml.
func TestRefusedStarts(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("testdata/refused.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Name   string   `json:"name"`
		Args   []string `json:"args"`
		Config string   `json:"config"`
		// Code is the exit code: 2 for wrong usage, 1 for a start that failed.
		// The upstream kubelet has 1 for both.
		Code   int      `json:"code"`
		Output []string `json:"output"`
	}
	if err := yaml.UnmarshalStrict(text, &cases); err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			args := append([]string{"--root-dir=/run/refused/" + filepath.Base(t.Name())}, c.Args...)
			if c.Config != "" {
				file := "/run/refused/" + filepath.Base(t.Name()) + ".yaml"
				if err := node.WriteFile(file, c.Config, 0o644); err != nil {
					t.Fatal(err)
				}
				args = append(args, "--config="+file)
			}
			out, code, err := node.RunKubelet(t.Context(), args...)
			if err != nil {
				t.Fatalf("it did not end: %v\n%s", err, out)
			}
			if want := c.Code; code != want && !(harness.Upstream() && code == 1) {
				t.Errorf("exit code %d, want %d", code, want)
			}
			for _, want := range c.Output {
				if !strings.Contains(out, want) {
					t.Errorf("the output lacks %q:\n%s", want, out)
				}
			}
		})
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	out, code, err := node.RunKubelet(t.Context(), "--version")
	if err != nil || code != 0 || !strings.HasPrefix(out, "Kubernetes v1.37.") {
		t.Errorf("--version: %q, code %d, %v", out, code, err)
	}
}
