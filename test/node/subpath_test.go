package node

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"

	"kubelet/test/harness"
)

func served(t *testing.T, pod *v1.Pod, path, want string) {
	t.Helper()
	until(t, path+" in "+pod.Name, func(ctx context.Context) error {
		body, err := node.Get(ctx, "http://"+pod.Status.PodIP+":8080"+path)
		if err == nil && !strings.Contains(body, want) {
			err = fmt.Errorf("got %q, want %q", body, want)
		}
		return err
	})
}

// partsMounted lists the mounts of parts of volumes that the node has for the
// pod: their IDs by their places.
func partsMounted(t *testing.T, pod *v1.Pod) map[string]string {
	t.Helper()
	text, err := node.Mounts()
	if err != nil {
		t.Fatal(err)
	}
	mounts := map[string]string{}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if _, place, ok := strings.Cut(fields[4], string(pod.UID)+"/volume-subpaths/"); ok {
			if mounts[place] != "" {
				t.Errorf("%s is mounted twice", place)
			}
			mounts[place] = fields[0]
		}
	}
	return mounts
}

// Parts of volumes are mounted where upstream has them, outlive the kubelet,
// are kept when a container starts again, and go with the pod.
func TestSubPaths(t *testing.T) {
	put(t, "subpath.yaml", "parts")
	pod := status(t, "parts", "Ready", harness.Ready)
	check := func() map[string]string {
		t.Helper()
		served(t, pod, "/all/releases/1/hello", "hello")
		served(t, pod, "/dir/hello", "hello")
		served(t, pod, "/file", "hello")
		served(t, pod, "/all/logs/", "parts"+suffix)
		mounts := partsMounted(t, pod)
		for _, place := range []string{"work/main/1", "work/main/2", "work/main/3"} {
			if mounts[place] == "" {
				t.Errorf("nothing is mounted at %s: %v", place, mounts)
			}
		}
		return mounts
	}
	before := check()
	c := running(t, "parts", "main")
	restart(t, kubelet.Kill, func() {})
	status(t, "parts", "Ready", harness.Ready)
	if after := running(t, "parts", "main"); after.Id != c.Id {
		t.Error("the container was restarted")
	}
	if err := node.KillContainer(t.Context(), c.Id); err != nil {
		t.Fatal(err)
	}
	status(t, "parts", "restarted", func(p *v1.Pod) bool {
		return harness.ContainerStatus(p, "main").RestartCount == 1 && harness.Ready(p)
	})
	after := check()
	for place, id := range before {
		if after[place] != id {
			t.Errorf("%s was mounted anew", place)
		}
	}
	remove(t, "parts.yaml")
	gone(t, "parts")
	until(t, "the mounts to be undone", func(context.Context) error {
		if m := partsMounted(t, pod); len(m) > 0 {
			return fmt.Errorf("%v", m)
		}
		return nil
	})
	if !harness.Upstream() {
		if err := node.NoTrace(t.Context(), pod.UID); err != nil {
			t.Error(err)
		}
	}
}

// A link that leads out of the volume is refused with the reason; the pod
// starts once it is mended.
func TestSubPathLeadsOut(t *testing.T) {
	t.Parallel()
	const dir = "/var/lib/test-subpath"
	if err := node.WriteFile(dir+"/releases/1/version", "one", 0o644); err != nil {
		t.Fatal(err)
	}
	link := node.Path(filepath.Join(dir, "current"))
	if err := os.Symlink("/etc", link); err != nil {
		t.Fatal(err)
	}
	put(t, "subpath-link.yaml", "leads-out", "DIR", dir)
	pod := status(t, "leads-out", "refused", func(p *v1.Pod) bool {
		w := harness.ContainerStatus(p, "main").State.Waiting
		return w != nil && w.Reason == "CreateContainerConfigError"
	})
	if !harness.Upstream() {
		message := harness.ContainerStatus(pod, "main").State.Waiting.Message
		if !strings.Contains(message, `volume mount "host": subPath "current": link "current" leads out of the volume`) {
			t.Errorf("message: %s", message)
		}
	}
	// Absolute, and yet within the volume.
	if err := os.Remove(link); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(dir+"/releases/1", link); err != nil {
		t.Fatal(err)
	}
	served(t, status(t, "leads-out", "Ready", harness.Ready), "/version", "one")
}
