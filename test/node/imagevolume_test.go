package node

import (
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"

	"kubelet/test/harness"
)

// The content of an image is a volume where the runtime can mount it, and the
// reason why not elsewhere.
func TestImageVolumes(t *testing.T) {
	t.Parallel()
	waiting := func(name, reason string, words ...string) {
		t.Helper()
		pod := status(t, name, reason, func(p *v1.Pod) bool {
			w := harness.ContainerStatus(p, "main").State.Waiting
			return w != nil && w.Reason == reason
		})
		for _, word := range words {
			if m := harness.ContainerStatus(pod, "main").State.Waiting.Message; !harness.Upstream() && !strings.Contains(m, word) {
				t.Errorf("%s: message %q, want %q in it", name, m, word)
			}
		}
	}
	put(t, "image-volume.yaml", "image-never", "IMAGE", "localhost/test/none:1", "POLICY", "Never", "PART", "etc")
	waiting("image-never", "ErrImageNeverPull", `volume "content"`, "localhost/test/none:1")
	put(t, "image-volume.yaml", "image-missing", "IMAGE", "localhost:1/test/none:1", "POLICY", "IfNotPresent", "PART", "etc")
	put(t, "image-volume.yaml", "image-content", "IMAGE", "localhost/test/agent:2", "POLICY", "IfNotPresent", "PART", "etc")
	waiting("image-missing", "ImagePullBackOff", `volume "content": Back-off pulling image "localhost:1/test/none:1"`)
	if node.Containerd == "1.6" {
		upstreamFails(t, "it lets the runtime ignore the volume")
		waiting("image-content", "CreateContainerConfigError", "image volumes: containerd 1.6", "cannot mount images")
		return
	}
	pod := status(t, "image-content", "Ready", harness.Ready)
	served(t, pod, "/all/", "agent")
	served(t, pod, "/part/", "passwd")
}
