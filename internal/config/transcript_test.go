package config

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite golden files and docs/compatibility.md")

// TestTranscripts runs each testdata/*.txt: an argument list and files in, the
// fields named under "show", warnings and errors out. $DIR is the directory of
// the files.
func TestTranscripts(t *testing.T) {
	cases, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(cases) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, name := range cases {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txt"), func(t *testing.T) {
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			head, sections := splitSections(string(data))
			dir := t.TempDir()
			var args, show []string
			want := ""
			for _, s := range sections {
				switch s.name {
				case "args":
					args = strings.Fields(strings.ReplaceAll(s.body, "$DIR", dir))
				case "show":
					show = strings.Fields(s.body)
				case "out":
					want = s.body
				default:
					path := filepath.Join(dir, s.name)
					if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
						t.Fatal(err)
					}
					if err := os.WriteFile(path, []byte(s.body), 0o644); err != nil {
						t.Fatal(err)
					}
				}
			}
			got := strings.ReplaceAll(runTranscript(args, show), dir, "$DIR")
			if *update {
				rewriteSection(t, name, head, sections, got)
				return
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s (-want +got, -update rewrites):\n%s", head, diff)
			}
		})
	}
}

func runTranscript(args, show []string) string {
	var out strings.Builder
	cfg, err := Parse(args)
	if err != nil {
		for line := range strings.Lines(err.Error() + "\n") {
			out.WriteString("error: " + line)
		}
		return out.String()
	}
	for _, path := range show {
		var value any
		switch {
		case strings.HasPrefix(path, "gate:"):
			value = cfg.Gates.Enabled(Gate(strings.TrimPrefix(path, "gate:")))
		case path == "nodeLabels":
			value = cfg.Flags.NodeLabels
		default:
			value = valueAt(&cfg.Kubelet, path)
		}
		data, err := json.Marshal(value)
		if err != nil {
			return err.Error()
		}
		out.WriteString(path + " = " + string(data) + "\n")
	}
	for _, warning := range cfg.Warnings {
		out.WriteString("warning: " + warning + "\n")
	}
	return out.String()
}

type section struct{ name, body string }

// splitSections reads "-- name --" headed sections after a comment.
func splitSections(text string) (head string, sections []section) {
	for line := range strings.Lines(text) {
		trimmed := strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(trimmed, "-- ") && strings.HasSuffix(trimmed, " --"):
			sections = append(sections, section{name: strings.TrimSpace(strings.Trim(trimmed, "-"))})
		case len(sections) == 0:
			head += line
		default:
			sections[len(sections)-1].body += line
		}
	}
	return head, sections
}

func rewriteSection(t *testing.T, name, head string, sections []section, got string) {
	var out strings.Builder
	out.WriteString(head)
	for _, s := range sections {
		if s.name != "out" {
			out.WriteString("-- " + s.name + " --\n" + s.body)
		}
	}
	out.WriteString("-- out --\n" + got)
	if err := os.WriteFile(name, []byte(out.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}
