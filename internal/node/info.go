package node

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/component-base/version"
)

// machine is what the files of a machine say about it.
type machine struct {
	machineID, systemUUID, bootID string
	kernel, osImage               string
	booted                        time.Time

	cpus         int
	memory, swap int64 // bytes
	storage      int64 // bytes of the file system of the root directory
	hugePages    []hugePages
}

// hugePages is a page size in bytes and how many pages there are.
type hugePages struct{ size, pages int64 }

// readMachine reads a machine's files below root. Only what pods cannot be
// placed without is an error; an identity that is missing stays empty.
func readMachine(root, rootDir string) (machine, error) {
	file := func(names ...string) string {
		for _, name := range names {
			if raw, err := os.ReadFile(filepath.Join(root, name)); err == nil {
				return strings.Trim(string(raw), " \t\r\n\x00")
			}
		}
		return ""
	}
	m := machine{
		machineID: file("etc/machine-id", "var/lib/dbus/machine-id"),
		// The same places, in the same order, as cAdvisor looks at.
		systemUUID: file("sys/class/dmi/id/product_uuid", "proc/device-tree/system-id",
			"proc/device-tree/vm,uuid", "etc/machine-id"),
		bootID:  file("proc/sys/kernel/random/boot_id"),
		kernel:  file("proc/sys/kernel/osrelease"),
		osImage: prettyName(file("etc/os-release", "usr/lib/os-release")),
		booted:  bootTime(file("proc/stat")),
		cpus:    onlineCPUs(file("sys/devices/system/cpu/online")),
	}
	if m.cpus == 0 {
		m.cpus = runtime.NumCPU()
	}
	info := memInfo(file("proc/meminfo"))
	m.memory, m.swap = info["MemTotal"], info["SwapTotal"]
	if m.memory == 0 {
		return m, fmt.Errorf("read memory size: no MemTotal in %s", filepath.Join(root, "proc/meminfo"))
	}
	m.hugePages = readHugePages(filepath.Join(root, "sys/kernel/mm/hugepages"))
	var err error
	if m.storage, err = fileSystemSize(rootDir); err != nil {
		return m, err
	}
	return m, nil
}

func kubeletVersion() string { return version.Get().String() }

// prettyName returns PRETTY_NAME of an os-release file, or "Linux".
// https://www.freedesktop.org/software/systemd/man/os-release.html
func prettyName(osRelease string) string {
	for line := range strings.Lines(osRelease) {
		value, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME=")
		if ok {
			if name := strings.Trim(value, `"'`); name != "" {
				return name
			}
		}
	}
	return "Linux"
}

// bootTime reads the btime line of /proc/stat.
func bootTime(stat string) time.Time {
	for line := range strings.Lines(stat) {
		if value, ok := strings.CutPrefix(line, "btime "); ok {
			if seconds, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64); err == nil {
				return time.Unix(seconds, 0)
			}
		}
	}
	return time.Time{}
}

// onlineCPUs counts a list such as "0-3,8". It is not the process's own
// affinity: a kubelet pinned to two cores still has the whole machine to give.
func onlineCPUs(list string) int {
	count := 0
	for part := range strings.SplitSeq(strings.TrimSpace(list), ",") {
		first, last, isRange := strings.Cut(part, "-")
		from, err := strconv.ParseUint(first, 10, 16)
		if err != nil {
			return 0
		}
		to := from
		if isRange {
			if to, err = strconv.ParseUint(last, 10, 16); err != nil || to < from {
				return 0
			}
		}
		count += int(to-from) + 1
	}
	return count
}

// memInfo returns the kB lines of /proc/meminfo in bytes.
func memInfo(text string) map[string]int64 {
	out := make(map[string]int64)
	scanner := bufio.NewScanner(bytes.NewReader([]byte(text)))
	for scanner.Scan() {
		fields := strings.Fields(scanner.Text())
		if len(fields) != 3 || fields[2] != "kB" {
			continue
		}
		if kb, err := strconv.ParseInt(fields[1], 10, 53); err == nil && kb >= 0 {
			out[strings.TrimSuffix(fields[0], ":")] = kb * 1024
		}
	}
	return out
}

// readHugePages reads /sys/kernel/mm/hugepages/hugepages-SIZEkB/nr_hugepages.
// https://docs.kernel.org/admin-guide/mm/hugetlbpage.html
func readHugePages(dir string) []hugePages {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var out []hugePages
	for _, entry := range entries {
		size, ok := strings.CutPrefix(entry.Name(), "hugepages-")
		if !ok {
			continue
		}
		kb, err := strconv.ParseInt(strings.TrimSuffix(size, "kB"), 10, 53)
		if err != nil {
			continue
		}
		raw, err := os.ReadFile(filepath.Join(dir, entry.Name(), "nr_hugepages"))
		if err != nil {
			continue
		}
		pages, err := strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 53)
		if err != nil {
			continue
		}
		out = append(out, hugePages{size: kb * 1024, pages: pages})
	}
	return out
}

// fileSystemSize returns the size in bytes of the file system that a
// directory, or if it is not there yet its nearest parent, is on.
func fileSystemSize(dir string) (int64, error) {
	for at := filepath.Clean(dir); ; at = filepath.Dir(at) {
		var stat unix.Statfs_t
		err := unix.Statfs(at, &stat)
		if err == nil {
			return int64(stat.Blocks) * stat.Frsize, nil
		}
		if err != unix.ENOENT || at == "/" || at == "." {
			return 0, fmt.Errorf("read size of the file system of %s: %w", dir, err)
		}
	}
}
