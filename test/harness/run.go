package harness

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// PrivilegedEnv turns tests on that need root and real containers.
const PrivilegedEnv = "KUBELET_TEST_PRIVILEGED"

// Main runs the tests of a package that needs nodes. setUp is called once
// before them and returns what to do after them. Without the privileges the
// package is passed over with a reason, unless KUBELET_TEST_PRIVILEGED=1 asks
// for it: then that is a failure.
func Main(m *testing.M, setUp func() (tearDown func(), err error)) {
	RunIfInit()
	if os.Getenv(PrivilegedEnv) != "1" {
		fmt.Printf("SKIP: these tests run real containers as root; run them with `make test-node test-cluster` (%s=1)\n", PrivilegedEnv)
		os.Exit(0)
	}
	if os.Getuid() != 0 {
		fmt.Printf("FAIL: %s=1 is set, but this is not root: namespaces, mounts and cgroups cannot be made\n", PrivilegedEnv)
		os.Exit(1)
	}
	RemoveStale()
	tearDown, err := setUp()
	if err != nil {
		fmt.Printf("FAIL: set-up: %v\n    logs are in %s\n", err, artifactsRoot())
		os.Exit(1)
	}
	code := m.Run()
	tearDown()
	switch {
	case code != 0:
		fmt.Printf("FAIL: logs of all programs are in %s\n", artifactsRoot())
	case os.Getenv("KEEP") == "":
		os.RemoveAll(artifactsRoot())
	}
	os.Exit(code)
}

// CacheDir is the folder that test/setup fills.
func CacheDir() string {
	if d := os.Getenv("KUBELET_CACHE"); d != "" {
		return d
	}
	base, err := os.UserCacheDir()
	if err != nil {
		base = "/root/.cache"
	}
	return filepath.Join(base, "kubelet-dev")
}

// Artifacts is the folder of this run, with the logs of all programs.
func Artifacts() string { return artifactsRoot() }

// artifactsRoot is the folder of this run.
func artifactsRoot() string {
	return filepath.Join(first(os.Getenv("KUBELET_TEST_ARTIFACTS"), filepath.Join(os.TempDir(), "kubelet-test")), runID())
}

// runID names this run by what no other process ever has again: process id
// and start time.
func runID() string {
	pid := os.Getpid()
	return fmt.Sprintf("%d-%s", pid, startTime(pid))
}

// startTime of a process in clock ticks after boot (proc(5), field 22 of
// stat), or empty if there is none of that id.
func startTime(pid int) string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	_, rest, ok := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 20 {
		return ""
	}
	return fields[19]
}

const cgroupPrefix = "kubelettest-"

func cgroupName(node string) string { return cgroupPrefix + runID() + "-" + node }

// cgroupHierarchies are the mounted cgroup trees: one per controller on
// version 1, one in all on version 2.
func cgroupHierarchies() []string {
	const top = "/sys/fs/cgroup"
	if _, err := os.Stat(top + "/cgroup.controllers"); err == nil {
		return []string{top}
	}
	entries, err := os.ReadDir(top)
	if err != nil {
		return nil
	}
	var dirs []string
	for _, e := range entries {
		if e.IsDir() { // joined controllers have links beside the folder
			dirs = append(dirs, filepath.Join(top, e.Name()))
		}
	}
	return dirs
}

// makeCgroup makes the node's cgroup in every hierarchy. On version 1 a new
// cpuset is empty and admits no process until it is filled.
func makeCgroup(name string) error {
	for _, top := range cgroupHierarchies() {
		dir := filepath.Join(top, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make cgroup: %w", err)
		}
		for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
			value, err := os.ReadFile(filepath.Join(top, f))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, f), value, 0o644)
			}
			if err != nil {
				return fmt.Errorf("fill cpuset: %w", err)
			}
		}
	}
	return nil
}

// removeCgroup removes a node's cgroup tree. Its processes have been killed
// and may need a moment to be gone.
func removeCgroup(name string) error {
	var err error
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		err = nil
		for _, top := range cgroupHierarchies() {
			err = errors.Join(err, removeTree(filepath.Join(top, name)))
		}
		if err == nil {
			return nil
		}
	}
	return fmt.Errorf("remove cgroup %s: %w", name, err)
}

// removeTree removes cgroup folders from the leaves up; their files are the
// kernel's and go with them.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if e.IsDir() {
			err = errors.Join(err, removeTree(filepath.Join(dir, e.Name())))
		}
	}
	if rmErr := os.Remove(dir); rmErr != nil && !errors.Is(rmErr, fs.ErrNotExist) {
		err = errors.Join(err, rmErr)
	}
	return err
}

// RemoveStale removes the cgroups of runs that have ended without cleaning up.
// Their processes, mounts and networks ended with them.
func RemoveStale() {
	seen := map[string]bool{}
	for _, top := range cgroupHierarchies() {
		dirs, _ := filepath.Glob(filepath.Join(top, cgroupPrefix+"*"))
		for _, dir := range dirs {
			seen[filepath.Base(dir)] = true
		}
	}
	for name := range seen {
		parts := strings.SplitN(strings.TrimPrefix(name, cgroupPrefix), "-", 3)
		if len(parts) < 3 {
			continue
		}
		pid, err := strconv.Atoi(parts[0])
		if err != nil || startTime(pid) == parts[1] {
			continue // not ours, or still running
		}
		if err := removeCgroup(name); err != nil {
			progress("left by a run that ended: %v", err)
		}
	}
}
