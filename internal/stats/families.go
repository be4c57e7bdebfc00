package stats

import (
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// family is one metric of all cgroups.
type family struct {
	name, help string
	counter    bool
	write      func(e *exposition, w *row)
}

// cadvisorFamilies are the metrics of /metrics/cadvisor.
func cadvisorFamilies(m *machine) []family {
	gauge := func(name, help string, get func(s *sample) value, unit float64) family {
		return family{name, help, false, func(e *exposition, w *row) { e.value(w.labels, get(w.s), unit, w.s.at) }}
	}
	counter := func(name, help string, get func(s *sample) value, unit float64) family {
		f := gauge(name, help, get, unit)
		f.counter = true
		return f
	}
	const ns, one = 1e9, 1
	list := []family{
		{"container_last_seen", "Unix time at which the cgroup was read.", false, func(e *exposition, w *row) {
			e.sample(w.labels, float64(w.s.at.Unix()), w.s.at)
		}},
		{"container_creation_time_seconds", "Unix time at which the container was created, of other cgroups at which they were.", false, func(e *exposition, w *row) {
			e.sample(w.labels, float64(max(w.created.Unix(), 0)), time.Time{})
		}},
		{"container_start_time_seconds", "Unix time at which the container started, of other cgroups at which they were created.", false, func(e *exposition, w *row) {
			e.sample(w.labels, float64(max(w.started.Unix(), 0)), time.Time{})
		}},

		counter("container_cpu_user_seconds_total", "CPU time in user mode, in seconds.", func(s *sample) value { return s.cpu.user }, ns),
		counter("container_cpu_system_seconds_total", "CPU time in the kernel, in seconds.", func(s *sample) value { return s.cpu.system }, ns),
		{"container_cpu_usage_seconds_total", "CPU time, in seconds.", true, func(e *exposition, w *row) {
			e.value(w.labels, w.s.cpu.usage, ns, w.s.at, "cpu", "total")
		}},
		counter("container_cpu_cfs_periods_total", "Periods in which the CPU limit was enforced.", withQuota(func(s *sample) value { return s.cpu.periods }), one),
		counter("container_cpu_cfs_throttled_periods_total", "Periods in which the CPU limit was reached.", withQuota(func(s *sample) value { return s.cpu.throttled }), one),
		counter("container_cpu_cfs_throttled_seconds_total", "Time for which the CPU limit held processes up, in seconds.", withQuota(func(s *sample) value { return s.cpu.throttledTime }), ns),
		counter("container_cpu_cfs_burst_periods_total", "Periods in which more than the quota was used out of earlier ones.", withQuota(func(s *sample) value { return s.cpu.bursts }), one),
		counter("container_cpu_cfs_burst_seconds_total", "CPU time used beyond the quota, in seconds.", withQuota(func(s *sample) value { return s.cpu.burstTime }), ns),
		unstamped("container_spec_cpu_period", "Period of the CPU limit, in microseconds.", func(s *sample) value { return s.cpu.period }),
		unstamped("container_spec_cpu_quota", "CPU time allowed in each period, in microseconds.", func(s *sample) value { return s.cpu.quota }),
		unstamped("container_spec_cpu_shares", "Weight in the contest for CPU time, in shares of cgroup v1.", func(s *sample) value { return s.cpu.shares }),

		gauge("container_memory_usage_bytes", "Memory, page cache included, in bytes.", func(s *sample) value { return s.mem.usage }, one),
		gauge("container_memory_max_usage_bytes", "Most memory that was ever used, in bytes.", func(s *sample) value { return s.mem.peak }, one),
		gauge("container_memory_working_set_bytes", "Memory that cannot be reclaimed at once, in bytes.", func(s *sample) value { return s.mem.workingSet() }, one),
		gauge("container_memory_cache", "Page cache, in bytes.", func(s *sample) value { return s.mem.cache }, one),
		gauge("container_memory_rss", "Anonymous memory, in bytes.", func(s *sample) value { return s.mem.rss }, one),
		gauge("container_memory_kernel_usage", "Memory that the kernel uses for the cgroup, in bytes.", func(s *sample) value { return s.mem.kernel }, one),
		gauge("container_memory_mapped_file", "Files mapped into memory, in bytes.", func(s *sample) value { return s.mem.mapped }, one),
		gauge("container_memory_swap", "Swap, in bytes.", func(s *sample) value { return s.mem.swap }, one),
		counter("container_memory_failcnt", "Times that the memory limit was reached.", func(s *sample) value { return s.mem.maxEvents }, one),
		gauge("container_memory_total_active_file_bytes", "Page cache in recent use, in bytes.", func(s *sample) value { return s.mem.activeFile }, one),
		gauge("container_memory_total_inactive_file_bytes", "Page cache that is reclaimed first, in bytes.", func(s *sample) value { return s.mem.inactiveFile }, one),
		{"container_memory_failures_total", "Page faults, by whether they were major.", true, func(e *exposition, w *row) {
			for _, scope := range [...]string{"container", "hierarchy"} {
				e.value(w.labels, w.s.mem.faults, one, w.s.at, "failure_type", "pgfault", "scope", scope)
				e.value(w.labels, w.s.mem.majorFaults, one, w.s.at, "failure_type", "pgmajfault", "scope", scope)
			}
		}},
		counter("container_memory_events_high_total", "Times that memory.high throttled a process.", func(s *sample) value { return s.mem.highEvents }, one),
		counter("container_memory_events_max_total", "Times that memory.max was reached.", func(s *sample) value { return s.mem.maxEvents }, one),
		gauge("container_memory_file_dirty_bytes", "Page cache that is to be written to disk, in bytes.", func(s *sample) value { return s.mem.dirty }, one),
		gauge("container_memory_file_writeback_bytes", "Page cache that is being written to disk, in bytes.", func(s *sample) value { return s.mem.writeback }, one),
		counter("container_memory_pgscan_total", "Pages that reclaim looked at.", func(s *sample) value { return s.mem.scanned }, one),
		counter("container_memory_pgsteal_total", "Pages that were reclaimed.", func(s *sample) value { return s.mem.stolen }, one),
		counter("container_memory_workingset_refault_file_total", "File pages that were reclaimed and needed again.", func(s *sample) value { return s.mem.refaultFile }, one),
		counter("container_memory_workingset_refault_anon_total", "Anonymous pages that were reclaimed and needed again.", func(s *sample) value { return s.mem.refaultAnon }, one),
		counter("container_oom_events_total", "Processes of the cgroup that were killed for want of memory.", func(s *sample) value { return s.mem.oomKills }, one),
		unstamped("container_spec_memory_limit_bytes", "Memory limit in bytes, 0 for none.", func(s *sample) value { return value{s.mem.limit.n, s.mem.usage.ok} }),
		unstamped("container_spec_memory_swap_limit_bytes", "Swap limit in bytes, 0 for none.", func(s *sample) value { return value{s.mem.swapLimit.n, s.mem.usage.ok} }),
		unstamped("container_spec_memory_reservation_limit_bytes", "Memory reservation in bytes, 0 for none.", func(s *sample) value { return value{s.mem.reservation.n, s.mem.usage.ok} }),

		gauge("container_processes", "Processes directly in the cgroup.", func(s *sample) value { return s.pids.processes }, one),
		gauge("container_threads", "Threads in the cgroup and below.", func(s *sample) value { return s.pids.threads }, one),
		gauge("container_threads_max", "Most threads that there may be, 0 for no limit.", func(s *sample) value { return value{limited(s.pids.limit).n, s.pids.limit.ok} }, one),
		ofOpenFiles("container_file_descriptors", "Files that the container's processes have open.", func(f *openFiles) value { return f.files }),
		ofOpenFiles("container_sockets", "Sockets that the container's processes have open.", func(f *openFiles) value { return f.sockets }),
		{"container_ulimits_soft", "Soft limits of the container's first process, -1 for none.", false, func(e *exposition, w *row) {
			if w.open != nil && w.open.limited {
				e.sample(w.labels, float64(w.open.limit), w.s.at, "ulimit", "max_open_files")
			}
		}},
	}
	list = append(list, ioFamilies(m)...)
	list = append(list, networkFamilies()...)
	return append(list, pressureFamilies()...)
}

// withQuota shows a number only of cgroups that have a CPU limit.
func withQuota(get func(s *sample) value) func(s *sample) value {
	return func(s *sample) value {
		if !s.cpu.quota.ok {
			return value{}
		}
		return get(s)
	}
}

// unstamped is a gauge of what was configured, which has no time of its own.
func unstamped(name, help string, get func(s *sample) value) family {
	return family{name, help, false, func(e *exposition, w *row) { e.value(w.labels, get(w.s), 1, time.Time{}) }}
}

func ofOpenFiles(name, help string, get func(f *openFiles) value) family {
	return family{name, help, false, func(e *exposition, w *row) {
		if w.open != nil {
			e.value(w.labels, get(w.open), 1, w.s.at)
		}
	}}
}

// ioFamilies are of block devices, and of the node's file systems.
func ioFamilies(m *machine) []family {
	disk := func(name, help string, get func(d *diskIO) value) family {
		return family{name, help, true, func(e *exposition, w *row) {
			for i := range w.s.io.disks {
				d := &w.s.io.disks[i]
				e.value(w.labels, get(d), 1, w.s.at, "device", m.deviceName(d.major, d.minor))
			}
		}}
	}
	system := func(name, help string, get func(f *fileSystem) uint64) family {
		return family{name, help, false, func(e *exposition, w *row) {
			for i := range w.disks {
				d := &w.disks[i]
				e.sample(w.labels, float64(get(&d.fs)), d.at, "device", d.device)
			}
		}}
	}
	return []family{
		disk("container_fs_reads_bytes_total", "Bytes read from the device.", func(d *diskIO) value { return value{d.readBytes, d.hasBytes} }),
		disk("container_fs_reads_total", "Reads from the device.", func(d *diskIO) value { return value{d.reads, d.hasCounts} }),
		disk("container_fs_writes_bytes_total", "Bytes written to the device.", func(d *diskIO) value { return value{d.writeBytes, d.hasBytes} }),
		disk("container_fs_writes_total", "Writes to the device.", func(d *diskIO) value { return value{d.writes, d.hasCounts} }),
		{"container_blkio_device_usage_total", "Bytes moved to and from the device, by operation.", true, func(e *exposition, w *row) {
			for i := range w.s.io.disks {
				d := &w.s.io.disks[i]
				if !d.hasBytes {
					continue
				}
				major, minor := strconv.FormatUint(d.major, 10), strconv.FormatUint(d.minor, 10)
				for _, of := range [...]struct {
					operation string
					n         uint64
				}{{"Discard", d.discardBytes}, {"Read", d.readBytes}, {"Write", d.writeBytes}} {
					e.sample(w.labels, float64(of.n), w.s.at, "device", m.deviceName(d.major, d.minor), "major", major, "minor", minor, "operation", of.operation)
				}
			}
		}},
		system("container_fs_inodes_free", "Inodes that are free.", func(f *fileSystem) uint64 { return f.inodesFree }),
		system("container_fs_inodes_total", "Inodes that there are.", func(f *fileSystem) uint64 { return f.inodes }),
		system("container_fs_limit_bytes", "Size of the file system, in bytes.", func(f *fileSystem) uint64 { return f.capacity }),
		system("container_fs_usage_bytes", "Used part of the file system, in bytes.", func(f *fileSystem) uint64 { return f.used }),
	}
}

func networkFamilies() []family {
	network := func(name, help string, get func(n *netInterface) uint64) family {
		return family{name, help, true, func(e *exposition, w *row) {
			for i := range w.interfaces {
				n := &w.interfaces[i]
				e.sample(w.labels, float64(get(n)), w.s.at, "interface", n.name)
			}
		}}
	}
	return []family{
		network("container_network_receive_bytes_total", "Bytes received.", func(n *netInterface) uint64 { return n.rxBytes }),
		network("container_network_receive_packets_total", "Packets received.", func(n *netInterface) uint64 { return n.rxPackets }),
		network("container_network_receive_packets_dropped_total", "Packets dropped when received.", func(n *netInterface) uint64 { return n.rxDropped }),
		network("container_network_receive_errors_total", "Errors when receiving.", func(n *netInterface) uint64 { return n.rxErrors }),
		network("container_network_transmit_bytes_total", "Bytes sent.", func(n *netInterface) uint64 { return n.txBytes }),
		network("container_network_transmit_packets_total", "Packets sent.", func(n *netInterface) uint64 { return n.txPackets }),
		network("container_network_transmit_packets_dropped_total", "Packets dropped when sent.", func(n *netInterface) uint64 { return n.txDropped }),
		network("container_network_transmit_errors_total", "Errors when sending.", func(n *netInterface) uint64 { return n.txErrors }),
	}
}

// pressureFamilies are of pressure stall information, where the kernel has it.
func pressureFamilies() []family {
	total := func(name, help string, psi func(s *sample) *statsapi.PSIStats, full bool) family {
		return family{name, help, true, func(e *exposition, w *row) {
			p := psi(w.s)
			switch {
			case p == nil:
			case full:
				e.sample(w.labels, float64(p.Full.Total)/1e6, w.s.at)
			default:
				e.sample(w.labels, float64(p.Some.Total)/1e6, w.s.at)
			}
		}}
	}
	cpu := func(s *sample) *statsapi.PSIStats { return s.cpu.psi }
	memory := func(s *sample) *statsapi.PSIStats { return s.mem.psi }
	io := func(s *sample) *statsapi.PSIStats { return s.io.psi }
	return []family{
		total("container_pressure_cpu_stalled_seconds_total", "Time in which all tasks waited for a CPU, in seconds.", cpu, true),
		total("container_pressure_cpu_waiting_seconds_total", "Time in which a task waited for a CPU, in seconds.", cpu, false),
		total("container_pressure_memory_stalled_seconds_total", "Time in which all tasks waited for memory, in seconds.", memory, true),
		total("container_pressure_memory_waiting_seconds_total", "Time in which a task waited for memory, in seconds.", memory, false),
		total("container_pressure_io_stalled_seconds_total", "Time in which all tasks waited for a device, in seconds.", io, true),
		total("container_pressure_io_waiting_seconds_total", "Time in which a task waited for a device, in seconds.", io, false),
	}
}

// writeMachine writes what is of the machine and not of a cgroup.
func (r *Reader) writeMachine(e *exposition) {
	var info v1.NodeSystemInfo
	if node := r.config.Node(); node != nil {
		info = node.Status.NodeInfo
	}
	e.begin("cadvisor_version_info", "Versions of kernel and operating system. The value is always 1.", false)
	e.sample(nil, 1, time.Time{}, "cadvisorRevision", "", "cadvisorVersion", "", "dockerVersion", "", "kernelVersion", info.KernelVersion, "osVersion", info.OSImage)

	r.machine.load()
	memory, err := r.machine.memory()
	labels := e.label(nil, "boot_id", info.BootID)
	labels = e.label(labels, "machine_id", info.MachineID)
	labels = e.label(labels, "system_uuid", info.SystemUUID)
	failed := uint64(0)
	if err != nil {
		failed = 1
	}
	for _, m := range []struct {
		name, help string
		n          uint64
		ok         bool
	}{
		{"machine_cpu_cores", "Logical CPUs.", uint64(r.machine.cores), true},
		{"machine_cpu_physical_cores", "CPU cores.", uint64(r.machine.physical), true},
		{"machine_cpu_sockets", "CPU sockets.", uint64(r.machine.sockets), true},
		{"machine_memory_bytes", "Memory of the machine, in bytes.", memory.total, err == nil},
		{"machine_swap_bytes", "Swap of the machine, in bytes.", memory.swapTotal, err == nil},
	} {
		if m.ok {
			e.begin(m.name, m.help, false)
			e.sample(labels, float64(m.n), time.Time{})
		}
	}
	e.begin("machine_scrape_error", "1 if the machine's memory could not be read, else 0.", false)
	e.sample(nil, float64(failed), time.Time{})
}
