package stats

import "time"

const (
	v1Usage = iota
	v1Stat
	v1CPUStat
	v1Quota
	v1Period
	v1Shares
	v1Memory
	v1MemoryPeak
	v1MemoryStat
	v1MemoryFailed
	v1MemoryKernel
	v1MemoryLimit
	v1MemoryAndSwapLimit
	v1MemorySoftLimit
	v1OOM
	v1IOBytes
	v1IOCounts
	v1Threads
	v1ThreadsMax
	v1Procs
)

// newSplit is cgroup v1: each controller has its own mount point.
// https://docs.kernel.org/admin-guide/cgroup-v1/
func newSplit(mounts map[string]string, most int64) *hierarchy {
	return &hierarchy{mounts: mounts, read: readV1, most: most, files: []cgroupFile{
		v1Usage: {"cpuacct", "cpuacct.usage"}, v1Stat: {"cpuacct", "cpuacct.stat"},
		v1CPUStat: {"cpu", "cpu.stat"}, v1Quota: {"cpu", "cpu.cfs_quota_us"}, v1Period: {"cpu", "cpu.cfs_period_us"}, v1Shares: {"cpu", "cpu.shares"},
		v1Memory: {"memory", "memory.usage_in_bytes"}, v1MemoryPeak: {"memory", "memory.max_usage_in_bytes"},
		v1MemoryStat: {"memory", "memory.stat"}, v1MemoryFailed: {"memory", "memory.failcnt"},
		v1MemoryKernel: {"memory", "memory.kmem.usage_in_bytes"}, v1MemoryLimit: {"memory", "memory.limit_in_bytes"},
		v1MemoryAndSwapLimit: {"memory", "memory.memsw.limit_in_bytes"}, v1MemorySoftLimit: {"memory", "memory.soft_limit_in_bytes"},
		v1OOM:     {"memory", "memory.oom_control"},
		v1IOBytes: {"blkio", "blkio.throttle.io_service_bytes_recursive"}, v1IOCounts: {"blkio", "blkio.throttle.io_serviced_recursive"},
		v1Threads: {"pids", "pids.current"}, v1ThreadsMax: {"pids", "pids.max"}, v1Procs: {"cpu", "cgroup.procs"},
	}}
}

// userHZ is the unit of cpuacct.stat on all architectures that there are.
const userHZ = uint64(time.Second / 100)

func readV1(r *reading) {
	s := r.out
	if r.want&(partUsage|partDetails) != 0 {
		s.cpu.usage = r.number(v1Usage)
		m := &s.mem
		m.usage = r.number(v1Memory)
		flatKeyed(r.file(v1MemoryStat), func(key []byte, n uint64) {
			switch string(key) {
			case "total_rss":
				m.rss = value{n, true}
			case "total_cache":
				m.cache = value{n, true}
			case "total_mapped_file":
				m.mapped = value{n, true}
			case "total_dirty":
				m.dirty = value{n, true}
			case "total_writeback":
				m.writeback = value{n, true}
			case "total_active_file":
				m.activeFile = value{n, true}
			case "total_inactive_file":
				m.inactiveFile = value{n, true}
			case "total_pgfault":
				m.faults = value{n, true}
			case "total_pgmajfault":
				m.majorFaults = value{n, true}
			case "total_workingset_refault_file":
				m.refaultFile = value{n, true}
			case "total_workingset_refault_anon":
				m.refaultAnon = value{n, true}
			case "total_swap":
				m.swap = value{n, true}
			}
		})
	}
	if s.mem.usage.ok && !s.mem.swap.ok {
		s.mem.swap.ok = true // the kernel does not count it, or there can be none
	}
	if r.want&partLimits != 0 {
		s.mem.limit = limited(r.number(v1MemoryLimit))
		// v1 limits memory and swap together.
		if both := limited(r.number(v1MemoryAndSwapLimit)); both.ok && s.mem.limit.ok && both.n >= s.mem.limit.n {
			s.mem.swapLimit = value{both.n - s.mem.limit.n, true}
		}
	}
	if r.want&partIO != 0 {
		s.io.disks = blkio(r.file(v1IOBytes), false, nil)
		s.io.disks = blkio(r.file(v1IOCounts), true, s.io.disks)
	}
	if r.want&(partProcs|partDetails) != 0 {
		s.pids.processes, s.pids.pids = countProcesses(r.file(v1Procs), r.want&partDetails != 0)
	}
	if r.want&partDetails != 0 {
		c := &s.cpu
		flatKeyed(r.file(v1Stat), func(key []byte, n uint64) {
			switch string(key) {
			case "user":
				c.user = value{n * userHZ, true}
			case "system":
				c.system = value{n * userHZ, true}
			}
		})
		flatKeyed(r.file(v1CPUStat), func(key []byte, n uint64) {
			switch string(key) {
			case "nr_periods":
				c.periods = value{n, true}
			case "nr_throttled":
				c.throttled = value{n, true}
			case "throttled_time":
				c.throttledTime = value{n, true}
			case "nr_bursts":
				c.bursts = value{n, true}
			case "burst_time":
				c.burstTime = value{n, true}
			}
		})
		c.shares, c.period = r.number(v1Shares), r.number(v1Period)
		c.quota = r.number(v1Quota) // -1, no number, if unlimited
		s.mem.peak, s.mem.kernel, s.mem.maxEvents = r.number(v1MemoryPeak), r.number(v1MemoryKernel), r.number(v1MemoryFailed)
		s.mem.reservation = limited(r.number(v1MemorySoftLimit))
		flatKeyed(r.file(v1OOM), func(key []byte, n uint64) {
			if string(key) == "oom_kill" {
				s.mem.oomKills = value{n, true}
			}
		})
		s.pids.threads, s.pids.limit = r.number(v1Threads), r.number(v1ThreadsMax)
	}
}
