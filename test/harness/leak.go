package harness

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// leakTimeout is how long a kubelet may take to clean up after the last pod.
// Upstream collects dead sandboxes and logs once a minute.
func leakTimeout() time.Duration {
	if Upstream() {
		return 3 * time.Minute
	}
	return 30 * time.Second
}

// NoTrace waits until nothing is left of pods that are gone: no sandbox or
// container, no pod directory, log directory or link, no mount, no cgroup and
// no network address. Only what belongs to the given UIDs counts; without any,
// everything on the node does.
func (n *Node) NoTrace(ctx context.Context, uids ...types.UID) error {
	return n.NoTraceFor(ctx, leakTimeout(), uids...)
}

// NoTraceFor is NoTrace with another patience.
func (n *Node) NoTraceFor(ctx context.Context, timeout time.Duration, uids ...types.UID) error {
	return Until(ctx, timeout, "nothing to be left of the pods", func(ctx context.Context) error {
		return n.traces(ctx, uids)
	})
}

func (n *Node) traces(ctx context.Context, uids []types.UID) error {
	var found []string
	// A cgroup of the systemd driver has underscores for the dashes of a UID.
	matches := func(name string) bool {
		if len(uids) == 0 {
			return true
		}
		for _, uid := range uids {
			if strings.Contains(name, string(uid)) || strings.Contains(name, strings.ReplaceAll(string(uid), "-", "_")) {
				return true
			}
		}
		return false
	}
	sandboxes, err := n.Runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return fmt.Errorf("list sandboxes: %w", err)
	}
	for _, s := range sandboxes.Items {
		if matches(s.Metadata.Uid) {
			found = append(found, fmt.Sprintf("sandbox %s of %s (%s)", s.Id[:12], s.Metadata.Name, s.State))
		}
	}
	containers, err := n.Runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	for _, c := range containers.Containers {
		if matches(c.Labels[labelPodUID]) {
			found = append(found, fmt.Sprintf("container %s of %s (%s)", c.Metadata.Name, c.Labels[labelPodName], c.State))
		}
	}
	for _, dir := range []string{"/var/lib/kubelet/pods", "/var/log/pods"} {
		entries, err := os.ReadDir(n.Path(dir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("list %s: %w", dir, err)
		}
		for _, e := range entries {
			if matches(e.Name()) {
				found = append(found, "directory "+filepath.Join(dir, e.Name()))
			}
		}
	}
	links, err := os.ReadDir(n.Path("/var/log/containers"))
	if err != nil {
		return fmt.Errorf("list log links: %w", err)
	}
	for _, e := range links {
		target, err := os.Readlink(n.Path(filepath.Join("/var/log/containers", e.Name())))
		if err == nil && matches(target) {
			found = append(found, "log link "+e.Name())
		}
	}
	mounts, err := n.podMounts()
	if err != nil {
		return err
	}
	for _, m := range mounts {
		if matches(m) {
			found = append(found, "mount "+m)
		}
	}
	for _, dir := range n.podCgroups() {
		if matches(dir) {
			found = append(found, "cgroup "+dir)
		}
	}
	if len(uids) == 0 {
		addresses, _ := filepath.Glob(n.Path("/run/cni-ipam/pods/10.*"))
		for _, a := range addresses {
			found = append(found, "network address "+filepath.Base(a))
		}
	}
	if len(found) > 0 {
		return fmt.Errorf("%d left: %s", len(found), strings.Join(found[:min(len(found), 12)], "; "))
	}
	return nil
}

// Mounts is the node's mount table, in the form of proc(5) mountinfo.
func (n *Node) Mounts() ([]byte, error) {
	if n.bare {
		return os.ReadFile("/proc/self/mountinfo")
	}
	return os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", n.init.Process.Pid))
}

// podMounts are the mount points below the pod directories.
func (n *Node) podMounts() ([]string, error) {
	text, err := n.Mounts()
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	var found []string
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], "/var/lib/kubelet/pods/") {
			found = append(found, fields[4])
		}
	}
	return found, nil
}

// podCgroups are the folders of pod cgroups in all hierarchies.
func (n *Node) podCgroups() []string {
	var found []string
	for _, top := range cgroupHierarchies() {
		root := filepath.Join(top, n.cgroupRoot)
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.IsDir() {
				return nil // it went away meanwhile
			}
			if name := d.Name(); strings.HasPrefix(name, "pod") || strings.Contains(name, "-pod") {
				found = append(found, path)
				return fs.SkipDir
			}
			return nil
		})
	}
	return found
}

// ContainerPid is the id, as the test sees it, of the first process in the
// cgroup of a running container.
func (n *Node) ContainerPid(id string) (int, error) {
	for _, top := range cgroupHierarchies() {
		pid := 0
		_ = filepath.WalkDir(filepath.Join(top, n.cgroupRoot), func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.IsDir() || !strings.Contains(d.Name(), id) {
				return nil
			}
			text, _ := os.ReadFile(filepath.Join(path, "cgroup.procs"))
			if first, _, found := strings.Cut(string(text), "\n"); found {
				pid, _ = strconv.Atoi(first)
			}
			return fs.SkipAll
		})
		if pid > 0 {
			return pid, nil
		}
	}
	return 0, fmt.Errorf("no process in a cgroup of container %s", id)
}

// RemoveCgroup removes a cgroup below the node's root, given by its path
// there, from all hierarchies.
func (n *Node) RemoveCgroup(path string) error {
	var err error
	for _, top := range cgroupHierarchies() {
		err = errors.Join(err, removeTree(filepath.Join(top, n.cgroupRoot, path)))
	}
	return err
}

// PodCgroup is the folder of a pod's cgroup on version 1, for one controller.
func (n *Node) PodCgroup(controller string, pod *v1.Pod) (string, error) {
	level := ""
	switch pod.Status.QOSClass {
	case v1.PodQOSBurstable:
		level = "burstable"
	case v1.PodQOSBestEffort:
		level = "besteffort"
	}
	// A static pod's cgroup has the UID of the pod itself, which the mirror
	// pod carries as an annotation.
	uid := string(pod.UID)
	if hash := pod.Annotations["kubernetes.io/config.hash"]; hash != "" {
		uid = hash
	}
	dir := filepath.Join("/sys/fs/cgroup", controller, n.cgroupRoot, "kubepods", level, "pod"+uid)
	if _, err := os.Stat(dir); err != nil {
		return "", fmt.Errorf("find pod cgroup: %w", err)
	}
	return dir, nil
}
