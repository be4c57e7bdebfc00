package cluster

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubelet/test/harness"
)

// probed makes a pod of testdata/probed.yaml and returns what makes it ill.
func probed(t *testing.T, ns, name, lingers string, probes ...string) (ill func()) {
	t.Helper()
	dir := "/var/lib/test-records/" + ns + "-" + name
	create(t, ns, "probed.yaml", "NAME", name, "DIR", dir, "LINGERS", lingers, "PROBES", strings.Join(probes, "\n    "))
	return func() {
		t.Helper()
		if err := os.WriteFile(node.Path(filepath.Join(dir, "ill")), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

const byHTTP = `httpGet: {path: /healthz, port: 8080}`

// What probes find is in the API: events of the container, its state, and why
// it was restarted.
func TestProbesInTheAPI(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	ill := probed(t, ns, "web", "0s",
		`readinessProbe: {periodSeconds: 1, failureThreshold: 1, `+byHTTP+`}`,
		`livenessProbe: {periodSeconds: 1, failureThreshold: 3, terminationGracePeriodSeconds: 1, `+byHTTP+`}`)
	waitReady(t, ns, "web")
	ill()
	event, err := node.Cluster.WaitEvent(t.Context(), ns, "web", "Unhealthy", patience)
	if err != nil {
		t.Fatal(err)
	}
	if event.InvolvedObject.FieldPath != "spec.containers{main}" || event.Type != v1.EventTypeWarning ||
		!strings.HasSuffix(event.Message, "ness probe failed: HTTP probe failed with statuscode: 500") {
		t.Errorf("event %s of %s: %s", event.Type, event.InvolvedObject.FieldPath, event.Message)
	}
	pod := waitPod(t, ns, "web", "restarted", func(p *v1.Pod) bool {
		return p != nil && harness.ContainerStatus(p, "main").RestartCount > 0
	})
	if harness.ContainerStatus(pod, "main").LastTerminationState.Terminated == nil {
		t.Errorf("no last state: %+v", pod.Status.ContainerStatuses)
	}
	event, err = node.Cluster.WaitEvent(t.Context(), ns, "web", "Killing", patience)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(event.Message, "failed liveness probe, will be restarted") {
		t.Errorf("event Killing: %s", event.Message)
	}
}

// A pod that is being deleted is asked for its readiness to the end, and not
// for its life.
func TestReadinessWhileTerminating(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	ill := probed(t, ns, "leaves", "10s",
		`readinessProbe: {periodSeconds: 1, failureThreshold: 1, `+byHTTP+`}`,
		`livenessProbe: {periodSeconds: 1, failureThreshold: 1, terminationGracePeriodSeconds: 1, grpc: {port: 9090}}`)
	waitReady(t, ns, "leaves")
	recorder := node.Cluster.Record(t.Context(), ns)
	defer recorder.Stop()
	if err := node.Cluster.Client.CoreV1().Pods(ns).Delete(t.Context(), "leaves", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	waitPod(t, ns, "leaves", "terminating and still ready", func(p *v1.Pod) bool {
		return p != nil && p.DeletionTimestamp != nil && harness.Ready(p)
	})
	ill()
	pod := waitPod(t, ns, "leaves", "terminating and not ready", func(p *v1.Pod) bool {
		return p != nil && p.DeletionTimestamp != nil && !harness.Ready(p)
	})
	if c := harness.ContainerStatus(pod, "main"); c.State.Running == nil {
		t.Errorf("the container did not run to its end: %+v", c)
	}
	waitGone(t, ns, "leaves")
	events, err := node.Cluster.Client.CoreV1().Events(ns).List(context.Background(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events.Items {
		if strings.Contains(e.Message, "Liveness probe") {
			t.Errorf("event %s: %s", e.Reason, e.Message)
		}
	}
}

// A kubelet that is killed and comes back makes no ready pod unready, however
// long it is until its next probe.
func TestReadyWhenKubeletIsKilled(t *testing.T) {
	ns := namespace(t)
	never := `{periodSeconds: 3600, failureThreshold: 1, `
	probed(t, ns, "stays", "0s", "startupProbe: "+never+byHTTP+"}", "readinessProbe: "+never+byHTTP+"}", "livenessProbe: "+never+byHTTP+"}")
	waitReady(t, ns, "stays")
	recorder := node.Cluster.Record(t.Context(), ns)
	for range 3 {
		kubelet.Kill()
		if err := kubelet.StartAndWait(t.Context()); err != nil {
			t.Fatal(err)
		}
		// Something that needs the kubelet, so that it has told all it knows.
		createText(t, ns, agentPod("witness", []string{"pause"}))
		waitReady(t, ns, "witness")
		if err := node.Cluster.Client.CoreV1().Pods(ns).Delete(t.Context(), "witness", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		waitGone(t, ns, "witness")
	}
	recorder.Stop()
	for _, d := range recorder.Disturbances() {
		t.Error(d)
	}
}
