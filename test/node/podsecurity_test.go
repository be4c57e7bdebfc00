package node

import (
	"context"
	"fmt"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"

	"kubelet/test/harness"
)

// The node's own policy holds for static pods: what ran before stays, what is
// new is judged, with the rule and the field; a change of the file is in force
// at once, a broken one is not.
func TestPodSecurityOfStaticPods(t *testing.T) {
	upstreamFails(t, "it has no pod security of its own")
	const file = "/etc/kubernetes/pod-security.yaml"
	write := func(text string) {
		t.Helper()
		if err := node.WriteFile(file, "apiVersion: podsecurity.kubelet/v1alpha1\nkind: PodSecurityConfiguration\n"+text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(manifest(t, "podsecurity.yaml"))
	put(t, "record.yaml", "ran-before", "VERB", "pause")
	before := running(t, "ran-before", "main")

	kubelet.Stop()
	own := kubelet
	kubelet = node.NewKubelet(harness.KubeletOptions{Flags: []string{"--pod-security-config=" + file}})
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

	rejected := func(name string, words ...string) {
		t.Helper()
		pod := status(t, name, "rejected", func(p *v1.Pod) bool { return p.Status.Phase == v1.PodFailed })
		for _, word := range append(words, "of this node ("+file+")") {
			if pod.Status.Reason != "PodSecurityViolation" || !strings.Contains(pod.Status.Message, word) {
				t.Errorf("%s: %s: %s; want %q in it", name, pod.Status.Reason, pod.Status.Message, word)
			}
		}
	}
	explains := func(words ...string) {
		t.Helper()
		until(t, "kubelet explain to tell of "+strings.Join(words, ", "), func(ctx context.Context) error {
			out, _, err := node.RunKubelet(ctx, "explain", "-o", "json")
			for _, word := range words {
				if err == nil && !strings.Contains(out, word) {
					err = fmt.Errorf("%q is not in:\n%s", word, out)
				}
			}
			return err
		})
	}
	put(t, "privileged.yaml", "privileged")
	rejected("privileged", `violates pod security "baseline:latest and limits"`,
		"rule privileged: spec.containers[0].securityContext.privileged: remove it or set it to false",
		`rule limits.capabilities`)
	put(t, "record.yaml", "host-path", "VERB", "pause")
	rejected("host-path", "rule hostPathVolumes: spec.volumes[0].hostPath: use a volume of another type")
	put(t, "privileged.yaml", "exempt")
	running(t, "exempt", "main")
	put(t, "web.yaml", "harmless", "WORD", "x")
	status(t, "harmless", "Ready", harness.Ready)
	explains("PodSecurityWarning", `would violate pod security \"restricted:v1.36\"`, "spec.containers[0].securityContext.runAsNonRoot")

	if after := running(t, "ran-before", "main"); after.Id != before.Id {
		t.Error("a pod that ran before was restarted")
	}

	// The file is mended under a running kubelet.
	write("podSecurity: {enforce: {level: baselin}}\n")
	explains(file, "podSecurity.enforce.level", "stays in force")
	put(t, "privileged.yaml", "still-forbidden")
	rejected("still-forbidden", "privileged")
	write("podSecurity: {enforce: {level: privileged}}\n")
	until(t, "the new policy to be in force", func(ctx context.Context) error {
		out, _, err := node.RunKubelet(ctx, "explain")
		if err == nil && strings.Contains(out, file) {
			err = fmt.Errorf("%s", out)
		}
		return err
	})
	put(t, "privileged.yaml", "now-allowed")
	running(t, "now-allowed", "main")
}

// Wrong values are refused with everything else that is wrong.
func TestPodSecurityFileRefused(t *testing.T) {
	t.Parallel()
	upstreamFails(t, "it has no pod security of its own")
	const file = "/run/refused/pod-security.yaml"
	if err := node.WriteFile(file, "apiVersion: podsecurity.kubelet/v1alpha1\nkind: PodSecurityConfiguration\npodSecurity:\n  enforcee: {level: restricted}\n", 0o644); err != nil {
		t.Fatal(err)
	}
	out, code, err := node.RunKubelet(t.Context(), "--root-dir=/run/refused/pod-security", "--pod-security-config="+file, "--max-pods=-1")
	if err != nil || code == 0 {
		t.Fatalf("code %d, %v", code, err)
	}
	for _, want := range []string{file + ":4: podSecurity.enforcee: is not a field of podSecurity; did you mean podSecurity.enforce?", "maxPods"} {
		if !strings.Contains(out, want) {
			t.Errorf("the output lacks %q:\n%s", want, out)
		}
	}
}
