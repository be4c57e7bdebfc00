package cgroup

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/cgroups"
	"github.com/prometheus/client_golang/prometheus"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// These tests change the machine's cgroups, below a root of their own, which
// they remove. KUBELET_TEST_CGROUP_DRIVER chooses the driver (cgroupfs if
// unset); the binary (go test -c, CGO_ENABLED=0) runs alone in a guest.

func needPrivileges(t *testing.T) {
	t.Helper()
	if os.Getuid() == 0 {
		return
	}
	if os.Getenv("KUBELET_TEST_PRIVILEGED") == "1" {
		t.Fatal("this test needs root, and KUBELET_TEST_PRIVILEGED=1 says that it must run")
	}
	t.Skip("needs root: it makes cgroups")
}

func testDriver(t *testing.T) Driver {
	d := Driver(os.Getenv("KUBELET_TEST_CGROUP_DRIVER"))
	if d == "" {
		d = Cgroupfs
	}
	t.Logf("driver %s, cgroup v%d", d, Version())
	return d
}

// startTree returns a started tree in a cgroup root of its own.
func startTree(t *testing.T, change func(*Config)) *Tree {
	t.Helper()
	needPrivileges(t)
	config := Config{
		Driver: testDriver(t),
		Root:   fmt.Sprintf("/kubelettest%d", os.Getpid()),
		PerQOS: true,
		NodeAllocatable: v1.ResourceList{
			v1.ResourceCPU:    resource.MustParse("1500m"),
			v1.ResourceMemory: resource.MustParse("1Gi"),
			"pid":             resource.MustParse("5000"),
		},
		Enforce:      true,
		PodPidsLimit: 100,
		CPUCFSQuota:  true,
		Registerer:   prometheus.NewRegistry(),
	}
	if change != nil {
		change(&config)
	}
	tree := newTree(t, config)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
		defer cancel()
		uids, err := tree.Pods()
		if err != nil {
			t.Error(err)
		}
		for _, uid := range uids {
			if err := tree.RemovePod(ctx, uid); err != nil {
				t.Error(err)
			}
		}
		for n := tree.level(v1.PodQOSBestEffort); len(n) > 0; n = n[:len(n)-1] {
			if err := removeLevel(tree, n); err != nil {
				t.Error(err)
			}
			if len(n) == len(tree.root)+1 && strings.HasPrefix(n[len(n)-1], "best") {
				if err := removeLevel(tree, tree.level(v1.PodQOSBurstable)); err != nil {
					t.Error(err)
				}
			}
		}
	})
	return tree
}

func newTree(t *testing.T, config Config) *Tree {
	t.Helper()
	tree, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := tree.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return tree
}

// removeLevel removes a level that has no pods left, in every hierarchy.
func removeLevel(tree *Tree, n name) error {
	var dirs []string
	below := strings.TrimPrefix(n.path(tree.config.Driver), "/")
	for _, base := range tree.dirs(tree.root) {
		mount := strings.TrimSuffix(base, tree.root.path(tree.config.Driver))
		dirs = append(dirs, filepath.Join(mount, below))
	}
	if tree.config.Driver == Systemd {
		_ = exec.Command("systemctl", "stop", filepath.Base(below)).Run()
	}
	return removeAll(dirs)
}

func testPod(uid string, requests, limits v1.ResourceList) *v1.Pod {
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p-" + uid, Namespace: "default", UID: types.UID(uid)},
		Spec: v1.PodSpec{Containers: []v1.Container{{
			Name:      "c",
			Resources: v1.ResourceRequirements{Requests: requests, Limits: limits},
		}}},
	}
}

func list(cpu, memory string) v1.ResourceList {
	l := v1.ResourceList{}
	if cpu != "" {
		l[v1.ResourceCPU] = resource.MustParse(cpu)
	}
	if memory != "" {
		l[v1.ResourceMemory] = resource.MustParse(memory)
	}
	return l
}

// read returns what the kernel holds for the cgroup, in v1's terms.
func read(t *testing.T, tree *Tree, n name) map[string]string {
	t.Helper()
	paths := tree.paths(n)
	file := func(controller, file string) string {
		dir, ok := paths[controller]
		if Version() == 2 {
			dir, ok = paths[""], true
		}
		if !ok {
			return ""
		}
		data, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Errorf("read %s: %v", file, err)
		}
		return strings.TrimSpace(string(data))
	}
	got := map[string]string{"pids": file("pids", "pids.max")}
	if Version() == 2 {
		got["weight"] = file("", "cpu.weight")
		got["quota"], _, _ = strings.Cut(file("", "cpu.max"), " ")
		got["memory"] = file("", "memory.max")
	} else {
		// The same words as v2, so that one table serves both.
		var shares uint64
		fmt.Sscan(file("cpu", "cpu.shares"), &shares)
		got["weight"] = fmt.Sprint(weightOf(shares))
		got["quota"] = strings.Replace(file("cpu", "cpu.cfs_quota_us"), "-1", "max", 1)
		got["memory"] = file("memory", "memory.limit_in_bytes")
		if len(got["memory"]) > 18 {
			got["memory"] = "max"
		}
	}
	return got
}

const (
	guaranteedUID = "11111111-1111-4111-8111-111111111111"
	burstableUID  = "22222222-2222-4222-8222-222222222222"
	bestEffortUID = "33333333-3333-4333-8333-333333333333"
)

func TestTreeOnThisMachine(t *testing.T) {
	tree := startTree(t, nil)
	ctx := t.Context()
	pods := []*v1.Pod{
		testPod(guaranteedUID, list("500m", "64Mi"), list("500m", "64Mi")),
		testPod(burstableUID, list("250m", ""), nil),
		testPod(bestEffortUID, nil, nil),
	}
	for round := range 2 { // the second changes nothing
		for _, pod := range pods {
			parent, _, err := tree.EnsurePod(ctx, pod)
			if err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
			if tree.config.Driver == Systemd != strings.HasSuffix(parent, ".slice") || !strings.HasPrefix(parent, "/") {
				t.Errorf("parent %q does not fit driver %s", parent, tree.config.Driver)
			}
		}
	}
	if err := tree.UpdateQoS(ctx, pods); err != nil {
		t.Fatal(err)
	}
	burstable := tree.level(v1.PodQOSBurstable)
	for _, c := range []struct {
		name name
		want map[string]string
	}{
		{tree.root, map[string]string{"weight": "59", "quota": "max", "memory": "1073741824", "pids": "5000"}},
		{burstable, map[string]string{"weight": "10", "quota": "max", "memory": "max", "pids": "max"}},
		{tree.level(v1.PodQOSBestEffort), map[string]string{"weight": "1", "quota": "max", "memory": "max", "pids": "max"}},
		{tree.root.pod(guaranteedUID), map[string]string{"weight": "20", "quota": "50000", "memory": "67108864", "pids": "100"}},
		{burstable.pod(burstableUID), map[string]string{"weight": "10", "quota": "max", "memory": "max", "pids": "100"}},
		{tree.level(v1.PodQOSBestEffort).pod(bestEffortUID), map[string]string{"weight": "1", "quota": "max", "memory": "max", "pids": "100"}},
	} {
		if diff := cmp.Diff(c.want, read(t, tree, c.name)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name.path(tree.config.Driver), diff)
		}
	}

	// An agent that starts anew finds all of it.
	again := newTree(t, func() Config { c := tree.config; c.Registerer = nil; return c }())
	uids, err := again.Pods()
	if err != nil {
		t.Fatal(err)
	}
	if want := []types.UID{guaranteedUID, burstableUID, bestEffortUID}; !slices.Equal(uids, want) {
		t.Errorf("pods on disk: %v, want %v", uids, want)
	}
	for _, uid := range uids {
		for range 2 {
			if err := again.RemovePod(ctx, uid); err != nil {
				t.Fatal(err)
			}
		}
	}
	if uids, _ := again.Pods(); len(uids) != 0 {
		t.Errorf("left after removal: %v", uids)
	}
	// The pods are gone, so the level gives its weight back.
	if err := tree.UpdateQoS(ctx, nil); err != nil {
		t.Fatal(err)
	}
	if got := read(t, tree, burstable)["weight"]; got != "1" {
		t.Errorf("weight of the burstable level without pods: %s", got)
	}
}

// A cgroup that a killed agent made but never limited is completed.
func TestHalfMadePodIsCompleted(t *testing.T) {
	tree := startTree(t, nil)
	n := tree.root.pod(guaranteedUID)
	if _, err := tree.create(n); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(tree.dirs(n)[0]); err != nil && tree.config.Driver == Cgroupfs {
		t.Fatal(err)
	}
	pod := testPod(guaranteedUID, list("500m", "64Mi"), list("500m", "64Mi"))
	for range 2 {
		if _, _, err := tree.EnsurePod(t.Context(), pod); err != nil {
			t.Fatal(err)
		}
		if got := read(t, tree, n); got["memory"] != "67108864" || got["quota"] != "50000" {
			t.Errorf("limits: %v", got)
		}
		// Somebody else removes it under a running agent: made again.
		if err := removeAll(tree.dirs(n)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRemovePodKillsWhatIsLeft(t *testing.T) {
	tree := startTree(t, nil)
	pod := testPod(burstableUID, list("100m", ""), nil)
	if _, _, err := tree.EnsurePod(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	n := tree.level(v1.PodQOSBurstable).pod(pod.UID)

	// Two containers, one nested deeper; both ignore SIGTERM, and the first
	// forks a child. A third process is a stranger outside.
	var inside []*exec.Cmd
	for _, below := range []string{"c1", "c2/nested/deeper"} {
		cmd := exec.Command("/bin/sh", "-c", "trap '' TERM; sleep 1000 & sleep 1000; wait")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		inside = append(inside, cmd)
		for _, dir := range tree.dirs(n) {
			joinCgroup(t, filepath.Join(dir, below), cmd.Process.Pid)
		}
	}
	if got := tree.Processes(pod, "c1"); len(got) == 0 || !slices.Contains(got, inside[0].Process.Pid) {
		t.Errorf("processes of the first container: %v, want %d among them", got, inside[0].Process.Pid)
	}
	if got := tree.Processes(pod, "c3"); len(got) != 0 {
		t.Errorf("processes of a container that is not there: %v", got)
	}
	stranger := exec.Command("sleep", "1000")
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stranger.Process.Kill(); _ = stranger.Wait() }()

	done := make(chan error, len(inside))
	for _, cmd := range inside {
		go func() { done <- cmd.Wait() }()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := tree.RemovePod(ctx, pod.UID); err != nil {
		t.Fatal(err)
	}
	for range inside {
		if err := <-done; err == nil || !strings.Contains(err.Error(), "killed") {
			t.Errorf("process inside ended with %v", err)
		}
	}
	if left := existing(tree.dirs(n)); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if err := stranger.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("a process outside of the pod was hit: %v", err)
	}
}

// joinCgroup makes a cgroup and moves a process there, in one hierarchy.
func joinCgroup(t *testing.T, dir string, pid int) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if strings.HasPrefix(dir, "/sys/fs/cgroup/cpuset/") {
		for d, parents := dir, []string(nil); ; d = filepath.Dir(d) {
			parents = append(parents, d)
			if data, err := cgroups.ReadFile(filepath.Dir(d), "cpuset.mems"); err == nil && strings.TrimSpace(data) != "" {
				for _, p := range slices.Backward(parents) {
					for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
						data, _ := cgroups.ReadFile(filepath.Dir(p), file)
						if err := cgroups.WriteFile(p, file, strings.TrimSpace(data)); err != nil {
							t.Fatal(err)
						}
					}
				}
				break
			}
		}
	}
	if err := cgroups.WriteCgroupProc(dir, pid); err != nil {
		t.Fatal(err)
	}
}

// An orphan may stand at a QoS level that its pod would not get today, and in
// one hierarchy only.
func TestOrphansAreFoundAndRemoved(t *testing.T) {
	tree := startTree(t, nil)
	n := tree.level(v1.PodQOSBestEffort).pod("orphan-1")
	dir := tree.dirs(n)[0]
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "container"), 0o755); err != nil {
		t.Fatal(err)
	}
	uids, err := tree.Pods()
	if err != nil || !slices.Equal(uids, []types.UID{"orphan-1"}) {
		t.Fatalf("pods: %v, %v", uids, err)
	}
	if err := tree.RemovePod(t.Context(), "orphan-1"); err != nil {
		t.Fatal(err)
	}
	if left := existing(tree.dirs(n)); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestHostilePodTouchesNothing(t *testing.T) {
	tree := startTree(t, nil)
	for _, uid := range []string{"../../../x", "", "a/b", "x_y"} {
		if _, _, err := tree.EnsurePod(t.Context(), testPod(uid, nil, nil)); err == nil {
			t.Errorf("UID %q got a cgroup", uid)
		}
		if err := tree.RemovePod(t.Context(), types.UID(uid)); err == nil {
			t.Errorf("UID %q could be removed", uid)
		}
	}
}

func TestLiftedNodeLimits(t *testing.T) {
	tree := startTree(t, nil)
	config := tree.config
	config.Enforce, config.Registerer = false, nil
	newTree(t, config)
	if got := read(t, tree, tree.root); got["memory"] != "max" || got["pids"] != "max" || got["weight"] != "59" {
		t.Errorf("limits of the level: %v", got)
	}
}

func TestWithoutPerQOSNothingHappens(t *testing.T) {
	tree, err := New(Config{Driver: Cgroupfs})
	if err != nil {
		t.Fatal(err)
	}
	pod := testPod(guaranteedUID, nil, nil)
	if err := tree.Start(t.Context()); err != nil {
		t.Error(err)
	}
	if parent, _, err := tree.EnsurePod(t.Context(), pod); parent != "" || err != nil {
		t.Errorf("parent %q, %v", parent, err)
	}
	if err := tree.RemovePod(t.Context(), pod.UID); err != nil {
		t.Error(err)
	}
	if uids, err := tree.Pods(); uids != nil || err != nil {
		t.Errorf("pods %v, %v", uids, err)
	}
	if err := tree.UpdateQoS(t.Context(), nil); err != nil {
		t.Error(err)
	}
}

func TestCallsBeforeStartFail(t *testing.T) {
	tree, err := New(Config{Driver: Cgroupfs, PerQOS: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := tree.EnsurePod(t.Context(), testPod(guaranteedUID, nil, nil)); err == nil {
		t.Error("EnsurePod succeeded before Start")
	}
	if _, err := tree.Pods(); err == nil {
		t.Error("Pods succeeded before Start")
	}
}

func TestMembership(t *testing.T) {
	file := []byte("4:memory:/kubepods/burstable/podabc/1234\n0::/\n")
	for cgroup, want := range map[string]bool{"podabc": true, "podab": false, "podabcd": false, "1234": true} {
		if got := isMember(file, cgroup); got != want {
			t.Errorf("member of %s: %v", cgroup, got)
		}
	}
}
