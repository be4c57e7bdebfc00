package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/cgroups"
	v1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"

	"kubelet/internal/podspec"
)

// ResizePod gives the cgroup of a pod other limits and another weight while it
// is in use. With raise, no limit becomes lower than it is: containers that
// are to shrink come first. Without, they become what amounts says, except
// that a memory limit is never set below what is used, for the kernel would
// kill to enforce it; that is an error, and all else is done.
//
// atLeast says whether the limits allow all that amounts does, also after an
// error. Idempotent. What EnsurePod says about refused limits holds here too.
func (t *Tree) ResizePod(ctx context.Context, pod *v1.Pod, amounts podspec.Amounts, raise bool) (atLeast bool, err error) {
	if !t.config.PerQOS {
		return true, nil
	}
	if err := checkUID(pod.UID); err != nil {
		return false, err
	}
	n := t.level(podspec.QoS(pod)).pod(pod.UID)
	err = t.one.do(ctx, string(pod.UID), func() error {
		if !t.started() {
			return errNotStarted
		}
		limits := t.resized(amounts)
		inUse := t.hold(n, &limits, raise)
		err := t.set(n, limits)
		if e := (*refused)(nil); errors.As(err, &e) && !e.essential() {
			klog.FromContext(ctx).Error(err, "Some limits of the pod's cgroup were refused", "pod", klog.KObj(pod), "podUID", pod.UID)
			err = nil
		}
		if atLeast = err == nil; err == nil && inUse != nil {
			err = inUse
		}
		return err
	})
	if err != nil {
		return atLeast, fmt.Errorf("resize the pod's cgroup: %w", err)
	}
	return true, nil
}

// resized are the limits for a pod that runs: what is not limited is lifted.
func (t *Tree) resized(a podspec.Amounts) Limits {
	l := Limits{CPUShares: sharesOf(a.CPURequest), Memory: -1}
	l.CPUQuota, l.CPUPeriod = t.config.quota(a.CPULimit)
	if a.MemoryLimit > 0 {
		l.Memory = a.MemoryLimit
	}
	return l
}

// hold takes back limits that must not become lower: all with raise, else a
// memory limit below usage, which it returns as an error.
func (t *Tree) hold(n name, l *Limits, raise bool) error {
	if raise {
		if quota, ok := t.cpuQuota(n); ok && lowerLimit(l.CPUQuota, quota) {
			l.CPUQuota = quota
		}
	}
	if l.Memory <= 0 {
		return nil
	}
	if raise {
		if limit, ok := t.readNumber(n, "memory", "memory.limit_in_bytes", "memory.max"); ok && lowerLimit(l.Memory, limit) {
			l.Memory = 0
		}
		return nil
	}
	usage, ok := t.readNumber(n, "memory", "memory.usage_in_bytes", "memory.current")
	if !ok || usage < l.Memory {
		return nil
	}
	err := fmt.Errorf("cannot decrease memory limits: attempting to set pod memory limit (%d) below current usage (%d)", l.Memory, usage)
	l.Memory = 0
	return err
}

// lowerLimit compares limits of which a negative one means none.
func lowerLimit(limit, other int64) bool { return limit >= 0 && (other < 0 || limit < other) }

// cpuQuota is the CPU time per period that the cgroup has, -1 for no limit.
func (t *Tree) cpuQuota(n name) (int64, bool) {
	return t.readNumber(n, "cpu", "cpu.cfs_quota_us", "cpu.max")
}

// readNumber reads the first number of a file of the cgroup, by version; -1
// stands for max.
func (t *Tree) readNumber(n name, controller, v1File, v2File string) (int64, bool) {
	dir, file := t.paths(n)[controller], v1File
	if Version() == 2 {
		dir, file = t.paths(n)[""], v2File
	}
	return readNumber(dir, file)
}

func readNumber(dir, file string) (int64, bool) {
	if dir == "" {
		return 0, false
	}
	text, err := cgroups.ReadFile(dir, file)
	if err != nil {
		return 0, false
	}
	first, _, _ := strings.Cut(strings.TrimSpace(text), " ")
	if first == "max" {
		return -1, true
	}
	number, err := strconv.ParseInt(first, 10, 64)
	return number, err == nil
}

// MemoryUsage is how much memory, in bytes, the container of that id uses now;
// 0 if the runtime owns all cgroups.
func (t *Tree) MemoryUsage(pod *v1.Pod, id string) (int64, error) {
	if !t.config.PerQOS {
		return 0, nil
	}
	if err := checkUID(pod.UID); err != nil {
		return 0, err
	}
	n := t.level(podspec.QoS(pod)).pod(pod.UID)
	dir, file := t.paths(n)["memory"], "memory.usage_in_bytes"
	if Version() == 2 {
		dir, file = t.paths(n)[""], "memory.current"
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, fmt.Errorf("read memory usage of container %s: %w", id, err)
	}
	for _, e := range entries {
		if e.IsDir() && id != "" && strings.Contains(e.Name(), id) {
			if usage, ok := readNumber(filepath.Join(dir, e.Name()), file); ok {
				return usage, nil
			}
		}
	}
	return 0, fmt.Errorf("read memory usage of container %s: it has no readable %s below %s", id, file, dir)
}
