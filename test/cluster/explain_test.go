package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"kubelet/internal/explain"
	"kubelet/test/harness"
)

// soon is how long a cause may take to be named once it has come up.
const soon = 2 * time.Second

// explained asks `kubelet explain` about a pod until the answer is at the
// stage and has all of the words.
func explained(t *testing.T, ns, name string, stage explain.Stage, words ...string) {
	t.Helper()
	if harness.Upstream() {
		t.Skip("the upstream kubelet has no explain")
	}
	start := time.Now()
	var answer string
	err := harness.Until(t.Context(), patience, fmt.Sprintf("explain to say %s %q of %s", stage, words, name), func(ctx context.Context) error {
		out, code, err := node.RunKubelet(ctx, "explain", ns+"/"+name, "-o", "json")
		if err != nil || code != 0 {
			return fmt.Errorf("kubelet explain: code %d, %w: %s", code, err, out)
		}
		var pod explain.Pod
		if err := json.Unmarshal([]byte(out), &pod); err != nil {
			return fmt.Errorf("%w in %s", err, out)
		}
		answer = explain.Line(pod.Entry, time.Now())
		if pod.Stage != stage {
			return fmt.Errorf("it says %q", answer)
		}
		for _, word := range words {
			if !strings.Contains(answer, word) {
				return fmt.Errorf("it says %q", answer)
			}
		}
		return nil
	})
	took := time.Since(start).Round(10 * time.Millisecond)
	switch {
	case err != nil:
		t.Error(err)
	case took > soon:
		t.Errorf("%s: the cause was named after %s only: %s", name, took, answer)
	default:
		t.Logf("%s after %s: %s", name, took, answer)
	}
}

// Each fault is named for what it is, soon, by `kubelet explain`.
func TestExplain(t *testing.T) {
	if harness.Upstream() {
		t.Skip("the upstream kubelet has no explain")
	}
	ns := namespace(t)
	direct := func(text string) { createText(t, ns, text+"  nodeName: "+node.Name+"\n") }
	// The first restart comes at once; there is no back-off before the second.
	crashLoop := func(name string) {
		t.Helper()
		waitPod(t, ns, name, "CrashLoopBackOff", func(p *v1.Pod) bool {
			s := harness.ContainerStatus(p, "main")
			return s.State.Waiting != nil && s.State.Waiting.Reason == "CrashLoopBackOff"
		})
	}

	t.Run("image", func(t *testing.T) {
		direct(strings.Replace(agentPod("image", []string{"pause"}, "  imagePullPolicy: Never"), "test/agent:1", "test/none:1", 1))
		explained(t, ns, "image", explain.Image, "localhost/test/none:1")
	})
	t.Run("registry", func(t *testing.T) {
		direct(strings.Replace(agentPod("registry", []string{"pause"}), "localhost/test/agent:1", "127.0.0.1:1/none:1", 1))
		explained(t, ns, "registry", explain.Image, "127.0.0.1:1/none:1", "connection refused")
	})
	t.Run("volume", func(t *testing.T) {
		create(t, ns, "missing-volume.yaml")
		explained(t, ns, "missing", explain.Volumes, "late")
		// The conditions say it to those who have no shell on the node.
		waitPod(t, ns, "missing", "a condition that names the object", func(p *v1.Pod) bool {
			c := harness.PodCondition(p, v1.PodReadyToStartContainers)
			return c != nil && strings.Contains(c.Message, "late")
		})
	})
	t.Run("host path", func(t *testing.T) {
		direct(agentPod("host-path", []string{"pause"}, "  volumeMounts: [{name: host, mountPath: /host}]",
			"volumes: [{name: host, hostPath: {path: /no/such/folder, type: Directory}}]"))
		explained(t, ns, "host-path", explain.Volumes, "/no/such/folder")
	})
	t.Run("environment", func(t *testing.T) {
		direct(agentPod("environment", []string{"pause"}, "  envFrom: [{configMapRef: {name: nowhere}}]"))
		explained(t, ns, "environment", explain.Container, "nowhere")
	})
	t.Run("command", func(t *testing.T) {
		direct(agentPod("command", []string{"pause"}, "  command: [/no/such/program]"))
		crashLoop("command")
		explained(t, ns, "command", explain.BackOff, "/no/such/program")
	})
	t.Run("crash", func(t *testing.T) {
		direct(agentPod("crash", []string{"exit", "42"}))
		crashLoop("crash")
		explained(t, ns, "crash", explain.BackOff, "42")
	})
	t.Run("admission", func(t *testing.T) {
		direct(agentPod("admission", []string{"pause"}, "nodeSelector: {no: where}"))
		waitPhase(t, ns, "admission", v1.PodFailed)
		explained(t, ns, "admission", explain.Done, "NodeAffinity")
	})
	t.Run("init container", func(t *testing.T) {
		create(t, ns, "init-waits.yaml")
		explained(t, ns, "init-waits", explain.Container, "first")
	})
	t.Run("stop", func(t *testing.T) {
		direct(agentPod("stop", []string{"stubborn"}))
		waitReady(t, ns, "stop")
		deletePod(t, ns, "stop", 5)
		explained(t, ns, "stop", explain.Terminating, "main")
	})
	t.Run("network", func(t *testing.T) {
		if err := node.InstallCNIPlugin("testdata/no-address-left.sh"); err != nil {
			t.Fatal(err)
		}
		defer node.RestoreCNI()
		direct(agentPod("network", []string{"pause"}))
		explained(t, ns, "network", explain.Sandbox, "no address left in the pool")
	})
	t.Run("hung runtime", func(t *testing.T) {
		if err := node.SignalContainerd(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		defer node.SignalContainerd(syscall.SIGCONT)
		direct(agentPod("hung", []string{"pause"}))
		explained(t, ns, "hung", explain.Sandbox, "RunPodSandbox")
	})
	waitReady(t, ns, "hung") // and it goes on once the runtime does
}
