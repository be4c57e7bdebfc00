package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"

	"kubelet/test/harness"
)

// What a static pod asks for is what its cgroup says. (On version 1; the guest
// of test/guest has version 2.)
func TestPodCgroup(t *testing.T) {
	t.Parallel()
	put(t, "limits.yaml", "limits")
	running(t, "limits", "main")
	pod := status(t, "limits", "Ready", harness.Ready)
	if pod.Status.QOSClass != v1.PodQOSBurstable {
		t.Fatalf("QoS class: got %s, want Burstable", pod.Status.QOSClass)
	}
	for _, v := range []struct{ controller, file, want string }{
		{"memory", "memory.limit_in_bytes", "67108864"},
		{"cpu", "cpu.cfs_quota_us", "25000"},
		{"cpu", "cpu.cfs_period_us", "100000"},
		{"cpu", "cpu.shares", "102"},
		{"pids", "pids.max", "4096"},
	} {
		dir, err := node.PodCgroup(v.controller, pod)
		if err != nil {
			t.Error(err)
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, v.file))
		if got := strings.TrimSpace(string(text)); err != nil || got != v.want {
			t.Errorf("%s: got %q, %v, want %q", v.file, got, err, v.want)
		}
		// The container's cgroup lies in the pod's.
		entries, err := os.ReadDir(dir)
		children := 0
		for _, e := range entries {
			if e.IsDir() {
				children++
			}
		}
		if err != nil || children != 2 {
			t.Errorf("%s holds %d cgroups, %v; want sandbox and container", dir, children, err)
		}
	}
}

// What a pod asks for as a whole bounds its cgroup, and those of its
// containers that name no limits of their own.
func TestPodLevelResources(t *testing.T) {
	t.Parallel()
	put(t, "pod-resources.yaml", "pod-resources")
	main, own := running(t, "pod-resources", "main"), running(t, "pod-resources", "own")
	pod := status(t, "pod-resources", "Ready", harness.Ready)
	if pod.Status.QOSClass != v1.PodQOSBurstable {
		t.Fatalf("QoS class: got %s, want Burstable", pod.Status.QOSClass)
	}
	for _, v := range []struct{ container, controller, file, want string }{
		{"", "memory", "memory.limit_in_bytes", "134217728"},
		{"", "cpu", "cpu.cfs_quota_us", "50000"},
		{"", "cpu", "cpu.shares", "204"},
		{main.Id, "memory", "memory.limit_in_bytes", "134217728"},
		{main.Id, "cpu", "cpu.cfs_quota_us", "50000"},
		{own.Id, "memory", "memory.limit_in_bytes", "33554432"},
		{own.Id, "cpu", "cpu.cfs_quota_us", "10000"},
		{own.Id, "cpu", "cpu.shares", "51"},
	} {
		dir, err := node.PodCgroup(v.controller, pod)
		if err != nil {
			t.Error(err)
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, v.container, v.file))
		if got := strings.TrimSpace(string(text)); err != nil || got != v.want {
			t.Errorf("%s %s: got %q, %v, want %q", v.container, v.file, got, err, v.want)
		}
	}
}
