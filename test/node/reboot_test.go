package node

import (
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"

	"kubelet/test/harness"
)

// The node is switched off and on: pods start over as their policies say, in
// order, with their volumes and users, and nothing runs that has had its turn.
func TestReboot(t *testing.T) {
	put(t, "sidecars.yaml", "over-again", "POLICY", "Always")
	allow(t, "over-again-go")
	allow(t, "over-again-stop")
	one(t, "once", "Never", "pause")
	one(t, "once-done", "OnFailure", quote("exit 0"))
	one(t, "once-failed", "OnFailure", "pause")
	one(t, "still-crashing", "Always", quote("exit 1"))
	put(t, "rebooted.yaml", "rebooted")
	withUsers := node.OwnUsers()
	users := ""
	if withUsers {
		put(t, "own-users.yaml", "own-users")
		users = log(t, status(t, "own-users", "Ready", harness.Ready), "main", 0, 1)[0]
	}
	pod := status(t, "over-again", "Ready", harness.Ready)
	for _, name := range []string{"once", "once-failed", "rebooted"} {
		status(t, name, "Ready", harness.Ready)
	}
	recorded(t, "over-again", "start other", "poststart main")
	startedOnce(t, "once")
	status(t, "once-done", "Succeeded", func(p *v1.Pod) bool { return p.Status.Phase == v1.PodSucceeded })
	backOff := func(p *v1.Pod) bool {
		w := container(p, "main").State.Waiting
		return container(p, "main").RestartCount == 3 && w != nil && w.Reason == "CrashLoopBackOff"
	}
	before := status(t, "still-crashing", "in its third back-off", backOff)
	n := len(record("over-again"))

	restart(t, kubelet.Kill, func() {
		if err := node.Reboot(t.Context()); err != nil {
			t.Fatal(err)
		}
	})

	after := status(t, "over-again", "running anew", func(p *v1.Pod) bool {
		return harness.Ready(p) && container(p, "main").RestartCount == 1 && container(p, "setup").RestartCount == 1
	})
	if after.UID != pod.UID {
		t.Error("it is another pod")
	}
	if last := container(after, "main").LastTerminationState.Terminated; last == nil || last.ExitCode == 0 {
		t.Errorf("last state of a container that was switched off: %+v", last)
	}
	recorded(t, "over-again", "start other")
	second := record("over-again")[n:]
	want := []string{"start setup", "end setup", "start first", "start between", "end between", "start second", "start main"}
	for i, line := range want {
		if j := slices.Index(second, line); j < 0 || i > 0 && j < slices.Index(second, want[i-1]) {
			t.Errorf("the second life: %q, want in it, in this order: %q", second, want)
			break
		}
	}
	failed := status(t, "once", "Failed", func(p *v1.Pod) bool { return p.Status.Phase == v1.PodFailed })
	if end := container(failed, "main").State.Terminated; end == nil || end.ExitCode == 0 || starts("once") != 1 {
		t.Errorf("a pod that runs once: %+v, started %d times", end, starts("once"))
	}
	status(t, "once-failed", "running again", func(p *v1.Pod) bool { return harness.Ready(p) && container(p, "main").RestartCount == 1 })
	status(t, "once-done", "Succeeded", func(p *v1.Pod) bool { return p.Status.Phase == v1.PodSucceeded })
	if got := starts("once-done"); got != 1 {
		t.Errorf("what had succeeded was started %d times", got)
	}
	crashing := status(t, "still-crashing", "in a back-off", func(p *v1.Pod) bool {
		w := container(p, "main").State.Waiting
		return container(p, "main").RestartCount >= 3 && w != nil && w.Reason == "CrashLoopBackOff"
	})
	was, is := container(before, "main"), container(crashing, "main")
	if is.RestartCount == was.RestartCount && is.State.Waiting.Message != was.State.Waiting.Message {
		t.Errorf("back-off before and after:\n%s\n%s", was.State.Waiting.Message, is.State.Waiting.Message)
	}
	if !strings.Contains(is.State.Waiting.Message, "back-off 40s") && !strings.Contains(is.State.Waiting.Message, "back-off 1m20s") {
		t.Errorf("the back-off began anew: %s", is.State.Waiting.Message)
	}
	// The disk has both lives, memory this one.
	rebooted := status(t, "rebooted", "running again", func(p *v1.Pod) bool { return harness.Ready(p) && container(p, "main").RestartCount == 1 })
	if got := log(t, rebooted, "main", 1, 2); got[0] != "5" || got[1] != "rebooted"+suffix {
		t.Errorf("lines in its volumes: %q, want 2 setups, 2 starts on disk, 1 in memory", got)
	}
	if withUsers {
		p := status(t, "own-users", "running again", func(p *v1.Pod) bool { return container(p, "main").RestartCount == 1 })
		if got := log(t, p, "main", 1, 1)[0]; got != users {
			t.Errorf("its users were %q and are %q", users, got)
		}
	}
}
