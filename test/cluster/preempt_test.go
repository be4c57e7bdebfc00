package cluster

import (
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"

	"kubelet/test/harness"
)

// A static pod that does not fit gets the room of a pod that is not critical,
// which ends within its grace period and says why.
func TestPreemption(t *testing.T) {
	ns := namespace(t)
	direct := func(name, cpu string) string {
		return agentPod(name, []string{"pause"}, "  resources: {requests: {cpu: "+cpu+"}}", "nodeName: "+node.Name)
	}
	createText(t, ns, direct("large", "1500m"))
	createText(t, ns, direct("small", "10m"))
	waitReady(t, ns, "large")
	waitReady(t, ns, "small")

	text := strings.Replace(direct("critical", "1"), "name: critical", "name: critical\n  namespace: "+ns, 1)
	if err := node.PutManifest("critical.yaml", text); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := node.RemoveManifest("critical.yaml"); err != nil {
			t.Error(err)
		}
	})
	waitReady(t, ns, "critical-"+node.Name)
	large := waitPhase(t, ns, "large", v1.PodFailed)
	if large.Status.Reason != "Preempting" || !strings.Contains(large.Status.Message, "critical pod") {
		t.Errorf("status %s %q, want Preempting and for what", large.Status.Reason, large.Status.Message)
	}
	if c := harness.PodCondition(large, v1.DisruptionTarget); c == nil || c.Status != v1.ConditionTrue || c.Reason != v1.PodReasonTerminationByKubelet {
		t.Errorf("condition DisruptionTarget: %+v", c)
	}
	if event := waitEvent(t, ns, "large", "Preempting"); event.Type != v1.EventTypeWarning {
		t.Errorf("the event is %s, want a Warning", event.Type)
	}
	if small := waitReady(t, ns, "small"); small.Status.Phase != v1.PodRunning {
		t.Errorf("another pod had to go: %s", harness.PodSummary(small))
	}
	if err := node.RemoveManifest("critical.yaml"); err != nil {
		t.Fatal(err)
	}
	waitGone(t, ns, "critical-"+node.Name)
}
