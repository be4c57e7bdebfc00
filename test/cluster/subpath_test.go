package cluster

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kubelet/test/harness"
)

// Directories that a subPath makes belong to the pod's fsGroup and can be
// written; a key of a ConfigMap stays what it was when the container started,
// while the whole volume follows, and the next start has the new one.
func TestSubPathsOfVolumes(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	create(t, ns, "subpath.yaml")
	pod := waitReady(t, ns, "parts")
	for path, want := range map[string]string{"/work/hello": "hello", "/key": "before", "/whole/key": "before"} {
		if body := fetch(t, pod, path); !strings.Contains(body, want) {
			t.Errorf("%s: %q, want %q", path, body, want)
		}
	}
	info, err := os.Stat(node.Path("/var/lib/kubelet/pods/" + string(pod.UID) + "/volumes/kubernetes.io~empty-dir/work/made/by"))
	if err != nil {
		t.Fatal(err)
	}
	if group := info.Sys().(*syscall.Stat_t).Gid; group != 4711 || info.Mode()&os.ModeSetgid == 0 || info.Mode().Perm()&0o020 == 0 {
		t.Errorf("a directory that was made: group %d, %v", group, info.Mode())
	}

	patch := []byte(`{"data":{"key":"after"}}`)
	if _, err := node.Cluster.Client.CoreV1().ConfigMaps(ns).Patch(t.Context(), "settings", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	until(t, "the new content", func(ctx context.Context) error {
		body, err := node.Get(ctx, "http://"+pod.Status.PodIP+":8080/whole/key")
		if err == nil && !strings.Contains(body, "after") {
			err = fmt.Errorf("it is %q", body)
		}
		return err
	})
	if body := fetch(t, pod, "/key"); !strings.Contains(body, "before") {
		t.Errorf("the key was changed under the running container: %q", body)
	}
	_, id, _ := strings.Cut(harness.ContainerStatus(pod, "main").ContainerID, "://")
	if err := node.KillContainer(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	until(t, "the new content in the next container", func(ctx context.Context) error {
		body, err := node.Get(ctx, "http://"+pod.Status.PodIP+":8080/key")
		if err == nil && !strings.Contains(body, "after") {
			err = fmt.Errorf("it is %q", body)
		}
		return err
	})
}
