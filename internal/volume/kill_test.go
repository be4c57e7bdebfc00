package volume_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"

	"kubelet/internal/volume"
)

var errKilled = errors.New("killed")

// killAt makes the agent die at the nth change it makes; nothing that comes
// later reaches the disk. It reports whether there was an nth change.
func killAt(r *volume.Reconciler, n int) (killed *bool) {
	killed = new(bool)
	left := n
	var mu sync.Mutex // volumes are mounted side by side
	r.SetFault(func(verb, path string) error {
		mu.Lock()
		defer mu.Unlock()
		if left == 0 || *killed {
			*killed = true
			return errKilled
		}
		left--
		return nil
	})
	return killed
}

// An agent that is killed before any of its changes, and started again, ends
// where one that lives on ends, and no reader ever sees half an update.
func TestKilledAtEachStep(t *testing.T) {
	t.Run("disk", func(t *testing.T) {
		testKilledAtEachStep(t, emptyDir("scratch", ""), configMap("settings"))
	})
	t.Run("memory", func(t *testing.T) {
		needRoot(t)
		testKilledAtEachStep(t, emptyDir("scratch", v1.StorageMediumMemory), configMap("settings"),
			v1.Volume{Name: "all", VolumeSource: v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{
				{ConfigMap: &v1.ConfigMapProjection{LocalObjectReference: v1.LocalObjectReference{Name: "settings"}}},
				{ServiceAccountToken: &v1.ServiceAccountTokenProjection{Path: "d/token"}}}}}})
	})
}

func testKilledAtEachStep(t *testing.T, volumes ...v1.Volume) {
	ctx := klog.NewContext(context.Background(), klog.Logger{})
	first := map[string]string{"a": "1", "b": "1", "old": "1"}
	second := map[string]string{"a": "2", "b": "2", "new": "2"}

	// What it looks like when nobody is killed.
	contents := func(n *node, pod *v1.Pod) string {
		var all strings.Builder
		mounts, err := n.start().Mount(ctx, pod)
		must(t, err)
		for _, v := range pod.Spec.Volumes {
			fmt.Fprintf(&all, "%s:\n%s", v.Name, listing(t, mounts[v.Name].Path))
		}
		return all.String()
	}
	reference := newNode(t)
	pod := newPod("uid-1", volumes...)
	pod.Spec.SecurityContext = nil
	reference.api.setConfigMap("settings", first)
	wantFirst := contents(reference, pod)
	reference.api.setConfigMap("settings", second)
	wantSecond := contents(reference, pod)

	steps := 0
	for step := 0; ; step++ {
		n := newNode(t)
		n.api.setConfigMap("settings", first)
		r := n.start()
		killed := killAt(r, step)
		_, err := r.Mount(ctx, pod)
		if *killed != (err != nil) {
			t.Fatalf("mount killed at step %d: %v", step, err)
		}
		if got := contents(n, pod); got != wantFirst {
			t.Fatalf("mounted after a kill at step %d:\n%s\nwant:\n%s", step, got, wantFirst)
		}
		noLeftovers(t, n, pod)
		must(t, n.start().Unmount(ctx, pod.UID))
		n.clean(pod.UID)
		if steps += step; !*killed {
			break
		}
	}

	for step := 0; ; step++ {
		n := newNode(t)
		n.api.setConfigMap("settings", first)
		_ = contents(n, pod)
		n.api.setConfigMap("settings", second)
		r := n.start()
		killed := killAt(r, step)
		// Older content is there, so that the pod need not fail.
		if _, err := r.Mount(ctx, pod); err != nil {
			if !*killed {
				t.Fatalf("update: %v", err)
			}
		}
		reader := n.dir(pod, "kubernetes.io~configmap", "settings")
		if a, b := read(t, reader, "..data/a"), read(t, reader, "..data/b"); a != b || a == "" {
			t.Fatalf("after a kill at step %d a reader sees %q and %q", step, a, b)
		}
		if got := contents(n, pod); got != wantSecond {
			t.Fatalf("updated after a kill at step %d:\n%s\nwant:\n%s", step, got, wantSecond)
		}
		noLeftovers(t, n, pod)
		must(t, n.start().Unmount(ctx, pod.UID))
		n.clean(pod.UID)
		if !*killed {
			break
		}
	}

	for step := 0; ; step++ {
		n := newNode(t)
		n.api.setConfigMap("settings", first)
		_ = contents(n, pod)
		r := n.start()
		killed := killAt(r, step)
		err := r.Unmount(ctx, pod.UID)
		if *killed != (err != nil) {
			t.Fatalf("unmount killed at step %d: %v", step, err)
		}
		if *killed {
			onDisk, err := n.start().OnDisk()
			if err != nil || len(onDisk) != 1 || onDisk[0] != pod.UID {
				t.Fatalf("after a kill at step %d, on disk: %v, %v; want the pod", step, onDisk, err)
			}
		}
		must(t, n.start().Unmount(ctx, pod.UID))
		n.clean(pod.UID)
		if !*killed {
			break
		}
	}
}

func read(t testing.TB, parts ...string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(parts...))
	must(t, err)
	return string(data)
}

// noLeftovers asserts that no version is on disk but the one in force.
func noLeftovers(t *testing.T, n *node, pod *v1.Pod) {
	t.Helper()
	versions, err := filepath.Glob(filepath.Join(n.podDir(pod.UID), "volumes/*/*/..*"))
	must(t, err)
	links := 0
	for _, v := range versions {
		if filepath.Base(v) == "..data" {
			links++
		}
	}
	if len(versions) != 2*links {
		t.Fatalf("left over: %v", versions)
	}
}
