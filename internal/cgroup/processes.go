package cgroup

import (
	"bufio"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"

	"kubelet/internal/podspec"
)

// Processes returns the ids of the processes that are directly in the cgroup
// of one of the pod's containers or sandboxes, as seen from here; none if
// there is no such cgroup. Runtimes name it after the id: "ID" (cgroupfs) or
// "cri-containerd-ID.scope" (systemd), with a prefix of their own.
func (t *Tree) Processes(pod *v1.Pod, id string) (pids []int) {
	if !t.config.PerQOS || id == "" || checkUID(pod.UID) != nil {
		return nil
	}
	dirs := t.dirs(t.level(podspec.QoS(pod)).pod(pod.UID))
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, e := range entries {
			if !e.IsDir() || !strings.Contains(e.Name(), id) {
				continue
			}
			f, err := os.Open(filepath.Join(dir, e.Name(), "cgroup.procs"))
			if err != nil {
				continue
			}
			for lines := bufio.NewScanner(f); lines.Scan(); {
				// 0 stands for a process of another PID namespace.
				if pid, err := strconv.Atoi(lines.Text()); err == nil && pid > 0 {
					pids = append(pids, pid)
				}
			}
			f.Close()
			if len(pids) > 0 {
				return pids
			}
		}
	}
	return nil
}
