package cgroup

import (
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"

	"kubelet/internal/podspec"
)

// Limits of one cgroup. A zero field leaves the kernel's value alone, and -1
// lifts a limit.
type Limits struct {
	CPUShares uint64 // v1 scale, 2 to 262144; converted to a weight on v2
	CPUQuota  int64  // microseconds of CPU time per CPUPeriod
	CPUPeriod uint64 // microseconds
	CPUs      string // cpuset list
	Memory    int64  // bytes
	Pids      int64
	// Hugepages in bytes by the kernel's name of the page size ("2MB").
	// Sizes that are not named get OtherHugepages; nil leaves all alone.
	Hugepages      map[string]int64
	OtherHugepages int64
	// Unified are files of cgroup v2 to write as they are, nothing on v1.
	Unified map[string]string
}

// Bounds of cpu.shares and the least quota, from kernel/sched.
const (
	minShares      = 2
	maxShares      = 262144
	sharesPerCPU   = 1024
	minQuota       = 1000 // microseconds
	unlimitedPages = 1 << 62
)

// sharesOf converts requested milli-CPUs to cpu.shares.
func sharesOf(milliCPU int64) uint64 {
	return uint64(min(max(milliCPU*sharesPerCPU/1000, minShares), maxShares))
}

// weightOf converts cpu.shares to cpu.weight: linear from [2, 262144] to
// [1, 10000] (KEP-2254).
func weightOf(shares uint64) uint64 {
	if shares <= minShares {
		return 1
	}
	if shares >= maxShares {
		return 10000
	}
	return 1 + (shares-minShares)*9999/(maxShares-minShares)
}

// quotaOf converts limited milli-CPUs to the CPU time allowed per period,
// both in microseconds.
func quotaOf(milliCPU, period int64) int64 {
	return max(milliCPU*period/1000, minQuota)
}

// quota is the CPU time allowed per period for limited milli-CPUs, 0 for no
// limit.
func (c Config) quota(milliCPU int64) (quota int64, period uint64) {
	period = uint64(c.CPUCFSQuotaPeriod.Microseconds())
	if milliCPU == 0 || !c.CPUCFSQuota {
		return -1, period
	}
	return quotaOf(milliCPU, int64(period)), period
}

// nodeLimits are those of the kubepods level. The v2 memory protections are
// reset because a kubelet that ran here before may have left some.
func nodeLimits(allocatable v1.ResourceList, enforce bool) Limits {
	l := Limits{
		Memory:  -1,
		Pids:    -1,
		Unified: map[string]string{"memory.min": "0", "memory.low": "0"},
	}
	if cpu, ok := allocatable[v1.ResourceCPU]; ok {
		l.CPUShares = sharesOf(cpu.MilliValue())
	}
	if !enforce {
		l.Hugepages, l.OtherHugepages = map[string]int64{}, unlimitedPages
		return l
	}
	if memory, ok := allocatable[v1.ResourceMemory]; ok && memory.Sign() > 0 {
		l.Memory = memory.Value()
	}
	if pids, ok := allocatable[resourcePIDs]; ok && pids.Sign() > 0 {
		l.Pids = pids.Value()
	}
	l.Hugepages = hugepages(allocatable)
	return l
}

// resourcePIDs is the name under which process ids are counted as a resource
// (kubeReserved and systemReserved of the configuration).
const resourcePIDs v1.ResourceName = "pid"

// qosLimits are those of a QoS level at start; UpdateQoS sets the burstable
// level's shares later.
func qosLimits(class v1.PodQOSClass) Limits {
	l := Limits{Hugepages: map[string]int64{}, OtherHugepages: unlimitedPages}
	if class == v1.PodQOSBestEffort {
		l.CPUShares = minShares
	} else {
		l.Unified = map[string]string{"memory.low": "0"}
	}
	return l
}

// podLimits are those of a pod's level
// (https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/
// and KEP-2837): shares from the requests; a quota and a memory limit only
// where the pod or each of its containers names one, overhead included; huge
// pages as requested and none of any other size.
func podLimits(pod *v1.Pod, config Config) Limits {
	options := resourcehelper.PodResourcesOptions{SkipPodLevelResources: config.IgnorePodLevelResources}
	l := Limits{CPUShares: minShares, Hugepages: hugepages(resourcehelper.PodRequests(pod, options))}
	if config.PodPidsLimit > 0 {
		l.Pids = config.PodPidsLimit
	}
	if podspec.QoS(pod) == v1.PodQOSBestEffort {
		return l
	}
	amounts := podspec.PodAmounts(pod, config.IgnorePodLevelResources)
	l.CPUShares = sharesOf(amounts.CPURequest)
	if amounts.CPULimit > 0 {
		l.CPUQuota, l.CPUPeriod = config.quota(amounts.CPULimit)
	}
	l.Memory = amounts.MemoryLimit
	return l
}

// hugepages picks the hugepages-<size> resources, by the kernel's name of the
// size: binary suffixes without the "i" and with a "B" ("2Mi" is "2MB").
func hugepages(list v1.ResourceList) map[string]int64 {
	pages := map[string]int64{}
	for r, q := range list {
		size, ok := strings.CutPrefix(string(r), v1.ResourceHugePagesPrefix)
		if !ok {
			continue
		}
		parsed, err := resource.ParseQuantity(size)
		if err != nil || parsed.Sign() <= 0 {
			continue
		}
		if name := pageSizeName(parsed.Value()); name != "" {
			pages[name] += q.Value()
		}
	}
	return pages
}

func pageSizeName(bytes int64) string {
	for _, unit := range []struct {
		size int64
		name string
	}{{1 << 30, "GB"}, {1 << 20, "MB"}, {1 << 10, "KB"}} {
		if bytes >= unit.size {
			if bytes%unit.size != 0 {
				return ""
			}
			return resource.NewQuantity(bytes/unit.size, resource.DecimalSI).String() + unit.name
		}
	}
	return ""
}

// burstableShares sums the CPU requests of all burstable pods.
func burstableShares(pods []*v1.Pod, ignorePodLevel bool) uint64 {
	var milliCPU int64
	reuse := make(v1.ResourceList, 4)
	for _, pod := range pods {
		if podspec.QoS(pod) != v1.PodQOSBurstable {
			continue
		}
		requests := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{
			Reuse:                 reuse,
			SkipPodLevelResources: ignorePodLevel,
		})
		milliCPU += requests.Cpu().MilliValue()
	}
	return sharesOf(milliCPU)
}
