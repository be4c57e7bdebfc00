package preflight

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// checkSwap looks for swap in use: /proc/swaps has a heading and one line for
// each device or file (proc_swaps(5)).
func checkSwap(_ context.Context, cfg *Config, r *Report) error {
	r.TmpfsNoswap = !r.UserNamespace && kernelAtLeast(cfg.Root, 6, 4)
	text, err := readLine(cfg.Root, "proc/swaps")
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a kernel without swap
	}
	if err != nil {
		return fmt.Errorf("read /proc/swaps: %w", reason(err))
	}
	var names []string
	for i, line := range strings.Split(text, "\n") {
		if fields := strings.Fields(line); i > 0 && len(fields) > 0 {
			names = append(names, fields[0])
			if kib, err := strconv.ParseInt(field(fields, 2), 10, 64); err == nil {
				r.SwapTotal += kib << 10
			}
		}
	}
	r.SwapOn = len(names) > 0
	switch {
	case !r.SwapOn:
		return nil
	case cfg.FailSwapOn:
		return fmt.Errorf("swap is on (%s): turn it off (swapoff -a, /etc/fstab), or set failSwapOn: false", strings.Join(names, ", "))
	case !r.TmpfsNoswap:
		r.warn("swap is on (%s) and this kernel cannot keep tmpfs out of it: secrets and memory-backed volumes may reach the disk", strings.Join(names, ", "))
	}
	return nil
}

func field(fields []string, i int) string {
	if i >= len(fields) {
		return ""
	}
	return fields[i]
}

// checkSwapController looks for the file of the kubelet's own cgroup that
// limits its swap (cgroup-v2 document, memory.swap.max; cgroup-v1/memory.rst,
// memory.memsw.limit_in_bytes): the kernel may have been built or booted
// without. The root cgroup never has it on version 2, and any other one tells
// for all. It runs after the version of the cgroups is known.
func checkSwapController(_ context.Context, cfg *Config, r *Report) error {
	exists := func(path string) bool {
		_, err := os.Stat(filepath.Join(cfg.Root, path))
		return err == nil
	}
	if !r.CgroupV2 {
		r.SwapController = exists("sys/fs/cgroup/memory/memory.memsw.limit_in_bytes")
		return nil
	}
	own, err := readLine(cfg.Root, "proc/self/cgroup")
	if err != nil {
		return nil // nothing to go by: swap is left alone
	}
	_, own, _ = strings.Cut(own, "::")
	r.SwapController = exists(filepath.Join("sys/fs/cgroup", own, "memory.swap.max"))
	return nil
}

// kernelAtLeast compares the kernel's release with major.minor.
func kernelAtLeast(root string, major, minor int) bool {
	release, err := readLine(root, "proc/sys/kernel/osrelease")
	if err != nil {
		return false
	}
	number := func(s string) int {
		end := strings.IndexFunc(s, func(c rune) bool { return c < '0' || c > '9' })
		if end >= 0 {
			s = s[:end]
		}
		n, err := strconv.Atoi(s)
		if err != nil {
			return -1
		}
		return n
	}
	first, rest, _ := strings.Cut(release, ".")
	second, _, _ := strings.Cut(rest, ".")
	return number(first) > major || number(first) == major && number(second) >= minor
}
