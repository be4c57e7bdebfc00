package cluster

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kubelet/test/harness"
)

// patience is how long a test waits for what takes a second or two on a quiet
// machine. Nothing is measured with it.
const patience = 90 * time.Second

// namespace makes a namespace for the test. When the test ends its pods are
// deleted and must leave nothing behind.
func namespace(t *testing.T) string {
	t.Helper()
	ns, err := node.Cluster.NewNamespace(t.Context(), "t")
	if err != nil {
		t.Fatal(err)
	}
	recorder := node.Cluster.Record(context.Background(), ns)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
		defer cancel()
		recorder.Stop()
		if t.Failed() {
			t.Log(node.Cluster.Describe(ctx, ns))
			if !harness.Upstream() {
				out, _, err := node.RunKubelet(ctx, "explain")
				t.Logf("kubelet explain (%v):\n%s", err, out)
			}
		}
		if _, err := node.Cluster.DeletePods(ctx, ns, patience); err != nil {
			t.Error(err)
			t.Log(node.Cluster.Describe(ctx, ns))
			return
		}
		var uids []types.UID
		for uid := range recorder.Pods() {
			uids = append(uids, uid)
		}
		// Upstream sweeps once a minute; the tests that are about leaks wait
		// for it, the others need not.
		if len(uids) > 0 && !harness.Upstream() {
			noTrace(t, uids...)
		}
	})
	return ns
}

func noTrace(t *testing.T, uids ...types.UID) {
	t.Helper()
	if err := node.NoTrace(context.Background(), uids...); err != nil {
		t.Error(err)
	}
}

// create creates the objects of a manifest and returns the first pod.
func create(t *testing.T, ns, file string, vars ...string) *v1.Pod {
	t.Helper()
	text, err := harness.Manifest(file, vars...)
	if err != nil {
		t.Fatal(err)
	}
	return createText(t, ns, text)
}

func createText(t *testing.T, ns, text string) *v1.Pod {
	t.Helper()
	objects, err := harness.Objects(text)
	if err != nil {
		t.Fatal(err)
	}
	pods, err := node.Cluster.Create(t.Context(), ns, objects...)
	if err != nil {
		t.Fatal(err)
	}
	if len(pods) == 0 {
		return nil
	}
	return pods[0]
}

// agentPod is a manifest of a pod with one container that runs the test agent
// with these arguments. More of the pod's spec can be added as YAML lines.
func agentPod(name string, args []string, more ...string) string {
	quoted := make([]string, len(args))
	for i, a := range args {
		quoted[i] = fmt.Sprintf("%q", a)
	}
	spec := ""
	for _, line := range more {
		spec += "\n  " + strings.ReplaceAll(line, "\n", "\n  ")
	}
	return fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata:
  name: %s
spec:
  terminationGracePeriodSeconds: 5
  containers:
  - name: main
    image: localhost/test/agent:1
    args: [%s]%s
`, name, strings.Join(quoted, ", "), spec)
}

func waitPod(t *testing.T, ns, name, what string, holds func(*v1.Pod) bool) *v1.Pod {
	t.Helper()
	return waitPodFor(t, patience, ns, name, what, holds)
}

func waitPodFor(t *testing.T, timeout time.Duration, ns, name, what string, holds func(*v1.Pod) bool) *v1.Pod {
	t.Helper()
	pod, err := node.Cluster.WaitPod(t.Context(), ns, name, what, timeout, holds)
	if err != nil {
		t.Fatal(err)
	}
	return pod
}

func waitReady(t *testing.T, ns, name string) *v1.Pod {
	t.Helper()
	return waitPod(t, ns, name, "Ready", harness.Ready)
}

func waitPhase(t *testing.T, ns, name string, phase v1.PodPhase) *v1.Pod {
	t.Helper()
	return waitPod(t, ns, name, string(phase), func(p *v1.Pod) bool { return p != nil && p.Status.Phase == phase })
}

func waitGone(t *testing.T, ns, name string) {
	t.Helper()
	waitPod(t, ns, name, "its end", func(p *v1.Pod) bool { return p == nil })
}

func waitEvent(t *testing.T, ns, pod, reason string) *v1.Event {
	t.Helper()
	event, err := node.Cluster.WaitEvent(t.Context(), ns, pod, reason, patience)
	if err != nil {
		t.Fatal(err)
	}
	return event
}

func deletePod(t *testing.T, ns, name string, grace int64) {
	t.Helper()
	err := node.Cluster.Client.CoreV1().Pods(ns).Delete(t.Context(), name, metav1.DeleteOptions{GracePeriodSeconds: &grace})
	if err != nil {
		t.Fatal(err)
	}
}

// until asks again and again what cannot be watched.
func until(t *testing.T, what string, check func(context.Context) error) {
	t.Helper()
	if err := harness.Until(t.Context(), patience, what, check); err != nil {
		t.Fatal(err)
	}
}

// fetch gets a path from the web server in a pod. A pod without a readiness
// probe is Ready a moment before its server listens.
func fetch(t *testing.T, pod *v1.Pod, path string) string {
	t.Helper()
	var body string
	until(t, "the web server in "+pod.Name, func(ctx context.Context) (err error) {
		body, err = node.Get(ctx, "http://"+pod.Status.PodIP+":8080"+path)
		return err
	})
	return body
}

// upstreamFails passes a test over that the upstream kubelet is known to fail.
func upstreamFails(t *testing.T, why string) {
	t.Helper()
	if harness.Upstream() {
		t.Skip("the upstream kubelet fails this: " + why)
	}
}

func lines(s string) []string { return strings.Split(strings.TrimSpace(s), "\n") }

func deleteRuntimeClass(name string) {
	_ = node.Cluster.Client.NodeV1().RuntimeClasses().Delete(context.Background(), name, metav1.DeleteOptions{})
}

func deleteAll(t *testing.T, ns string) {
	t.Helper()
	if _, err := node.Cluster.DeletePods(t.Context(), ns, patience); err != nil {
		t.Fatal(err)
	}
}
