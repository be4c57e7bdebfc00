package node

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"

	"kubelet/test/harness"
)

// allow makes a file that a pod of the test waits for.
func allow(t *testing.T, name string) {
	t.Helper()
	if err := node.WriteFile(filepath.Join(records, name), "", 0o644); err != nil {
		t.Fatal(err)
	}
}

// recorded waits until the pod's record has all of these lines.
func recorded(t *testing.T, name string, lines ...string) {
	t.Helper()
	until(t, fmt.Sprintf("%s to record %q", name, lines), func(context.Context) error {
		have := record(name)
		for _, line := range lines {
			if !slices.Contains(have, line) {
				return fmt.Errorf("record: %q", have)
			}
		}
		return nil
	})
}

// inOrder holds that these lines were recorded one after another, whatever
// else was between.
func inOrder(t *testing.T, name string, lines ...string) {
	t.Helper()
	have := record(name)
	rest := have
	for _, line := range lines {
		i := slices.Index(rest, line)
		if i < 0 {
			t.Errorf("%s recorded %q, want in it, in this order: %q", name, have, lines)
			return
		}
		rest = rest[i+1:]
	}
}

func container(p *v1.Pod, name string) v1.ContainerStatus { return harness.ContainerStatus(p, name) }

// one is a pod of one container.
func one(t *testing.T, name, policy, args string, more ...string) {
	t.Helper()
	put(t, "one.yaml", name, "POLICY", policy, "GRACE", "2", "ARGS", args, "MORE", strings.Join(more, "\n    "))
}

// Sidecars start in their turn, the next container when the startup probe has
// succeeded; they end after the main containers, the last one first.
func TestSidecars(t *testing.T) {
	t.Parallel()
	const name = "sidecars"
	put(t, "sidecars.yaml", name, "POLICY", "Always")
	pod := status(t, name, "waiting for the first sidecar", func(p *v1.Pod) bool { return container(p, "first").State.Running != nil })
	if s := container(pod, "first"); s.Started == nil || *s.Started || s.Ready {
		t.Errorf("a sidecar whose startup probe has not succeeded: started %v, ready %v", s.Started, s.Ready)
	}
	if pod.Status.Phase != v1.PodPending || container(pod, "main").State.Waiting == nil {
		t.Errorf("pod whose sidecar has not started: %s", harness.PodSummary(pod))
	}
	recorded(t, name, "start first")
	if slices.Contains(record(name), "start between") {
		t.Error("the next container was started before the sidecar's startup probe succeeded")
	}
	allow(t, name+"-go")
	pod = status(t, name, "Ready", harness.Ready)
	recorded(t, name, "start other")
	inOrder(t, name, "start setup", "end setup", "start first", "start between", "end between", "start second", "start main")
	inOrder(t, name, "poststart second", "start main", "poststart main", "start other")
	if s := container(pod, "setup"); s.State.Terminated == nil || !s.Ready {
		t.Errorf("init container: %+v", s)
	}
	remove(t, name+".yaml")
	// The hooks run at once: a sidecar's does not wait for that of main.
	recorded(t, name, "prestop main", "prestop first")
	allow(t, name+"-stop")
	gone(t, name)
	inOrder(t, name, "prestop main", "term main", "end main", "term second", "end second", "term first")
	inOrder(t, name, "prestop first", "term main")
}

// A pod is over when its main containers are, whatever its sidecars do; they
// are ended then, and how does not count.
func TestSidecarsDoNotKeepAPodAlive(t *testing.T) {
	t.Parallel()
	const name = "job"
	put(t, "sidecars.yaml", name, "POLICY", "OnFailure")
	allow(t, name+"-go")
	allow(t, name+"-stop")
	pod := status(t, name, "Ready", harness.Ready)
	first := running(t, name, "first")
	if err := node.KillContainer(t.Context(), first.Id); err != nil {
		t.Fatal(err)
	}
	pod = status(t, name, "with its sidecar restarted", func(p *v1.Pod) bool {
		return container(p, "first").RestartCount == 1 && container(p, "first").State.Running != nil
	})
	if pod.Status.Phase != v1.PodRunning {
		t.Errorf("phase while a sidecar was restarted: %s", pod.Status.Phase)
	}
	if n := strings.Count(strings.Join(record(name), "\n"), "start between"); n != 1 {
		t.Errorf("an init container ran %d times", n)
	}
	allow(t, name+"-end")
	status(t, name, "with one container done", func(p *v1.Pod) bool { return container(p, "other").State.Terminated != nil })
	if err := node.KillContainer(t.Context(), running(t, name, "second").Id); err != nil {
		t.Fatal(err)
	}
	status(t, name, "with the second sidecar restarted", func(p *v1.Pod) bool { return container(p, "second").RestartCount == 1 })
	// The last main container is asked to end well.
	stop := &runtimeapi.StopContainerRequest{ContainerId: running(t, name, "main").Id, Timeout: 10}
	if _, err := node.Runtime.StopContainer(t.Context(), stop); err != nil {
		t.Fatal(err)
	}
	status(t, name, "Succeeded", func(p *v1.Pod) bool { return p.Status.Phase == v1.PodSucceeded })
	inOrder(t, name, "end main", "term second", "end second", "term first")
}

// The state and the restarts of containers by what they do.
func TestContainerStates(t *testing.T) {
	t.Parallel()
	const hook = "lifecycle: {postStart: {exec: {command: [/agent, hook, /records/%s, poststart, /records/%[1]s-go]}}}"
	tests := []struct {
		name, policy, args string
		more               string
		what               string
		holds              func(*v1.Pod, v1.ContainerStatus) bool
	}{
		{"hook-fails", "Always", "pause", "lifecycle: {postStart: {exec: {command: [/agent, exit, '7']}}}",
			"restarted because of its hook", func(p *v1.Pod, s v1.ContainerStatus) bool {
				return s.RestartCount >= 1 && s.LastTerminationState.Terminated != nil && s.State.Waiting != nil && !s.Ready
			}},
		{"hook-missing", "Never", "pause", "lifecycle: {postStart: {exec: {command: [/no-such-program]}}}",
			"over because of its hook", func(p *v1.Pod, s v1.ContainerStatus) bool { return s.State.Terminated != nil && s.RestartCount == 0 }},
		{"hook-runs", "Always", "pause", fmt.Sprintf(hook, "hook-runs"),
			"waiting for its hook", func(p *v1.Pod, s v1.ContainerStatus) bool {
				return s.State.Waiting != nil && strings.Contains(s.State.Waiting.Message, "postStart")
			}},
		{"unlively", "Always", "stubborn", "livenessProbe: {exec: {command: [/agent, has, /no-such-file]}, periodSeconds: 1, failureThreshold: 1, terminationGracePeriodSeconds: 1}",
			"restarted by its liveness probe", func(p *v1.Pod, s v1.ContainerStatus) bool {
				return s.RestartCount >= 1 && s.LastTerminationState.Terminated != nil && s.LastTerminationState.Terminated.ExitCode == 137
			}},
		// It ends well when it is asked to, and is restarted all the same.
		{"never-up", "OnFailure", "pause", "startupProbe: {exec: {command: [/agent, has, /no-such-file]}, periodSeconds: 1, failureThreshold: 1}",
			"restarted by its startup probe", func(p *v1.Pod, s v1.ContainerStatus) bool {
				return s.RestartCount >= 1 && p.Status.Phase == v1.PodRunning
			}},
		{"unready", "Always", "pause", "readinessProbe: {exec: {command: [/agent, has, /no-such-file]}, periodSeconds: 1, failureThreshold: 1}",
			"running and not ready", func(p *v1.Pod, s v1.ContainerStatus) bool {
				return s.State.Running != nil && s.Started != nil && *s.Started && !s.Ready && s.RestartCount == 0
			}},
		{"no-program", "Always", "pause", "command: [/no-such-program]",
			"failing to start", func(p *v1.Pod, s v1.ContainerStatus) bool {
				w := s.State.Waiting
				return w != nil && (w.Reason == "RunContainerError" && strings.Contains(w.Message, "no-such-program") || w.Reason == "CrashLoopBackOff" && s.LastTerminationState.Terminated.Reason == "StartError")
			}},
		{"by-rule", "Never", "crash-once 42 /records/by-rule-crashed", "restartPolicy: Never\nrestartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [42]}}]",
			"restarted by a rule", func(p *v1.Pod, s v1.ContainerStatus) bool {
				return s.RestartCount == 1 && s.State.Running != nil && s.LastTerminationState.Terminated.ExitCode == 42
			}},
		{"by-no-rule", "Always", "exit 3", "restartPolicy: Never\nrestartPolicyRules: [{action: Restart, exitCodes: {operator: NotIn, values: [3]}}]",
			"ended by its own policy", func(p *v1.Pod, s v1.ContainerStatus) bool {
				return p.Status.Phase == v1.PodFailed && s.RestartCount == 0
			}},
		{"by-own-policy", "Never", "exit 0", "restartPolicy: Always",
			"restarted by its own policy", func(p *v1.Pod, s v1.ContainerStatus) bool {
				w := s.State.Waiting
				return s.RestartCount >= 1 && w != nil && w.Reason == "CrashLoopBackOff" && strings.Contains(w.Message, "next try at 20")
			}},
	}
	for _, tt := range tests {
		one(t, tt.name, tt.policy, quote(tt.args), strings.ReplaceAll(tt.more, "\n", "\n    "))
	}
	for _, tt := range tests {
		status(t, tt.name, tt.what, func(p *v1.Pod) bool { return tt.holds(p, container(p, "main")) })
	}
	allow(t, "hook-runs-go")
	status(t, "hook-runs", "Ready after its hook", harness.Ready)
	startedOnce(t, "hook-runs")
}

// quote makes the arguments of a command items of a YAML list.
func quote(args string) string {
	fields := strings.Fields(args)
	for i := range fields {
		fields[i] = fmt.Sprintf("%q", fields[i])
	}
	return strings.Join(fields, ", ")
}

// The exit of one container restarts all of them, in order, and once.
func TestRestartAllContainers(t *testing.T) {
	t.Parallel()
	const name = "restart-all"
	put(t, "restart-all.yaml", name)
	status(t, name, "Ready", harness.Ready)
	until(t, "all to record their start", func(context.Context) error {
		if n := starts(name); n < 4 {
			return fmt.Errorf("%d starts: %q", n, record(name))
		}
		return nil
	})
	allow(t, name+"-go")
	all := []string{"setup", "sidecar", "source", "regular"}
	pod := status(t, name, "restarted as a whole", func(p *v1.Pod) bool {
		for _, c := range all {
			if container(p, c).RestartCount != 1 {
				return false
			}
		}
		return harness.Ready(p)
	})
	for _, c := range all {
		last := container(pod, c).LastTerminationState.Terminated
		if last == nil || c == "source" && last.ExitCode != 42 {
			t.Errorf("last state of %s: %+v", c, last)
		}
	}
	until(t, "all to record their second start", func(context.Context) error {
		if n := starts(name); n < 8 {
			return fmt.Errorf("%d starts: %q", n, record(name))
		}
		return nil
	})
	inOrder(t, name, "end source", "term regular", "start setup", "start sidecar", "start source", "start regular")
	inOrder(t, name, "term sidecar", "start setup")
	if c := harness.PodCondition(pod, v1.AllContainersRestarting); c == nil || c.Status != v1.ConditionFalse {
		t.Errorf("condition after the restart: %+v", c)
	}
	if n := starts(name); n != 8 {
		t.Errorf("%d starts of 4 containers that were restarted once: %q", n, record(name))
	}
}

// A new kubelet goes on where the old one was killed: hooks that ran are not
// run again, readiness stays, and so does the back-off.
func TestLifecycleOverKubeletRestart(t *testing.T) {
	put(t, "sidecars.yaml", "kept", "POLICY", "Always")
	allow(t, "kept-go")
	allow(t, "kept-stop")
	one(t, "kept-ready", "Always", "pause", "readinessProbe: {exec: {command: [/agent, has, /records/kept-ready-go]}, periodSeconds: 3600}")
	allow(t, "kept-ready-go")
	one(t, "kept-hook", "Always", "pause", "lifecycle: {postStart: {exec: {command: [/agent, hook, /records/kept-hook, poststart, /records/kept-hook-go]}}}")
	one(t, "kept-crash", "Always", quote("exit 1"))
	status(t, "kept", "Ready", harness.Ready)
	status(t, "kept-ready", "Ready", harness.Ready)
	recorded(t, "kept-hook", "poststart")
	backOff := func(p *v1.Pod) bool {
		w := container(p, "main").State.Waiting
		return container(p, "main").RestartCount == 2 && w != nil && w.Reason == "CrashLoopBackOff"
	}
	before := status(t, "kept-crash", "in its second back-off", backOff)

	restart(t, kubelet.Kill, func() {
		// It must be kept, for no probe can tell it.
		if err := os.Remove(node.Path(filepath.Join(records, "kept-ready-go"))); err != nil {
			t.Fatal(err)
		}
	})
	after := status(t, "kept-crash", "in the same back-off", backOff)
	if was, is := container(before, "main").State.Waiting.Message, container(after, "main").State.Waiting.Message; was != is {
		t.Errorf("back-off before and after the restart:\n%s\n%s", was, is)
	}
	pod := status(t, "kept", "Ready after the restart", harness.Ready)
	for _, s := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		if s.RestartCount != 0 {
			t.Errorf("container %s was restarted", s.Name)
		}
	}
	if have := record("kept"); strings.Count(strings.Join(have, "\n"), "poststart main") != 1 || starts("kept") != 6 {
		t.Errorf("after a restart of the kubelet: %q", have)
	}
	pods, err := kubelet.Pods(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range pods {
		if p := &pods[i]; p.Name == "kept-ready"+suffix && !harness.Ready(p) {
			t.Errorf("readiness was lost: %s", harness.PodSummary(p))
		}
	}
	allow(t, "kept-hook-go")
	status(t, "kept-hook", "Ready", harness.Ready)
	startedOnce(t, "kept-hook")
}

// All containers are restarted once, and in order, if nobody was there when
// the one that causes it ended, or if the kubelet is killed in the middle.
func TestRestartAllContainersOverKubeletRestart(t *testing.T) {
	const alone, middle = "restart-all-alone", "restart-all-middle"
	for _, name := range []string{alone, middle} {
		put(t, "restart-all.yaml", name)
	}
	for _, name := range []string{alone, middle} {
		status(t, name, "Ready", harness.Ready)
		recorded(t, name, "start setup", "start sidecar", "start source", "start regular")
	}
	allow(t, middle+"-go")
	recorded(t, middle, "end source")
	restart(t, kubelet.Kill, func() {
		allow(t, alone+"-go")
		recorded(t, alone, "end source")
	})
	for _, name := range []string{alone, middle} {
		pod := status(t, name, "restarted as a whole", func(p *v1.Pod) bool {
			return container(p, "source").RestartCount == 1 && harness.Ready(p)
		})
		until(t, "all to record their second start", func(context.Context) error {
			if n := starts(name); n < 8 {
				return fmt.Errorf("%d starts: %q", n, record(name))
			}
			return nil
		})
		inOrder(t, name, "end source", "term regular", "start setup", "start sidecar", "start source", "start regular")
		for _, c := range []string{"setup", "sidecar", "source", "regular"} {
			if n := container(pod, c).RestartCount; n != 1 || starts(name) != 8 {
				t.Errorf("%s: %s was restarted %d times: %q", name, c, n, record(name))
			}
		}
	}
}

// The longest back-off is the configuration's.
func TestLongestBackOff(t *testing.T) {
	other := node.NewKubelet(harness.KubeletOptions{Configure: func(c *kubeletconfig.KubeletConfiguration) {
		configure(c)
		c.CrashLoopBackOff.MaxContainerRestartPeriod = &metav1.Duration{Duration: time.Second}
	}})
	kubelet.Kill()
	if err := other.StartAndWait(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { restart(t, other.Kill, func() {}) })
	one(t, "soon-again", "Always", quote("exit 1"))
	status(t, "soon-again", "restarted again and again", func(p *v1.Pod) bool {
		s := container(p, "main")
		return s.RestartCount >= 4 && s.State.Waiting != nil && strings.Contains(s.State.Waiting.Message, "back-off 1s")
	})
}

// A lost sandbox starts the pod over, in order.
func TestSidecarsInANewSandbox(t *testing.T) {
	t.Parallel()
	const name = "resandboxed"
	put(t, "sidecars.yaml", name, "POLICY", "Always")
	allow(t, name+"-go")
	allow(t, name+"-stop")
	status(t, name, "Ready", harness.Ready)
	sandboxes, err := node.Sandboxes(t.Context(), "default", name+suffix)
	if err != nil || len(sandboxes) != 1 {
		t.Fatal(sandboxes, err)
	}
	n := len(record(name))
	if err := node.KillSandbox(t.Context(), sandboxes[0].Id); err != nil {
		t.Fatal(err)
	}
	status(t, name, "running anew", func(p *v1.Pod) bool {
		return harness.Ready(p) && container(p, "main").RestartCount == 1 && container(p, "setup").RestartCount == 1
	})
	if again := record(name)[n:]; slices.Index(again, "start setup") > slices.Index(again, "start first") ||
		slices.Index(again, "start second") > slices.Index(again, "start main") || !slices.Contains(again, "poststart main") {
		t.Errorf("the second life: %q", again)
	}
}
