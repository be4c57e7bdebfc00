package stats

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// Summary is the body of /stats/summary. With onlyCPUAndMemory everything
// else is left out. A part that cannot be read is absent and does not hide the
// others; the error is only for a node whose own usage cannot be read.
func (r *Reader) Summary(ctx context.Context, onlyCPUAndMemory bool) (*statsapi.Summary, error) {
	r.begin()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()

	r.awaitRuntimePID(ctx)
	var waits []<-chan struct{}
	if !onlyCPUAndMemory {
		waits = append(r.askRuntime(), r.askDisk(r.config.Root))
		for _, dir := range r.imageDirs() {
			waits = append(waits, r.askDisk(dir))
		}
	}
	pods := r.topology()
	volumes := make([][]Volume, len(pods))
	if !onlyCPUAndMemory {
		for i := range pods {
			waits = append(waits, r.askFiles(pods[i].Pod.Pod))
			if r.config.VolumeStatsPeriod <= 0 {
				continue
			}
			volumes[i] = r.config.Volumes(pods[i].Pod.Pod)
			for j := range volumes[i] {
				waits = append(waits, r.askVolume(&volumes[i][j]))
			}
		}
	}

	v := view{r: r, full: !onlyCPUAndMemory, buf: make([]byte, 8<<10), want: partUsage | partLimits | partPressure}
	if v.full {
		v.want |= partProcs
	}
	out := &statsapi.Summary{Pods: make([]statsapi.PodStats, 0, len(pods))}
	if err := v.node(&out.Node); err != nil {
		return nil, err
	}
	for i := range pods {
		out.Pods = append(out.Pods, v.pod(&pods[i]))
	}
	if onlyCPUAndMemory {
		return out, nil
	}

	// Where images are is known by now, even at the first question.
	for _, w := range waits {
		await(ctx, w)
	}
	for _, dir := range r.imageDirs() {
		await(ctx, r.askDisk(dir))
	}
	v.disks(&out.Node)
	for i := range pods {
		v.storage(&pods[i], volumes[i], &out.Pods[i])
	}
	r.disks.forget()
	r.volumes.forget()
	return out, nil
}

// imageDirs are where the runtime has images and writable layers, as far as
// that is known.
func (r *Reader) imageDirs() (dirs []string) {
	info, _, _ := r.imageFS.get("")
	for _, list := range [][]*runtimeapi.FilesystemUsage{info.GetImageFilesystems(), info.GetContainerFilesystems()} {
		if len(list) > 0 && list[0].GetFsId().GetMountpoint() != "" {
			dirs = append(dirs, list[0].FsId.Mountpoint)
		}
	}
	return dirs
}

// view makes one summary.
type view struct {
	r    *Reader
	full bool
	want parts
	buf  []byte

	nodeFS, imageFS, layerFS fileSystem
	nodeAt, imageAt, layerAt time.Time // zero if not known
	layers                   map[string]*runtimeapi.FilesystemUsage
}

func (v *view) node(out *statsapi.NodeStats) error {
	r := v.r
	r.machine.load()
	memory, err := r.machine.memory()
	if err != nil {
		return err
	}
	now := time.Now()
	out.NodeName = r.config.NodeName
	out.StartTime = stamp(r.machine.booted)
	if g := r.group("/"); g != nil {
		if s := g.sample(v.want, now, v.buf); s != nil {
			out.CPU, out.Memory = v.cpu(g, s), v.memory(s)
		}
	}
	if m := out.Memory; m != nil {
		m.AvailableBytes = ptr(less(memory.total, *m.WorkingSetBytes+r.hugePages()))
		m.PSI = r.machine.pressure("memory")
	}
	if out.CPU != nil {
		out.CPU.PSI = r.machine.pressure("cpu")
	}
	out.Swap = &statsapi.SwapStats{Time: stamp(now),
		SwapUsageBytes: ptr(less(memory.swapTotal, memory.swapFree)), SwapAvailableBytes: ptr(memory.swapFree)}
	if v.full {
		out.Rlimit = r.machine.tasks(now)
		if psi := r.machine.pressure("io"); psi != nil {
			out.IO = &statsapi.IOStats{Time: stamp(now), PSI: psi}
		}
		if list, err := r.machine.interfaces(0); err == nil {
			out.Network = network(list, now)
		}
	}
	r.mu.Lock()
	systems := r.systemLocked()
	r.mu.Unlock()
	for _, s := range systems {
		g := r.group(s.path)
		if g == nil {
			continue
		}
		started := s.started
		if started.IsZero() {
			started = g.born
		}
		if c, ok := v.container(s.name, started, g); ok {
			out.SystemContainers = append(out.SystemContainers, c)
		}
	}
	return nil
}

// hugePages is memory that is set aside for huge pages, whether they are used
// or not, in bytes: ordinary memory cannot have it.
func (r *Reader) hugePages() (sum uint64) {
	node := r.config.Node()
	if node == nil {
		return 0
	}
	for name, quantity := range node.Status.Capacity {
		if strings.HasPrefix(string(name), v1.ResourceHugePagesPrefix) {
			sum += uint64(max(quantity.Value(), 0))
		}
	}
	return sum
}

// group returns the group of a path of the last topology, or nil.
func (r *Reader) group(path string) *group {
	r.mu.Lock()
	defer r.mu.Unlock()
	if k := r.groups[path]; k != nil {
		return k.group
	}
	return nil
}

// container reads one cgroup; ok false if it is gone.
func (v *view) container(name string, started time.Time, g *group) (c statsapi.ContainerStats, ok bool) {
	s := g.sample(v.want, time.Now(), v.buf)
	if s == nil {
		return c, false
	}
	c = statsapi.ContainerStats{Name: name, StartTime: stamp(started), CPU: v.cpu(g, s), Memory: v.memory(s), Swap: swap(s)}
	if v.full && s.io.psi != nil {
		c.IO = &statsapi.IOStats{Time: stamp(s.at), PSI: s.io.psi}
	}
	return c, true
}

func (v *view) cpu(g *group, s *sample) *statsapi.CPUStats {
	if !s.cpu.usage.ok {
		return nil
	}
	return &statsapi.CPUStats{Time: stamp(s.at), UsageNanoCores: g.usageRate().ptr(), UsageCoreNanoSeconds: s.cpu.usage.ptr(), PSI: s.cpu.psi}
}

func (v *view) memory(s *sample) *statsapi.MemoryStats {
	if !s.mem.usage.ok {
		return nil
	}
	used := s.mem.workingSet()
	m := &statsapi.MemoryStats{
		Time: stamp(s.at), UsageBytes: s.mem.usage.ptr(), WorkingSetBytes: used.ptr(), RSSBytes: s.mem.rss.ptr(),
		PageFaults: s.mem.faults.ptr(), MajorPageFaults: s.mem.majorFaults.ptr(), PSI: s.mem.psi,
	}
	if s.mem.limit.ok {
		m.AvailableBytes = ptr(less(s.mem.limit.n, used.n))
	}
	return m
}

func swap(s *sample) *statsapi.SwapStats {
	if !s.mem.swap.ok {
		return nil
	}
	out := &statsapi.SwapStats{Time: stamp(s.at), SwapUsageBytes: s.mem.swap.ptr()}
	if s.mem.swapLimit.ok {
		out.SwapAvailableBytes = ptr(less(s.mem.swapLimit.n, s.mem.swap.n))
	}
	return out
}

// network are the interfaces of a namespace; its own name has the one that
// the pod's address is on.
func network(list []netInterface, now time.Time) *statsapi.NetworkStats {
	if len(list) == 0 {
		return nil
	}
	out := &statsapi.NetworkStats{Time: stamp(now)}
	main := 0
	for i := range list {
		n := &list[i]
		if n.name == "eth0" {
			main = i
		}
		out.Interfaces = append(out.Interfaces, statsapi.InterfaceStats{
			Name: n.name, RxBytes: &n.rxBytes, RxErrors: &n.rxErrors, TxBytes: &n.txBytes, TxErrors: &n.txErrors,
		})
	}
	out.InterfaceStats = out.Interfaces[main]
	return out
}

func (v *view) pod(p *pod) statsapi.PodStats {
	out := statsapi.PodStats{
		PodRef:     statsapi.PodReference{Name: p.Name, Namespace: p.Namespace, UID: p.uid},
		StartTime:  stamp(p.StartTime),
		Containers: make([]statsapi.ContainerStats, 0, len(p.containers)),
	}
	var processes value
	for i := range p.containers {
		c := &p.containers[i]
		if c.group == nil {
			continue
		}
		if s, ok := v.container(c.Name, c.started, c.group); ok {
			out.Containers = append(out.Containers, s)
		}
		processes = v.processes(c.group, processes)
	}
	if p.group != nil {
		if s := p.group.sample(v.want, time.Now(), v.buf); s != nil {
			out.CPU, out.Memory, out.Swap = v.cpu(p.group, s), v.memory(s), swap(s)
			if v.full && s.io.psi != nil {
				out.IO = &statsapi.IOStats{Time: stamp(s.at), PSI: s.io.psi}
			}
		}
	}
	if !v.full {
		return out
	}
	if p.sandbox != nil && p.sandbox.group != nil {
		processes = v.processes(p.sandbox.group, processes)
	}
	if processes.ok {
		out.ProcessStats = &statsapi.ProcessStats{ProcessCount: processes.ptr()}
	}
	if p.netPid > 0 {
		if list, err := v.r.machine.interfaces(p.netPid); err == nil {
			out.Network = network(list, time.Now())
		}
	}
	return out
}

// processes adds the number of a cgroup's processes to sum.
func (v *view) processes(g *group, sum value) value {
	s := g.sample(partProcs, time.Now(), v.buf)
	if s == nil || !s.pids.processes.ok {
		return sum
	}
	return value{sum.n + s.pids.processes.n, true}
}

// disks fills in the node's file systems.
func (v *view) disks(out *statsapi.NodeStats) {
	r := v.r
	var ok bool
	if v.nodeFS, v.nodeAt, ok = r.disks.get(r.config.Root); ok {
		out.Fs = v.nodeFS.whole(v.nodeAt)
	}
	v.layers, _, _ = r.layers.get("")
	info, at, ok := r.imageFS.get("")
	if !ok || len(info.GetImageFilesystems()) == 0 {
		return
	}
	of := func(usage *runtimeapi.FilesystemUsage) (*statsapi.FsStats, fileSystem, time.Time) {
		fs, seen, ok := r.disks.get(usage.GetFsId().GetMountpoint())
		if !ok {
			return &statsapi.FsStats{Time: stamp(at), UsedBytes: number64(usage.GetUsedBytes())}, fs, time.Time{}
		}
		s := fs.whole(seen)
		if used := number64(usage.GetUsedBytes()); used != nil {
			s.UsedBytes = used
		}
		return s, fs, seen
	}
	out.Runtime = &statsapi.RuntimeStats{}
	out.Runtime.ImageFs, v.imageFS, v.imageAt = of(info.ImageFilesystems[0])
	// Writable layers of containers may be on a disk of their own (KEP-4191);
	// two directories of one disk are not that.
	out.Runtime.ContainerFs, v.layerFS, v.layerAt = out.Runtime.ImageFs, v.imageFS, v.imageAt
	if list := info.GetContainerFilesystems(); len(list) > 0 {
		s, fs, seen := of(list[0])
		if !seen.IsZero() && fs.device != v.imageFS.device {
			out.Runtime.ContainerFs, v.layerFS, v.layerAt = s, fs, seen
		}
	}
}

func number64(n *runtimeapi.UInt64Value) *uint64 {
	if n == nil {
		return nil
	}
	return &n.Value
}

// storage fills in what a pod has on disk.
func (v *view) storage(p *pod, volumes []Volume, out *statsapi.PodStats) {
	r := v.r
	var total size
	files, filesAt, filesOK := r.volumes.get(r.logsDir(p.Pod.Pod))
	total.add(files.size)
	for i := range out.Containers {
		c := &out.Containers[i]
		if !v.layerAt.IsZero() {
			c.Rootfs = ptr(v.layerFS.fsStats(v.layerAt))
			for j := range p.containers {
				if layer := v.layers[p.containers[j].id]; layer != nil && p.containers[j].Name == c.Name {
					c.Rootfs.UsedBytes, c.Rootfs.InodesUsed = number64(layer.GetUsedBytes()), number64(layer.GetInodesUsed())
					total.add(size{layer.GetUsedBytes().GetValue(), layer.GetInodesUsed().GetValue()})
				}
			}
		}
		if filesOK && !v.nodeAt.IsZero() {
			used := files.containers[c.Name]
			c.Logs = ptr(v.nodeFS.fsStats(filesAt))
			c.Logs.UsedBytes, c.Logs.InodesUsed = ptr(used.bytes), ptr(used.inodes)
		}
	}
	// Logs of containers that are gone are still there.
	for _, used := range files.containers {
		total.add(used)
	}
	for _, volume := range volumes {
		u, at, ok := r.volumes.get(volume.Dir)
		if !ok {
			continue
		}
		s := statsapi.VolumeStats{Name: volume.Name, PVCRef: volume.Claim, FsStats: *u.fs.whole(at)}
		if volume.Walk {
			s.UsedBytes, s.InodesUsed = ptr(u.size.bytes), ptr(u.size.inodes)
		}
		if volume.Ephemeral {
			total.add(u.size)
		}
		out.VolumeStats = append(out.VolumeStats, s)
	}
	if !v.nodeAt.IsZero() {
		s := v.nodeFS.fsStats(v.nodeAt)
		s.UsedBytes, s.InodesUsed = ptr(total.bytes), ptr(total.inodes)
		out.EphemeralStorage = &s
	}
}

// less is a - b, at least 0.
func less(a, b uint64) uint64 { return a - min(a, b) }

// SummaryHandler serves /stats/summary, with ?only_cpu_and_memory=true in
// short.
func (r *Reader) SummaryHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if err := req.ParseForm(); err != nil {
			http.Error(w, "Internal Error: parse form failed: "+err.Error(), http.StatusInternalServerError)
			return
		}
		values := req.Form["only_cpu_and_memory"]
		summary, err := r.Summary(req.Context(), len(values) == 1 && values[0] == "true")
		if err != nil {
			klog.FromContext(req.Context()).Error(err, "Usage of the node cannot be read")
			http.Error(w, "Internal Error: "+err.Error(), http.StatusInternalServerError)
			return
		}
		body, err := json.Marshal(summary)
		if err != nil {
			http.Error(w, "Internal Error: "+err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if err := r.writeBody(w, req, body); err != nil {
			klog.FromContext(req.Context()).V(2).Info("Summary was not read to its end", "err", err)
		}
	})
}
