package cluster

import (
	"context"
	"os"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"

	"kubelet/test/harness"
)

// The node's own policy holds for the API server's pods: a rejected pod fails
// with rule and field, audit and warning are events of the pod, and the log
// has a line for the audit. Who claims to be a static pod is not exempt.
func TestPodSecurity(t *testing.T) {
	upstreamFails(t, "it has no pod security of its own")
	const file = "/etc/kubernetes/pod-security.yaml"
	text, err := os.ReadFile("testdata/podsecurity.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := node.WriteFile(file, string(text), 0o644); err != nil {
		t.Fatal(err)
	}
	ns := namespace(t)
	privileged := "  securityContext: {privileged: true}"
	createText(t, ns, agentPod("ran-before", []string{"pause"}, privileged))
	before := waitReady(t, ns, "ran-before")

	kubelet.Stop()
	own := kubelet
	kubelet = node.NewKubelet(harness.KubeletOptions{Flags: append([]string{"--pod-security-config=" + file}, nodeFlags...)})
	defer func() {
		kubelet.Stop()
		kubelet = own
		if err := kubelet.StartAndWait(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	if err := kubelet.StartAndWait(t.Context()); err != nil {
		t.Fatal(err)
	}

	createText(t, ns, agentPod("forbidden", []string{"pause"}, privileged))
	createText(t, ns, strings.Replace(agentPod("pretends", []string{"pause"}, privileged), "  name: pretends\n",
		"  name: pretends\n  annotations: {kubernetes.io/config.source: file}\n", 1))
	createText(t, ns, agentPod("elsewhere", []string{"pause"}, "volumes: [{name: h, hostPath: {path: /etc}}]"))
	createText(t, ns, agentPod("plain", []string{"pause"}))
	for name, words := range map[string]string{
		"forbidden": "rule privileged: spec.containers[0].securityContext.privileged: remove it or set it to false",
		"pretends":  "rule privileged: spec.containers[0].securityContext.privileged",
		"elsewhere": `spec.volumes[0].hostPath: use a volume of another type`,
	} {
		pod := waitPhase(t, ns, name, v1.PodFailed)
		if pod.Status.Reason != "PodSecurityViolation" || !strings.Contains(pod.Status.Message, words) || !strings.Contains(pod.Status.Message, file) {
			t.Errorf("%s: %s: %s", name, pod.Status.Reason, pod.Status.Message)
		}
		if e := waitEvent(t, ns, name, "PodSecurityViolation"); e.Type != v1.EventTypeWarning || !strings.Contains(e.Message, words) {
			t.Errorf("%s: event %s: %s", name, e.Type, e.Message)
		}
	}
	waitReady(t, ns, "plain")
	if e := waitEvent(t, ns, "plain", "PodSecurityAudit"); !strings.Contains(e.Message, "spec.containers[0].securityContext.runAsNonRoot") {
		t.Errorf("audit: %s", e.Message)
	}
	if e := waitEvent(t, ns, "plain", "PodSecurityWarning"); e.Type != v1.EventTypeWarning || e.Count > 1 ||
		!strings.Contains(e.Message, `rule limits.images: spec.containers[0].image: use an image of registry.k8s.io ("localhost/test/agent:1" is from elsewhere)`) {
		t.Errorf("warning: %d times %s: %s", e.Count, e.Type, e.Message)
	}
	log, err := os.ReadFile(kubelet.Process().Log)
	if err != nil {
		t.Fatal(err)
	}
	if line := lineWith(string(log), `"Pod remarked upon at admission" pod="`+ns+`/plain"`); !strings.Contains(line, `reason="PodSecurityAudit" rules="restricted:v1.37"`) ||
		!strings.Contains(line, "runAsNonRoot") {
		t.Errorf("audit in the log: %q", line)
	}
	if after := waitReady(t, ns, "ran-before"); after.UID != before.UID || harness.ContainerStatus(after, "main").ContainerID != harness.ContainerStatus(before, "main").ContainerID {
		t.Error("a pod that ran before was disturbed")
	}
}

func lineWith(text, part string) string {
	for line := range strings.Lines(text) {
		if strings.Contains(line, part) {
			return line
		}
	}
	return ""
}
