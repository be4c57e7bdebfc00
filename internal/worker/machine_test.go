package worker

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kubelet/internal/admission"
	"kubelet/internal/status"
)

var update = flag.Bool("update", false, "rewrite the transcripts with what happens now")

// TestMachine replays the transcripts under testdata/machine: one event a
// line, and behind the arrow the state that it leads to with the commands.
func TestMachine(t *testing.T) {
	files, _ := filepath.Glob("testdata/machine/*.txt")
	if len(files) == 0 {
		t.Fatal("no transcripts in testdata/machine")
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var state State
			var got strings.Builder
			for line := range strings.Lines(string(text)) {
				input, _, _ := strings.Cut(strings.TrimSpace(line), "=>")
				input = strings.TrimSpace(input)
				switch {
				case input == "" || strings.HasPrefix(input, "#"):
					got.WriteString(line)
					continue
				case input == "new":
					state = State{}
					got.WriteString("new\n")
					continue
				}
				var commands []Command
				state, commands = Step(state, parseEvent(t, input))
				fmt.Fprintf(&got, "%-32s => %s", input, state)
				for _, c := range commands {
					fmt.Fprintf(&got, " !%s", c)
				}
				got.WriteByte('\n')
			}
			if *update {
				if err := os.WriteFile(file, []byte(got.String()), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got.String() != string(text) {
				t.Errorf("transcript differs (run with -update to accept):\n%s", got.String())
			}
		})
	}
}

func parseEvent(t *testing.T, text string) Event {
	t.Helper()
	words := strings.Fields(text)
	duration := func() time.Duration {
		d, err := time.ParseDuration(words[len(words)-1])
		if err != nil {
			t.Fatalf("event %q: %v", text, err)
		}
		return d
	}
	switch words[0] {
	case "claimed":
		return Claimed{Accepted: len(words) > 1}
	case "accept":
		return Judged{admission.Verdict{Decision: admission.Accept}}
	case "wait":
		return Judged{admission.Verdict{Decision: admission.Wait}}
	case "reject":
		return Judged{admission.Verdict{Decision: admission.Reject, Reason: words[1], Message: words[1]}}
	case "started":
		return Started{}
	case "sandbox-lost":
		return SandboxLost{}
	case "deleted":
		return Deleted{duration()}
	case "removed":
		return Removed{duration()}
	case "evicted":
		return Evicted{status.Failure{Reason: words[1]}, duration()}
	case "deadline":
		return DeadlineExceeded{duration()}
	case "ended":
		return Ended{duration()}
	case "stopped":
		return Stopped{}
	case "clean":
		return Clean{}
	}
	t.Fatalf("unknown event %q", text)
	return nil
}
