package cluster

import (
	"context"
	"fmt"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubelet/test/harness"
)

// restart ends the kubelet with SIGKILL, does what is to be done meanwhile,
// and starts it.
func restart(t *testing.T, meanwhile func() error) {
	t.Helper()
	kubelet.Kill()
	err := meanwhile()
	if startErr := kubelet.StartAndWait(context.Background()); startErr != nil {
		t.Fatal(startErr)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// recording is the fields of agentPod for a container that records what it
// does.
func recording(ns, name string) []string {
	return []string{
		"  env: [{name: NAME, value: " + name + "}]\n  volumeMounts: [{name: record, mountPath: /record}]",
		"volumes: [{name: record, hostPath: {path: " + record(ns) + ", type: DirectoryOrCreate}}]",
	}
}

// The node is switched off and comes back with a runtime that knows nothing of
// its pods: what was told of them is known, and nothing is run twice that its
// policy lets run once.
func TestRebootAndRuntimeSetUpAnew(t *testing.T) {
	upstreamFails(t, "what has succeeded under OnFailure is run again")
	ns := namespace(t)
	args := func(words ...string) []string { return append([]string{"--record", "/record/record"}, words...) }
	pod := func(name, policy string, verb ...string) {
		createText(t, ns, agentPod(name, args(verb...), append(recording(ns, name), "restartPolicy: "+policy)...))
	}
	pod("never", "Never", "pause")
	pod("failure", "OnFailure", "pause")
	pod("always", "Always", "pause")
	pod("done", "OnFailure", "exit", "0")
	createText(t, ns, strings.Replace(agentPod("half", args("exit", "0"), append(recording(ns, "half"), "restartPolicy: OnFailure")...),
		"\n  volumes:", "\n  - {name: other, image: localhost/test/agent:1, args: [pause]}\n  volumes:", 1))
	for _, name := range []string{"never", "failure", "always"} {
		waitStarted(t, ns, name)
	}
	waitPhase(t, ns, "done", v1.PodSucceeded)
	halfDone := func(p *v1.Pod) bool {
		end := harness.ContainerStatus(p, "main").State.Terminated
		return end != nil && end.ExitCode == 0 && harness.ContainerStatus(p, "other").State.Running != nil
	}
	half := waitPod(t, ns, "half", "half done", halfDone)

	restart(t, func() error {
		if err := node.Reboot(t.Context()); err != nil {
			return err
		}
		return node.ForgetPods(t.Context())
	})

	never := waitPhase(t, ns, "never", v1.PodFailed)
	if end := harness.ContainerStatus(never, "main").State.Terminated; end == nil || end.Reason != "ContainerStatusUnknown" || end.ExitCode != 137 || !strings.Contains(end.Message, "gone from the runtime") {
		t.Errorf("end of a container that nobody saw: %+v", end)
	}
	for _, name := range []string{"failure", "always"} {
		after := waitPod(t, ns, name, "running again", func(p *v1.Pod) bool {
			return harness.Ready(p) && harness.ContainerStatus(p, "main").RestartCount == 1
		})
		if last := harness.ContainerStatus(after, "main").LastTerminationState.Terminated; last == nil || last.Reason != "ContainerStatusUnknown" {
			t.Errorf("%s: last state %+v", name, last)
		}
	}
	waitPod(t, ns, "half", "running its other half again", func(p *v1.Pod) bool {
		return halfDone(p) && harness.ContainerStatus(p, "other").ContainerID != harness.ContainerStatus(half, "other").ContainerID
	})
	until(t, "two starts of what is restarted", func(context.Context) error {
		if c := starts(ns); c["failure"] != 2 || c["always"] != 2 {
			return fmt.Errorf("starts: %v", c)
		}
		return nil
	})
	if c := starts(ns); c["never"] != 1 || c["done"] != 1 || c["half"] != 1 {
		t.Errorf("starts of what runs once: %v", c)
	}
	waitPhase(t, ns, "done", v1.PodSucceeded)
}

// An ephemeral container is started once: neither a kubelet that is killed nor
// a new sandbox starts it again, or keeps the pod from going on.
func TestEphemeralContainersRunOnce(t *testing.T) {
	ns := namespace(t)
	createText(t, ns, agentPod("debugged", []string{"--record", "/record/record", "pause"}, recording(ns, "debugged")...))
	pod := waitStarted(t, ns, "debugged")
	pod.Spec.EphemeralContainers = []v1.EphemeralContainer{{
		TargetContainerName: "main",
		EphemeralContainerCommon: v1.EphemeralContainerCommon{
			Name: "debug", Image: "localhost/test/agent:1", ImagePullPolicy: v1.PullIfNotPresent,
			Args: []string{"--record", "/record/record", "pause"}, Env: []v1.EnvVar{{Name: "NAME", Value: "debug"}},
			VolumeMounts: []v1.VolumeMount{{Name: "record", MountPath: "/record"}},
		},
	}}
	if _, err := node.Cluster.Client.CoreV1().Pods(ns).UpdateEphemeralContainers(t.Context(), "debugged", pod, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	debug := func(p *v1.Pod) (s v1.ContainerStatus) {
		if p != nil && len(p.Status.EphemeralContainerStatuses) == 1 {
			s = p.Status.EphemeralContainerStatuses[0]
		}
		return s
	}
	runs := func(p *v1.Pod) bool { return debug(p).State.Running != nil && harness.Ready(p) }
	before := waitPod(t, ns, "debugged", "being looked at", runs)
	restart(t, func() error { return nil })
	after := waitPod(t, ns, "debugged", "being looked at still", runs)
	if debug(before).ContainerID != debug(after).ContainerID || debug(after).Ready || debug(after).RestartCount != 0 {
		t.Errorf("ephemeral container before %+v, after %+v", debug(before), debug(after))
	}
	sandboxes, err := node.Sandboxes(t.Context(), ns, "debugged")
	if err != nil || len(sandboxes) != 1 {
		t.Fatal(sandboxes, err)
	}
	if err := node.KillSandbox(t.Context(), sandboxes[0].Id); err != nil {
		t.Fatal(err)
	}
	last := waitPod(t, ns, "debugged", "running in a new sandbox", func(p *v1.Pod) bool {
		return harness.Ready(p) && harness.ContainerStatus(p, "main").RestartCount == 1
	})
	if debug(last).State.Terminated == nil || starts(ns)["debug"] != 1 {
		t.Errorf("ephemeral container of the lost sandbox: %+v, started %d times", debug(last), starts(ns)["debug"])
	}
}
