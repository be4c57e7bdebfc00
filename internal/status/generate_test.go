package status

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"kubelet/internal/observed"
)

var update = flag.Bool("update", false, "write the expected statuses anew")

// A file of testdata/generate is the life of one pod: after "-- pod --" its
// manifest, then pairs of "-- <what happens> --" with what is observed, and
// "-- status --" with what changes in the status: the patch that goes to the
// API server. Each step's status is the Previous of the next; a second passes
// with each step, unless it says "at".
type section struct {
	title, body string
}

func sections(t *testing.T, text string) []section {
	t.Helper()
	var list []section
	for _, line := range strings.SplitAfter(text, "\n") {
		if title, ok := strings.CutPrefix(line, "-- "); ok && strings.HasSuffix(line, " --\n") {
			list = append(list, section{title: strings.TrimSuffix(title, " --\n")})
			continue
		}
		if len(list) == 0 {
			list = append(list, section{})
		}
		list[len(list)-1].body += line
	}
	return list
}

// step is what is observed, in the words of a person.
type step struct {
	At          int // seconds since the start
	Sandboxes   []sandboxStep
	Containers  []containerStep // newest first
	Waiting     map[string]v1.ContainerStateWaiting
	Failure     *Failure
	Ended       bool
	Terminating bool
	VolumesWait bool
	Explanation string
	Probes      map[string]ProbeResult
	// RestartingAll names the container that restarts all.
	RestartingAll string
	HostIPs       []string
	// PodStatus replaces the status in the API object.
	PodStatus *v1.PodStatus
	// Previous replaces the status generated last.
	Previous   *v1.PodStatus
	Generation int64
	Deleted    bool
}

type sandboxStep struct {
	ID       string
	NotReady bool
	IPs      []string
}

type containerStep struct {
	Name    string
	ID      string
	Sandbox string
	State   string // running, exited, created, unknown
	Attempt uint32
	Started int
	Ended   int
	Exit    int32
	Reason  string
	Message string
	Signal  v1.Signal
}

var start = time.Date(2026, 1, 2, 3, 4, 5, 678, time.UTC)

func at(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }

func (s step) observed() observed.Pod {
	var p observed.Pod
	for _, b := range s.Sandboxes {
		p.Sandboxes = append(p.Sandboxes, observed.Sandbox{ID: b.ID, Ready: !b.NotReady, IPs: b.IPs})
	}
	states := map[string]observed.ContainerState{
		"running": observed.Running, "exited": observed.Exited, "created": observed.Created, "unknown": observed.Unknown,
	}
	for _, c := range s.Containers {
		state, ok := states[c.State]
		if !ok {
			panic("state " + c.State)
		}
		o := observed.Container{
			ID: c.ID, Name: c.Name, SandboxID: c.Sandbox, State: state, Attempt: c.Attempt,
			Image: "reg/" + c.Name + ":1", ImageRef: "sha256:" + c.Name,
			ExitCode: c.Exit, Reason: c.Reason, Message: c.Message, StopSignal: c.Signal,
		}
		if state == observed.Running || state == observed.Exited {
			o.StartedAt = at(c.Started)
		}
		if state == observed.Exited {
			o.FinishedAt = at(c.Ended)
		}
		p.Containers = append(p.Containers, o)
	}
	return p
}

func TestGenerate(t *testing.T) {
	files, err := filepath.Glob("testdata/generate/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no cases", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) { life(t, file) })
	}
}

func life(t *testing.T, file string) {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var (
		out      bytes.Buffer
		pod      v1.Pod
		previous v1.PodStatus
		input    Input
		n        int
	)
	for _, sec := range sections(t, string(text)) {
		if sec.title != "" {
			fmt.Fprintf(&out, "-- %s --\n", sec.title)
		}
		switch sec.title {
		case "":
			out.WriteString(sec.body)
		case "pod":
			out.WriteString(sec.body)
			if err := yaml.UnmarshalStrict([]byte(sec.body), &pod); err != nil {
				t.Fatal(err)
			}
		case "status":
			got := Generate(input)
			again := input
			again.Previous, again.Now = got, input.Now.Add(time.Hour)
			if second := Generate(again); !apiequality.Semantic.DeepEqual(got, second) {
				t.Errorf("step %d: asked again, the status differs:\n%s", n, cmp.Diff(got, second))
			}
			body := change(t, previous, got)
			if !*update && string(body) != sec.body {
				t.Errorf("step %d (run with -update to accept):\n%s", n, cmp.Diff(sec.body, string(body)))
			}
			out.Write(body)
			previous = got
		default:
			out.WriteString(sec.body)
			n++
			s := step{At: n, HostIPs: []string{"10.70.0.2"}}
			if err := yaml.UnmarshalStrict([]byte(sec.body), &s); err != nil {
				t.Fatalf("step %d: %v", n, err)
			}
			if s.PodStatus != nil {
				pod.Status = *s.PodStatus
			}
			if s.Previous != nil {
				previous = *s.Previous
			}
			if s.Generation != 0 {
				pod.Generation = s.Generation
			}
			if s.Deleted {
				pod.DeletionTimestamp = &metav1.Time{Time: at(s.At)}
			}
			input = Input{
				PodResources: true,
				Pod:          pod.DeepCopy(), Previous: previous, Observed: s.observed(), Waiting: s.Waiting, Failure: s.Failure,
				Ended: s.Ended, Terminating: s.Terminating, VolumesReady: !s.VolumesWait, Explanation: s.Explanation,
				Probes: s.Probes, RestartingAll: s.RestartingAll, StopSignals: true, RuntimeName: "containerd", HostIPs: s.HostIPs, Now: at(s.At),
			}
		}
	}
	if *update {
		if err := os.WriteFile(file, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// change is the patch from one status to the next, without the order of lists
// that the server is told.
func change(t *testing.T, from, to v1.PodStatus) []byte {
	t.Helper()
	body, err := patch(from, to)
	if err != nil {
		t.Fatal(err)
	}
	if body == nil {
		return []byte("nothing\n")
	}
	var top struct {
		Status map[string]any `json:"status"`
	}
	if err := yaml.Unmarshal(body, &top); err != nil {
		t.Fatal(err)
	}
	for key := range top.Status {
		if strings.HasPrefix(key, "$setElementOrder") {
			delete(top.Status, key)
		}
	}
	if conditions, ok := top.Status["conditions"].([]any); ok {
		for _, c := range conditions {
			if c := c.(map[string]any); c["lastProbeTime"] == nil {
				delete(c, "lastProbeTime")
			}
		}
	}
	body, err = yaml.Marshal(top.Status)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func BenchmarkGenerate(b *testing.B) {
	pod := &v1.Pod{}
	pod.Spec.Containers = []v1.Container{{Name: "app"}, {Name: "b"}}
	s := step{Sandboxes: []sandboxStep{{ID: "s", IPs: []string{"10.0.0.1"}}},
		Containers: []containerStep{{Name: "app", ID: "1", State: "running"}, {Name: "b", ID: "2", State: "running"}}}
	in := Input{PodResources: true, Pod: pod, Observed: s.observed(), VolumesReady: true, RuntimeName: "containerd", HostIPs: []string{"10.1.0.1"}, Now: start}
	in.Previous = Generate(in)
	b.ReportAllocs()
	for b.Loop() {
		Generate(in)
	}
}
