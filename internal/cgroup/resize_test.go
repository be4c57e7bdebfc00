package cgroup

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"

	"kubelet/internal/podspec"
)

func TestResizePod(t *testing.T) {
	tree := startTree(t, nil)
	pod := testPod(burstableUID, list("100m", "32Mi"), list("200m", "64Mi"))
	if _, held, err := tree.EnsurePod(t.Context(), pod); err != nil || held {
		t.Fatal(held, err)
	}
	n := tree.level(v1.PodQOSBurstable).pod(pod.UID)
	cmd := exec.Command("/bin/sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for _, dir := range tree.dirs(n) {
		joinCgroup(t, filepath.Join(dir, "c1"), cmd.Process.Pid)
	}
	// What a process has got before it came here is not counted.
	counts := tree.paths(n)["memory"]
	if Version() == 2 {
		counts = tree.paths(n)[""]
		// As a runtime does for the containers that it puts there.
		if err := os.WriteFile(filepath.Join(counts, "cgroup.subtree_control"), []byte("+memory"), 0); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("/bin/sh", "-c", "echo $$ > "+filepath.Join(counts, "c1", "cgroup.procs")+" && exec /bin/ls /").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if usage, err := tree.MemoryUsage(pod, "c1"); err != nil || usage <= 0 {
		t.Errorf("memory usage: %d, %v", usage, err)
	}
	if _, err := tree.MemoryUsage(pod, "c2"); err == nil {
		t.Error("memory usage of a container that does not exist")
	}
	const mega = 1 << 20
	for _, step := range []struct {
		what                  string
		amounts               podspec.Amounts
		raise                 bool
		weight, quota, memory string
		error                 string
	}{
		{"up", podspec.Amounts{CPURequest: 250, CPULimit: 500, MemoryLimit: 128 * mega}, false, "10", "50000", "134217728", ""},
		{"raise one, keep the other", podspec.Amounts{CPURequest: 250, CPULimit: 300, MemoryLimit: 256 * mega}, true, "10", "50000", "268435456", ""},
		{"down", podspec.Amounts{CPURequest: 250, CPULimit: 300, MemoryLimit: 96 * mega}, false, "10", "30000", "100663296", ""},
		{"below usage", podspec.Amounts{CPURequest: 250, CPULimit: 200, MemoryLimit: 4096}, false, "10", "20000", "100663296",
			"attempting to set pod memory limit (4096) below current usage"},
		{"raise to less", podspec.Amounts{CPURequest: 250, CPULimit: 100, MemoryLimit: 4096}, true, "10", "20000", "100663296", ""},
		{"no limits", podspec.Amounts{CPURequest: 250}, false, "10", "max", "max", ""},
		{"raise to a limit", podspec.Amounts{CPURequest: 250, CPULimit: 100, MemoryLimit: 64 * mega}, true, "10", "max", "max", ""},
	} {
		atLeast, err := tree.ResizePod(t.Context(), pod, step.amounts, step.raise)
		if !atLeast || (err == nil) != (step.error == "") || err != nil && !strings.Contains(err.Error(), step.error) {
			t.Errorf("%s: %v, %v; want error %q", step.what, atLeast, err, step.error)
		}
		got := read(t, tree, n)
		if got["weight"] != step.weight || got["quota"] != step.quota || got["memory"] != step.memory {
			t.Errorf("%s: %v, want weight %s, quota %s, memory %s", step.what, got, step.weight, step.quota, step.memory)
		}
	}
	// The next run of the agent does not go below usage either.
	again := newTree(t, func() Config { c := tree.config; c.Registerer = nil; return c }())
	pod.Spec.Containers[0].Resources.Limits = list("200m", "4Ki")
	if _, held, err := again.EnsurePod(t.Context(), pod); err != nil || !held {
		t.Errorf("held %v, %v", held, err)
	}
	if got := read(t, tree, n); got["memory"] != "max" || got["quota"] != "20000" {
		t.Errorf("after a restart: %v", got)
	}
}
