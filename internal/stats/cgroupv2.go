package stats

import (
	"bytes"
	"time"

	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// cpuSample is CPU time in nanoseconds and what limits it.
type cpuSample struct {
	usage, user, system               value
	periods, throttled, throttledTime value
	bursts, burstTime                 value
	shares, quota, period             value // quota absent if unlimited; both in µs
	psi                               *statsapi.PSIStats
}

// memorySample is in bytes, and counts of events.
type memorySample struct {
	usage, peak                     value
	rss, cache, mapped, kernel      value
	activeFile, inactiveFile        value
	dirty, writeback                value
	faults, majorFaults             value
	scanned, stolen                 value
	refaultFile, refaultAnon        value
	swap                            value
	limit, swapLimit, reservation   value // limits absent if unlimited
	highEvents, maxEvents, oomKills value
	psi                             *statsapi.PSIStats
}

// workingSet is usage without the file cache that the kernel would drop
// first, as the metrics API defines it.
func (m *memorySample) workingSet() value {
	if !m.usage.ok {
		return value{}
	}
	if m.inactiveFile.n > m.usage.n {
		return value{0, true}
	}
	return value{m.usage.n - m.inactiveFile.n, true}
}

type ioSample struct {
	disks []diskIO
	psi   *statsapi.PSIStats
}

type pidsSample struct {
	threads, limit, processes value
	pids                      []int // of partDetails only
}

// unlimited is the least number that the kernel writes for no limit on v1:
// the largest page-aligned int64 or less.
const unlimited = 1 << 62

func limited(v value) value {
	if v.n >= unlimited {
		return value{}
	}
	return v
}

const (
	v2CPUStat = iota
	v2CPUMax
	v2CPUWeight
	v2CPUPressure
	v2MemoryCurrent
	v2MemoryPeak
	v2MemoryStat
	v2MemoryMax
	v2MemoryMin
	v2MemoryEvents
	v2SwapCurrent
	v2SwapMax
	v2MemoryPressure
	v2IOStat
	v2IOPressure
	v2PidsCurrent
	v2PidsMax
	v2Procs
)

// newUnified is the hierarchy of cgroup v2, mounted at dir.
// https://docs.kernel.org/admin-guide/cgroup-v2.html
func newUnified(dir string, most int64) *hierarchy {
	h := &hierarchy{unified: true, mounts: map[string]string{"": dir}, read: readV2, most: most}
	for _, name := range []string{
		v2CPUStat: "cpu.stat", v2CPUMax: "cpu.max", v2CPUWeight: "cpu.weight", v2CPUPressure: "cpu.pressure",
		v2MemoryCurrent: "memory.current", v2MemoryPeak: "memory.peak", v2MemoryStat: "memory.stat",
		v2MemoryMax: "memory.max", v2MemoryMin: "memory.min", v2MemoryEvents: "memory.events",
		v2SwapCurrent: "memory.swap.current", v2SwapMax: "memory.swap.max", v2MemoryPressure: "memory.pressure",
		v2IOStat: "io.stat", v2IOPressure: "io.pressure",
		v2PidsCurrent: "pids.current", v2PidsMax: "pids.max", v2Procs: "cgroup.procs",
	} {
		h.files = append(h.files, cgroupFile{"", name})
	}
	return h
}

func readV2(r *reading) {
	s := r.out
	if r.want&(partUsage|partDetails) != 0 {
		c := &s.cpu
		flatKeyed(r.file(v2CPUStat), func(key []byte, n uint64) {
			switch string(key) {
			case "usage_usec":
				c.usage = value{n * uint64(time.Microsecond), true}
			case "user_usec":
				c.user = value{n * uint64(time.Microsecond), true}
			case "system_usec":
				c.system = value{n * uint64(time.Microsecond), true}
			case "nr_periods":
				c.periods = value{n, true}
			case "nr_throttled":
				c.throttled = value{n, true}
			case "throttled_usec":
				c.throttledTime = value{n * uint64(time.Microsecond), true}
			case "nr_bursts":
				c.bursts = value{n, true}
			case "burst_usec":
				c.burstTime = value{n * uint64(time.Microsecond), true}
			}
		})
		m := &s.mem
		m.usage = r.number(v2MemoryCurrent)
		flatKeyed(r.file(v2MemoryStat), func(key []byte, n uint64) {
			switch string(key) {
			case "anon":
				m.rss = value{n, true}
			case "file":
				m.cache = value{n, true}
			case "kernel":
				m.kernel = value{n, true}
			case "file_mapped":
				m.mapped = value{n, true}
			case "file_dirty":
				m.dirty = value{n, true}
			case "file_writeback":
				m.writeback = value{n, true}
			case "active_file":
				m.activeFile = value{n, true}
			case "inactive_file":
				m.inactiveFile = value{n, true}
			case "pgfault":
				m.faults = value{n, true}
			case "pgmajfault":
				m.majorFaults = value{n, true}
			case "pgscan":
				m.scanned = value{n, true}
			case "pgsteal":
				m.stolen = value{n, true}
			case "workingset_refault_file":
				m.refaultFile = value{n, true}
			case "workingset_refault_anon":
				m.refaultAnon = value{n, true}
			}
		})
		if !m.usage.ok && m.rss.ok {
			// The top of the hierarchy has no memory.current.
			m.usage = value{m.rss.n + m.cache.n, true}
		}
		m.swap = r.number(v2SwapCurrent)
	}
	if s.mem.usage.ok && !s.mem.swap.ok {
		s.mem.swap.ok = true // the kernel does not count it, or there can be none
	}
	if r.want&partLimits != 0 {
		s.mem.limit = limited(r.number(v2MemoryMax))
		s.mem.swapLimit = limited(r.number(v2SwapMax))
	}
	if r.want&partPressure != 0 {
		s.cpu.psi = pressure(r.file(v2CPUPressure))
		s.mem.psi = pressure(r.file(v2MemoryPressure))
		s.io.psi = pressure(r.file(v2IOPressure))
	}
	if r.want&partIO != 0 {
		s.io.disks = ioStat(r.file(v2IOStat))
	}
	if r.want&(partProcs|partDetails) != 0 {
		s.pids.processes, s.pids.pids = countProcesses(r.file(v2Procs), r.want&partDetails != 0)
	}
	if r.want&partDetails != 0 {
		s.pids.threads, s.pids.limit = r.number(v2PidsCurrent), r.number(v2PidsMax)
		s.mem.peak = r.number(v2MemoryPeak)
		s.mem.reservation = r.number(v2MemoryMin)
		flatKeyed(r.file(v2MemoryEvents), func(key []byte, n uint64) {
			switch string(key) {
			case "high":
				s.mem.highEvents = value{n, true}
			case "max":
				s.mem.maxEvents = value{n, true}
			case "oom_kill":
				s.mem.oomKills = value{n, true}
			}
		})
		if weight := r.number(v2CPUWeight); weight.ok && weight.n >= 1 && weight.n <= 10000 {
			s.cpu.shares = value{sharesOf(weight.n), true}
		}
		quota, period := field(bytes.TrimSpace(r.file(v2CPUMax)))
		if n, ok := number(quota); ok && n < unlimited {
			s.cpu.quota = value{n, true}
		}
		if n, ok := number(period); ok {
			s.cpu.period = value{n, true}
		}
	}
}

// sharesOf maps a v2 weight to v1 shares on the straight line that the
// kubelet and the runtimes of cgroup v2 use (KEP-2254).
func sharesOf(weight uint64) uint64 { return 2 + (weight-1)*262142/9999 }

// countProcesses counts the lines of cgroup.procs, and with list reads them.
func countProcesses(b []byte, list bool) (n value, pids []int) {
	if b == nil {
		return value{}, nil
	}
	n.ok = true
	lines(b, func(line []byte) {
		pid, ok := number(line)
		if !ok || pid == 0 || pid > 1<<31 {
			return // 0 is a process of another PID namespace
		}
		n.n++
		if list {
			pids = append(pids, int(pid))
		}
	})
	return n, pids
}
