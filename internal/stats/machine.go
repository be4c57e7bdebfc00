package stats

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// machine reads what the kernel says about the node as a whole.
type machine struct {
	proc, sys string // "/proc" and "/sys", other directories in tests

	once sync.Once
	// What does not change while the machine runs.
	cores, physical, sockets int
	booted                   time.Time

	mu      sync.Mutex
	devices map[uint64]string // names of block devices by number
}

// memoryInfo is of /proc/meminfo, in bytes.
type memoryInfo struct{ total, swapTotal, swapFree uint64 }

func (m *machine) memory() (info memoryInfo, err error) {
	text, err := os.ReadFile(filepath.Join(m.proc, "meminfo"))
	if err != nil {
		return info, fmt.Errorf("read memory of the machine: %w", err)
	}
	lines(text, func(line []byte) {
		key, rest, _ := bytes.Cut(line, []byte{':'})
		word, _ := field(rest)
		n, ok := number(word)
		if !ok || n > 1<<53 {
			return
		}
		switch string(key) {
		case "MemTotal":
			info.total = n << 10
		case "SwapTotal":
			info.swapTotal = n << 10
		case "SwapFree":
			info.swapFree = n << 10
		}
	})
	if info.total == 0 {
		return info, fmt.Errorf("read memory of the machine: %s has no MemTotal", filepath.Join(m.proc, "meminfo"))
	}
	return info, nil
}

// pressure is that of the whole machine, which the top of the cgroup tree
// does not have on v1: resource is cpu, memory or io.
func (m *machine) pressure(resource string) *statsapi.PSIStats {
	text, err := os.ReadFile(filepath.Join(m.proc, "pressure", resource))
	if err != nil {
		return nil // the kernel was built or booted without
	}
	return pressure(text)
}

// tasks is how many tasks there are and may be (KEP "PID pressure"): both
// pid_max and threads-max bound them.
func (m *machine) tasks(now time.Time) *statsapi.RlimitStats {
	s := &statsapi.RlimitStats{Time: stamp(now)}
	for _, name := range []string{"pid_max", "threads-max"} {
		text, err := os.ReadFile(filepath.Join(m.proc, "sys/kernel", name))
		if err != nil {
			continue
		}
		if n, ok := number(text); ok && (s.MaxPID == nil || int64(n) < *s.MaxPID) {
			s.MaxPID = ptr(int64(n))
		}
	}
	// "1.36 3.49 4.53 2/3518 3715089": runnable and all tasks. sysinfo(2)
	// would cut the number to 16 bits.
	if text, err := os.ReadFile(filepath.Join(m.proc, "loadavg")); err == nil {
		if words := strings.Fields(string(text)); len(words) >= 4 {
			_, all, _ := strings.Cut(words[3], "/")
			if n, err := strconv.ParseInt(all, 10, 64); err == nil {
				s.NumOfRunningProcesses = &n
			}
		}
	}
	return s
}

// mostInterfaces bounds how many network interfaces of a pod are shown, which
// it may make as it likes.
const mostInterfaces = 64

// interfaces are the network interfaces in the namespace of a process, 0 for
// this one.
func (m *machine) interfaces(pid int) ([]netInterface, error) {
	of := "self"
	if pid != 0 {
		of = strconv.Itoa(pid)
	}
	text, err := os.ReadFile(filepath.Join(m.proc, of, "net/dev"))
	if err != nil {
		return nil, fmt.Errorf("read network interfaces: %w", err)
	}
	list := netDev(text)
	if pid != 0 && len(list) > mostInterfaces {
		list = list[:mostInterfaces]
	}
	return list, nil
}

func (m *machine) load() {
	m.once.Do(func() {
		text, _ := os.ReadFile(filepath.Join(m.proc, "stat"))
		flatKeyed(text, func(key []byte, n uint64) {
			if string(key) == "btime" && n < 1<<40 {
				m.booted = time.Unix(int64(n), 0)
			}
		})
		sockets, cores := map[string]bool{}, map[[2]string]bool{}
		dirs, _ := filepath.Glob(filepath.Join(m.sys, "devices/system/cpu/cpu[0-9]*"))
		for _, dir := range dirs {
			if online, err := os.ReadFile(filepath.Join(dir, "online")); err == nil && strings.TrimSpace(string(online)) == "0" {
				continue
			}
			m.cores++
			socket, err1 := os.ReadFile(filepath.Join(dir, "topology/physical_package_id"))
			core, err2 := os.ReadFile(filepath.Join(dir, "topology/core_id"))
			if err1 == nil && err2 == nil {
				sockets[string(socket)] = true
				cores[[2]string{string(socket), string(core)}] = true
			}
		}
		m.sockets, m.physical = len(sockets), len(cores)
	})
}

// deviceName is the name of a block device, "/dev/sda"; its numbers, "0:41",
// if it has none.
func (m *machine) deviceName(major, minor uint64) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := unix.Mkdev(uint32(major), uint32(minor))
	name, known := m.devices[key]
	if known {
		return name
	}
	name = fmt.Sprintf("%d:%d", major, minor)
	if text, err := os.ReadFile(filepath.Join(m.sys, "dev/block", name, "uevent")); err == nil {
		lines(text, func(line []byte) {
			if n, ok := bytes.CutPrefix(line, []byte("DEVNAME=")); ok {
				name = "/dev/" + string(n)
			}
		})
	}
	// Numbers of devices that are gone are used again: forget now and then.
	if m.devices == nil || len(m.devices) > 1024 {
		m.devices = map[uint64]string{}
	}
	m.devices[key] = name
	return name
}

func stamp(t time.Time) metav1.Time { return metav1.NewTime(t) }
