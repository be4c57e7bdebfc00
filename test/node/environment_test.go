package node

import (
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
)

// What a pod's environment, host name, files and resolver are to be is what
// its processes find.
func TestEnvironment(t *testing.T) {
	t.Parallel()
	fieldCases(t, "environment.yaml")
}

// Containers may say 4 KiB at their end, and all of a pod together 12 KiB; it
// is the end of what they say that counts.
func TestLastWordsAreLimited(t *testing.T) {
	t.Parallel()
	upstreamFails(t, "messages that exceed the limit of the pod lose their end")
	put(t, "last-words.yaml", "last-words-of-four")
	pod := status(t, "last-words-of-four", "at its end", func(p *v1.Pod) bool { return p.Status.Phase == v1.PodSucceeded })
	for _, s := range pod.Status.ContainerStatuses {
		if m := s.State.Terminated.Message; len(m) != 3<<10 || !strings.HasSuffix(m, "aend") {
			t.Errorf("container %s: %d bytes, at the end %q; want %d", s.Name, len(m), m[max(0, len(m)-5):], 3<<10)
		}
	}
}
