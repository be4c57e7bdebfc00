package harness

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// accountHierarchies are the cgroup trees that count CPU time.
func accountHierarchies() (dirs []string) {
	for _, top := range cgroupHierarchies() {
		if base := filepath.Base(top); base == "cgroup" || strings.Contains(base, "cpuacct") {
			dirs = append(dirs, top)
		}
	}
	return dirs
}

// accountName is the cgroup of the node's own programs; those of its pods are
// below CgroupRoot.
func (n *Node) accountName() string { return n.cgroupRoot + "-programs" }

func (n *Node) makeAccount() error {
	for _, top := range accountHierarchies() {
		if err := os.MkdirAll(filepath.Join(top, n.accountName()), 0o755); err != nil {
			return fmt.Errorf("make cgroup: %w", err)
		}
	}
	return nil
}

// account makes a program of the node, and whatever it starts, count.
func (n *Node) account(pid int) error {
	if n.cgroupRoot == "" {
		return nil
	}
	for _, top := range accountHierarchies() {
		if err := os.WriteFile(filepath.Join(top, n.accountName(), "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o644); err != nil {
			return fmt.Errorf("move process to its cgroup: %w", err)
		}
	}
	return nil
}

// CPU is the CPU time that everything on the node has used: its programs,
// those that they started, and the containers.
func (n *Node) CPU() (total time.Duration, err error) {
	for _, top := range accountHierarchies() {
		for _, name := range []string{n.cgroupRoot, n.accountName()} {
			used, err := cpuUsage(filepath.Join(top, name))
			if err != nil {
				return 0, err
			}
			total += used
		}
	}
	return total, nil
}

// cpuUsage reads cpuacct.usage (version 1, nanoseconds) or cpu.stat (version
// 2, microseconds); both contain the cgroups below and those that are gone.
func cpuUsage(dir string) (time.Duration, error) {
	text, err := os.ReadFile(filepath.Join(dir, "cpuacct.usage"))
	unit := time.Nanosecond
	if errors.Is(err, fs.ErrNotExist) {
		text, err = os.ReadFile(filepath.Join(dir, "cpu.stat"))
		first, _, _ := strings.Cut(string(text), "\n")
		text, unit = []byte(strings.TrimPrefix(first, "usage_usec ")), time.Microsecond
	}
	if err != nil {
		return 0, fmt.Errorf("read CPU usage: %w", err)
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read CPU usage: %w", err)
	}
	return time.Duration(n) * unit, nil
}
