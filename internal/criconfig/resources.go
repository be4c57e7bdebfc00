package criconfig

import (
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"kubelet/internal/podspec"
)

// Bounds that the kernel sets for CPU shares, and the least CFS quota in µs.
const (
	minShares = 2
	maxShares = 262144
	minQuota  = 1000
)

// cpuShares turns milli-CPUs into shares, 1024 of which are one CPU. No
// request is the least share: left unset it would be the kernel's 1024.
func cpuShares(milli int64) int64 { return min(max(milli*1024/1000, minShares), maxShares) }

// linuxResources is what requests and limits become. request nil means that
// it follows the limit.
func (b *Builder) linuxResources(request, limit *resource.Quantity, memory int64) *runtimeapi.LinuxContainerResources {
	if request == nil {
		request = limit
	}
	r := &runtimeapi.LinuxContainerResources{
		CpuShares:          cpuShares(request.MilliValue()),
		MemoryLimitInBytes: memory,
	}
	if b.CPUCFSQuota {
		r.CpuPeriod = int64(b.CPUCFSQuotaPeriod / time.Microsecond)
		if milli := limit.MilliValue(); milli > 0 {
			r.CpuQuota = max(milli*r.CpuPeriod/1000, minQuota)
		}
	}
	if b.CgroupV2 && !b.SingleProcessOOMKill {
		// An out-of-memory kill takes the whole container: half of its
		// processes are of no use to anybody.
		r.Unified = map[string]string{"memory.oom.group": "1"}
	}
	return r
}

// containerResources is one container's share of the node.
func (b *Builder) containerResources(pod *v1.Pod, c *v1.Container) *runtimeapi.LinuxContainerResources {
	// A limit that only the pod has bounds each of its containers
	// (KEP-2837), so that runtimes and programs in them see it.
	cpu, memory := c.Resources.Limits.Cpu(), c.Resources.Limits.Memory()
	if resourcehelper.IsPodLevelResourcesSet(pod) {
		if cpu.IsZero() {
			cpu = pod.Spec.Resources.Limits.Cpu()
		}
		if memory.IsZero() {
			memory = pod.Spec.Resources.Limits.Memory()
		}
	}
	var request *resource.Quantity
	if q, ok := c.Resources.Requests[v1.ResourceCPU]; ok {
		request = &q
	}
	r := b.linuxResources(request, cpu, memory.Value())
	r.OomScoreAdj = oomScoreAdj(pod, c, b.MemoryCapacity)
	r.HugepageLimits = b.hugepageLimits(pod, c)
	b.limitSwap(pod, c, r)
	return r
}

// Resources are those of a container that runs and had others: limits that it
// had and is not to have any more are lifted.
func (b *Builder) Resources(pod *v1.Pod, c *v1.Container, had podspec.Amounts) *runtimeapi.ContainerResources {
	r := b.containerResources(pod, c)
	if r.CpuQuota == 0 && had.CPULimit != 0 {
		r.CpuQuota = -1
	}
	if r.MemoryLimitInBytes == 0 && had.MemoryLimit != 0 {
		r.MemoryLimitInBytes = -1
	}
	return &runtimeapi.ContainerResources{Linux: r}
}

// sandboxResources is the sum over the pod's containers: runtimes that size a
// virtual machine need it before they see the containers.
func (b *Builder) sandboxResources(pod *v1.Pod) *runtimeapi.LinuxContainerResources {
	options := resourcehelper.PodResourcesOptions{ExcludeOverhead: true}
	requests, limits := resourcehelper.PodRequests(pod, options), resourcehelper.PodLimits(pod, options)
	var request *resource.Quantity
	if q, ok := requests[v1.ResourceCPU]; ok {
		request = &q
	}
	return b.linuxResources(request, limits.Cpu(), limits.Memory().Value())
}

// overhead is what the RuntimeClass adds to the pod; it is guaranteed.
func (b *Builder) overhead(pod *v1.Pod) *runtimeapi.LinuxContainerResources {
	if pod.Spec.Overhead == nil {
		return &runtimeapi.LinuxContainerResources{}
	}
	cpu, memory := pod.Spec.Overhead.Cpu(), pod.Spec.Overhead.Memory()
	return b.linuxResources(cpu, cpu, memory.Value())
}

// oom_score_adj by quality of service.
const (
	oomGuaranteed = -997
	oomBestEffort = 1000
)

// oomScoreAdj is the container's oom_score_adj, proc(5)
// (https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/#node-out-of-memory-behavior).
// A Burstable container that requests a tenth of the node's memory gets 900,
// so that it is the first to go once it uses more than that. capacity is the
// node's memory in bytes.
func oomScoreAdj(pod *v1.Pod, c *v1.Container, capacity int64) int64 {
	if podspec.IsCritical(pod) && pod.Spec.PriorityClassName == "system-node-critical" {
		return oomGuaranteed
	}
	switch podspec.QoS(pod) {
	case v1.PodQOSGuaranteed:
		return oomGuaranteed
	case v1.PodQOSBestEffort:
		return oomBestEffort
	}
	if capacity <= 0 {
		return oomBestEffort - 1
	}
	unassigned := unassignedMemory(pod)
	memory := c.Resources.Requests.Memory().Value() + unassigned
	if podspec.IsSidecar(c) && len(pod.Spec.Containers) > 0 {
		// A sidecar must not go before the containers it serves (KEP-753).
		least := pod.Spec.Containers[0].Resources.Requests.Memory().Value()
		for i := range pod.Spec.Containers[1:] {
			least = min(least, pod.Spec.Containers[i+1].Resources.Requests.Memory().Value())
		}
		memory = max(memory, least+unassigned)
	}
	adj := 1000 - 1000*memory/capacity
	// Between Guaranteed and BestEffort, and never equal to either.
	return min(max(adj, 1000+oomGuaranteed), oomBestEffort-1)
}

// unassignedMemory is each container's part, in bytes, of the pod-level
// memory request that no container's own request covers (KEP-2837).
func unassignedMemory(pod *v1.Pod) int64 {
	if !resourcehelper.IsPodLevelRequestsSet(pod) || pod.Spec.Resources.Requests.Memory().IsZero() {
		return 0
	}
	own := resourcehelper.AggregateContainerRequests(pod, resourcehelper.PodResourcesOptions{})
	rest := pod.Spec.Resources.Requests.Memory().Value() - own.Memory().Value()
	return max(rest, 0) / int64(len(pod.Spec.Containers)+len(pod.Spec.InitContainers))
}

// hugepageLimits limits each page size of the node, to 0 unless the container
// or else the pod asks for it.
func (b *Builder) hugepageLimits(pod *v1.Pod, c *v1.Container) []*runtimeapi.HugepageLimit {
	wanted := map[string]uint64{}
	add := func(limits v1.ResourceList) {
		for name, amount := range limits {
			if size, ok := hugepageSize(name); ok {
				wanted[size] = uint64(max(amount.Value(), 0))
			}
		}
	}
	if resourcehelper.IsPodLevelResourcesSet(pod) {
		add(pod.Spec.Resources.Limits)
	}
	add(c.Resources.Limits)
	var limits []*runtimeapi.HugepageLimit
	for _, size := range b.HugePageSizes {
		limits = append(limits, &runtimeapi.HugepageLimit{PageSize: size, Limit: wanted[size]})
	}
	return limits
}

// hugepageSize turns a resource name (hugepages-2Mi) into the page size as
// cgroup files name it (2MB).
func hugepageSize(name v1.ResourceName) (string, bool) {
	text, ok := strings.CutPrefix(string(name), v1.ResourceHugePagesPrefix)
	if !ok {
		return "", false
	}
	q, err := resource.ParseQuantity(text)
	if err != nil || q.Sign() <= 0 {
		return "", false
	}
	size := q.Value()
	units := []string{"B", "KB", "MB", "GB", "TB", "PB"}
	unit := 0
	for size >= 1024 && unit < len(units)-1 {
		size, unit = size/1024, unit+1
	}
	return strconv.FormatInt(size, 10) + units[unit], true
}

// limitSwap keeps the container off the node's swap, or with LimitedSwap
// gives a Burstable container its share (KEP-2400).
func (b *Builder) limitSwap(pod *v1.Pod, c *v1.Container, r *runtimeapi.LinuxContainerResources) {
	if !b.Swap.Controller {
		return
	}
	if !b.CgroupV2 {
		// Memory and swap together; without a memory limit it has no effect.
		r.MemorySwapLimitInBytes = r.MemoryLimitInBytes
		return
	}
	swap := int64(0)
	request, limit := c.Resources.Requests.Memory(), c.Resources.Limits.Memory()
	if b.Swap.Limited && !podspec.IsCritical(pod) && podspec.QoS(pod) == v1.PodQOSBurstable &&
		request.Cmp(*limit) != 0 && b.MemoryCapacity > 0 && request.Value() <= b.MemoryCapacity {
		swap = int64(float64(request.Value()) / float64(b.MemoryCapacity) * float64(b.Swap.Capacity))
	}
	if r.Unified == nil {
		r.Unified = map[string]string{}
	}
	r.Unified["memory.swap.max"] = strconv.FormatInt(swap, 10)
}
