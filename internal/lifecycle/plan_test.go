package lifecycle

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubelet/internal/cri"
	"kubelet/internal/observed"
	"kubelet/internal/podspec"
	"kubelet/internal/probe"
)

var update = flag.Bool("update", false, "rewrite the transcripts with what happens now")

// TestPlan replays the transcripts under testdata/plan. Lines without indent
// are what happens to the pod; the indented lines after them are what the
// plan then asks for, tells and waits for.
func TestPlan(t *testing.T) {
	files, _ := filepath.Glob("testdata/plan/*.txt")
	if len(files) == 0 {
		t.Fatal("no transcripts in testdata/plan")
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var got strings.Builder
			var st *stage
			for line := range strings.Lines(string(text)) {
				switch {
				case strings.HasPrefix(line, "#") || strings.TrimSpace(line) == "":
					got.WriteString(line)
					continue
				case strings.HasPrefix(line, " "):
					continue
				}
				got.WriteString(line)
				words := strings.Fields(line)
				if words[0] == "pod" {
					st = newStage(t, words[1:])
				} else {
					st.happen(t, words)
				}
				st.plan(&got)
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

// stage is one pod and a runtime that does exactly what a transcript says.
type stage struct {
	in      Input
	budget  int // restarts of crashing containers that are left
	began   time.Time
	pending map[Key]Action
	unseen  *Action // a start that ended and is not observed yet
}

func newStage(t *testing.T, words []string) *stage {
	pod := &v1.Pod{}
	pod.Name, pod.Namespace, pod.UID = "p", "default", "u1"
	began := time.Unix(0, 0).UTC()
	st := &stage{began: began, pending: map[Key]Action{}}
	st.in = Input{Now: began, Pod: pod, Probes: map[string]probe.Result{}, BesideSandbox: true, Crash: CrashPolicy{10 * time.Second, 5 * time.Minute}, Status: v1.PodStatus{StartTime: &metav1.Time{Time: began}}, Grace: 30 * time.Second}
	// A container is its name and marks: ! pulls always, * is a sidecar, ^ has
	// a postStart hook, $ a preStop hook, ? a startup probe, % a liveness
	// probe, ~POLICY a policy of its own, @CODE a rule to restart all.
	container := func(name string) v1.Container {
		base := name
		if k := strings.IndexAny(name, "!*^$?%~@"); k >= 0 {
			base = name[:k]
		}
		c := v1.Container{Name: base, Image: "img-" + base, ImagePullPolicy: v1.PullIfNotPresent}
		marks := name[len(base):]
		if m, text, found := strings.Cut(marks, "@"); found {
			code, _ := strconv.Atoi(text)
			c.RestartPolicyRules = []v1.ContainerRestartRule{{Action: v1.ContainerRestartRuleActionRestartAllContainers,
				ExitCodes: &v1.ContainerRestartRuleOnExitCodes{Operator: v1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{int32(code)}}}}
			marks = m
			c.RestartPolicy = new(v1.ContainerRestartPolicyNever)
		}
		if m, text, found := strings.Cut(marks, "~"); found {
			c.RestartPolicy = new(v1.ContainerRestartPolicy(text))
			marks = m
		}
		hook := &v1.LifecycleHandler{Sleep: &v1.SleepAction{}}
		for _, mark := range marks {
			if strings.ContainsRune("^$", mark) && c.Lifecycle == nil {
				c.Lifecycle = &v1.Lifecycle{}
			}
			switch mark {
			case '!':
				c.ImagePullPolicy = v1.PullAlways
			case '*':
				c.RestartPolicy = new(v1.ContainerRestartPolicyAlways)
			case '^':
				c.Lifecycle.PostStart = hook
			case '$':
				c.Lifecycle.PreStop = hook
			case '?':
				c.StartupProbe = &v1.Probe{}
			case '%':
				c.LivenessProbe = &v1.Probe{}
			}
		}
		return c
	}
	for _, w := range words {
		key, value, _ := strings.Cut(w, "=")
		switch key {
		case "policy":
			pod.Spec.RestartPolicy = v1.RestartPolicy(value)
		case "init":
			for name := range strings.SplitSeq(value, ",") {
				pod.Spec.InitContainers = append(pod.Spec.InitContainers, container(name))
			}
		case "containers":
			for name := range strings.SplitSeq(value, ",") {
				pod.Spec.Containers = append(pod.Spec.Containers, container(name))
			}
		case "deadline":
			s, _ := strconv.ParseInt(value, 10, 64)
			pod.Spec.ActiveDeadlineSeconds = &s
		case "budget":
			st.budget, _ = strconv.Atoi(value)
			st.in.Budgeted = true
		case "volumes-first":
			st.in.BesideSandbox = false
		case "resources": // NAME:REQUEST/LIMIT of CPU and memory, * for the pod
			for text := range strings.SplitSeq(value, ";") {
				name, amounts, _ := strings.Cut(text, ":")
				resize(t, pod, name, amounts)
			}
		case "restarts": // NAME:RESOURCE
			for text := range strings.SplitSeq(value, ",") {
				name, resource, _ := strings.Cut(text, ":")
				c, _ := podspec.FindContainer(pod, name)
				c.ResizePolicy = append(c.ResizePolicy, v1.ContainerResizePolicy{ResourceName: v1.ResourceName(resource), RestartPolicy: v1.RestartContainer})
			}
		case "objects-pending":
			st.in.BesideSandbox, st.in.ObjectsPending = false, true
		default:
			t.Fatalf("unknown word %q", w)
		}
	}
	return st
}

// happen lets one line of a transcript come true.
func (st *stage) happen(t *testing.T, words []string) {
	t.Helper()
	rest := strings.Join(words[1:], " ")
	switch words[0] {
	case "wait":
		d, err := time.ParseDuration(words[1])
		if err != nil {
			t.Fatal(err)
		}
		st.in.Now = st.in.Now.Add(d)
	case "done":
		for _, w := range words[1:] {
			st.done(t, w)
		}
	case "fail", "lost":
		key := st.find(t, words[1])
		delete(st.pending, key)
		st.in.History.End(Result{Key: key, Err: fmt.Errorf("%s", strings.Join(words[2:], " ")),
			Reason: map[Kind]string{StartContainer: "CreateContainerError", PostStart: "PostStartHookError"}[key.Kind], Unknown: words[0] == "lost"}, st.in.Now)
	case "unseen": // done, and the runtime does not tell
		key := st.find(t, words[1])
		a := st.pending[key]
		st.unseen = &a
		delete(st.pending, key)
		st.in.History.End(Result{Key: key, Unseen: st.in.Now}, st.in.Now)
	case "exit":
		code, _ := strconv.Atoi(words[2])
		c := st.container(words[1])
		c.State, c.ExitCode, c.FinishedAt = observed.Exited, int32(code), st.in.Now
	case "forget": // the runtime does
		st.in.Observed.Containers = slices.DeleteFunc(st.in.Observed.Containers, func(c observed.Container) bool { return c.Name == words[1] })
	case "appears": // a late answer of the runtime
		st.appear(Action{Key: Key{StartContainer, words[1]}, SandboxID: st.in.Observed.Sandboxes[0].ID}, observed.Created)
	case "sandbox-dies":
		st.in.Observed.Sandboxes[0].Ready = false
	case "image":
		for i := range st.in.Pod.Spec.Containers {
			if c := &st.in.Pod.Spec.Containers[i]; c.Name == words[1] {
				c.Image = words[2]
			}
		}
	case "resize": // NAME REQUEST/LIMIT of CPU and memory, and so on
		st.in.Pod = st.in.Pod.DeepCopy()
		for i := 1; i+1 < len(words); i += 2 {
			resize(t, st.in.Pod, words[i], words[i+1])
		}
		st.in.History.Renew(ResizePod, ResizeContainer)
	case "held": // Prepare is done and left limits higher
		key := st.find(t, words[1])
		a := st.pending[key]
		delete(st.pending, key)
		st.in.History.End(Result{Key: key, Amounts: a.Amounts, Over: true}, st.in.Now)
	case "in-use": // the limit cannot become lower
		key := st.find(t, words[1])
		a := st.pending[key]
		delete(st.pending, key)
		st.in.History.End(Result{Key: key, Err: errors.New("below current usage"), Amounts: a.Amounts, AtLeast: true}, st.in.Now)
	case "foreign": // another kubelet made the container
		st.container(words[1]).Annotations = nil
	case "actuated": // NAME REQUEST/LIMIT of CPU and memory: what it wrote down
		st.in.Actuated = st.in.Pod.DeepCopy()
		resize(t, st.in.Actuated, words[1], words[2])
	case "allocate":
		st.in.Allocate = st.in.Pod
	case "objects-read":
		st.in.BesideSandbox, st.in.ObjectsPending = true, false
	case "objects-fail":
		st.in.ObjectsPending = false
	case "agent-restarts": // the journal is what is left
		st.in.History, st.pending = History{Lives: st.in.History.Kept, Kept: st.in.History.Kept}, map[Key]Action{}
	case "journal-lost":
		st.in.History.Lives, st.in.History.Kept = nil, nil
	case "told": // NAME..., how these containers are
		for _, name := range words[1:] {
			st.told(st.container(name))
		}
	case "runtime-loses-all":
		st.in.Observed.Sandboxes, st.in.Observed.Containers = nil, nil
	case "probe": // NAME started | failed startup|liveness [grace]
		c := st.container(words[1])
		r := probe.Result{State: probe.State{Started: true, Ready: true}}
		if words[2] == "failed" {
			r.Failed = &probe.Failure{Kind: probe.Liveness, Message: "no answer"}
			if words[3] == "startup" {
				r.State, r.Failed.Kind = probe.State{}, probe.Startup
			}
			if len(words) > 4 {
				grace, _ := strconv.ParseInt(words[4], 10, 64)
				r.Failed.Grace = &grace
			}
		}
		st.in.Probes[c.ID] = r
	case "debug": // NAME [TARGET], kubectl debug
		e := v1.EphemeralContainer{EphemeralContainerCommon: v1.EphemeralContainerCommon{Name: words[1], Image: "img-" + words[1]}}
		if len(words) > 2 {
			e.TargetContainerName = words[2]
		}
		st.in.Pod.Spec.EphemeralContainers = append(st.in.Pod.Spec.EphemeralContainers, e)
	case "terminate":
		if grace, err := time.ParseDuration(rest); err == nil {
			st.in.Grace = grace
		}
		if st.in.Mode != Terminate {
			st.in.Mode, st.in.Since = Terminate, st.in.Now
		}
	case "finish":
		st.in.Mode = Finish
		st.in.Gone, st.in.Delete, st.in.Silent = rest == "gone", rest == "delete", rest == "gone"
	default:
		t.Fatalf("unknown line %q", words)
	}
}

// told puts a container's state into the status.
func (st *stage) told(c *observed.Container) {
	told := v1.ContainerStatus{Name: c.Name, ContainerID: "containerd://" + c.ID, RestartCount: int32(c.Attempt)}
	if c.State == observed.Exited {
		told.State.Terminated = &v1.ContainerStateTerminated{ExitCode: c.ExitCode}
	} else {
		told.State.Running = &v1.ContainerStateRunning{}
	}
	list := &st.in.Status.ContainerStatuses
	if slices.ContainsFunc(st.in.Pod.Spec.InitContainers, func(i v1.Container) bool { return i.Name == c.Name }) {
		list = &st.in.Status.InitContainerStatuses
	}
	*list = append(*list, told)
}

// resize sets the resources of a container, or with * of the pod, from
// REQUEST/LIMIT,REQUEST/LIMIT of CPU in thousandths and memory in bytes.
func resize(t *testing.T, pod *v1.Pod, name, text string) {
	t.Helper()
	var a podspec.Amounts
	if _, err := fmt.Sscanf(text, "%d/%d,%d/%d", &a.CPURequest, &a.CPULimit, &a.MemoryRequest, &a.MemoryLimit); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	requirements := a.Requirements()
	if name == "*" {
		pod.Spec.Resources = &requirements
		return
	}
	c, _ := podspec.FindContainer(pod, name)
	c.Resources = requirements
}

func (st *stage) find(t *testing.T, text string) Key {
	t.Helper()
	for key := range st.pending {
		if key.String() == text {
			return key
		}
	}
	t.Fatalf("%q is not under way", text)
	return Key{}
}

func (st *stage) container(name string) *observed.Container {
	return st.in.Observed.Latest(name)
}

// done ends an action under way with success, and what it did is observed.
func (st *stage) done(t *testing.T, text string) {
	t.Helper()
	key := st.find(t, text)
	a := st.pending[key]
	delete(st.pending, key)
	if a.Kind == Look && st.unseen != nil {
		a = *st.unseen
	}
	o := &st.in.Observed
	switch a.Kind {
	case RunSandbox:
		o.Sandboxes = slices.Insert(o.Sandboxes, 0, observed.Sandbox{ID: fmt.Sprintf("s%d", a.Attempt), Ready: true, Attempt: a.Attempt})
	case StartContainer:
		if a.ID == "" {
			st.appear(a, observed.Running)
		} else {
			c := st.container(a.Name)
			c.State, c.StartedAt = observed.Running, st.in.Now
		}
	case StopContainer:
		for i := range o.Containers {
			if c := &o.Containers[i]; c.ID == a.ID {
				c.State, c.ExitCode, c.FinishedAt = observed.Exited, 143, st.in.Now
			}
		}
	case StopSandbox:
		for i := range o.Sandboxes {
			if o.Sandboxes[i].ID == a.ID {
				o.Sandboxes[i].Ready = false
			}
		}
	case RemoveContainer:
		o.Containers = slices.DeleteFunc(o.Containers, func(c observed.Container) bool { return c.ID == a.ID })
	case RemoveSandbox:
		o.Sandboxes = slices.DeleteFunc(o.Sandboxes, func(s observed.Sandbox) bool { return s.ID == a.ID })
		o.Containers = slices.DeleteFunc(o.Containers, func(c observed.Container) bool { return c.SandboxID == a.ID })
	}
	st.in.History.End(Result{Key: key, ImageRef: "sha256:" + key.Name, Lives: a.Lives, Amounts: a.Amounts, Over: a.Raise}, st.in.Now)
}

func (st *stage) appear(a Action, state observed.ContainerState) {
	spec, _ := podspec.FindContainer(st.in.Pod, a.Name)
	c := observed.Container{ID: fmt.Sprintf("%s-%d", a.Name, a.Attempt), Name: a.Name, SandboxID: a.SandboxID,
		Attempt: a.Attempt, State: state, CreatedAt: st.in.Now, Hash: podspec.ContainerHash(spec)}
	c.Annotations = ResourceAnnotations(st.in.Pod, spec)
	if a.Delay > 0 {
		c.Annotations[cri.AnnotationRestartDelay] = a.Delay.String()
	}
	if state == observed.Running {
		c.StartedAt = st.in.Now
	}
	st.in.Observed.Containers = slices.Insert(st.in.Observed.Containers, 0, c)
}

// plan writes the plan down and begins its actions.
func (st *stage) plan(w *strings.Builder) {
	st.in.History.Prune(&st.in.Observed)
	out := Plan(st.in)
	for len(out.Reserve) > 0 {
		for _, id := range out.Reserve {
			at := st.in.Now
			if st.budget--; st.budget < 0 {
				at = at.Add(time.Duration(-st.budget) * time.Minute)
			}
			st.in.History.Turn(id, at)
		}
		out = Plan(st.in)
	}
	for _, key := range out.Cancel {
		fmt.Fprintf(w, "  cancel  %s\n", key)
	}
	for _, a := range out.Actions {
		fmt.Fprintf(w, "  do      %s\n", a)
		st.in.History.Begin(a, st.in.Now)
		st.pending[a.Key] = a
	}
	st.in.History.Note(&out, st.in.Now)
	if out.RestartingAll != "" {
		fmt.Fprintf(w, "  tell    all containers are restarted because of %s\n", out.RestartingAll)
	}
	if st.in.Mode == Run {
		for _, id := range slices.Sorted(maps.Keys(Untold(st.in))) {
			fmt.Fprintf(w, "  hide    that %s runs\n", id)
		}
	}
	names := make([]string, 0, len(out.Waiting))
	for name := range out.Waiting {
		names = append(names, name)
	}
	slices.SortFunc(names, cmp.Compare)
	for _, name := range names {
		fmt.Fprintf(w, "  tell    %s: %s: %s\n", name, out.Waiting[name].Reason, out.Waiting[name].Message)
	}
	if r := out.Resizing; r.Outstanding {
		fmt.Fprintf(w, "  resizes %s\n", cmp.Or(r.Error, "on"))
	}
	if e := out.Explain; e.Stage != "" {
		fmt.Fprintf(w, "  because %s %s", e.Stage, e.Object)
		if e.WaitsFor != "" {
			fmt.Fprintf(w, ": %s", e.WaitsFor)
		}
		if e.LastError != "" {
			fmt.Fprintf(w, " [%d: %s]", e.Attempts, e.LastError)
		}
		w.WriteByte('\n')
	}
	if !out.Wake.IsZero() {
		fmt.Fprintf(w, "  wake    at %s\n", out.Wake.Sub(st.began))
	}
	for _, f := range []struct {
		set  bool
		name string
	}{{out.Started, "started"}, {out.Ended, "ended"}, {out.DeadlineExceeded, "deadline exceeded"},
		{out.Stopped, "stopped"}, {out.Clean, "clean"}} {
		if f.set {
			fmt.Fprintf(w, "  so      %s\n", f.name)
		}
	}
}
