package podspec

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
)

// Amounts are what a container, or a pod as a whole, has of the resources
// that can be changed while it runs (KEP-1287). 0 stands for none: nothing is
// requested, or nothing is limited.
type Amounts struct {
	CPURequest    int64 `json:"cpuRequest,omitempty"` // thousandths of a CPU
	CPULimit      int64 `json:"cpuLimit,omitempty"`
	MemoryRequest int64 `json:"memoryRequest,omitempty"` // bytes
	MemoryLimit   int64 `json:"memoryLimit,omitempty"`
}

func amountsOf(requests, limits v1.ResourceList) Amounts {
	return Amounts{
		CPURequest: requests.Cpu().MilliValue(), CPULimit: limits.Cpu().MilliValue(),
		MemoryRequest: requests.Memory().Value(), MemoryLimit: limits.Memory().Value(),
	}
}

// ContainerAmounts are those of a container. A limit that only the pod has
// bounds each of its containers (KEP-2837).
func ContainerAmounts(pod *v1.Pod, c *v1.Container) Amounts {
	a := amountsOf(c.Resources.Requests, c.Resources.Limits)
	if r := pod.Spec.Resources; r != nil {
		if a.CPULimit == 0 {
			a.CPULimit = r.Limits.Cpu().MilliValue()
		}
		if a.MemoryLimit == 0 {
			a.MemoryLimit = r.Limits.Memory().Value()
		}
	}
	return a
}

// PodAmounts are those of a pod's cgroup: limits only where the pod or each of
// its containers names one. withoutOwn makes resources of the pod itself count
// for nothing.
func PodAmounts(pod *v1.Pod, withoutOwn bool) Amounts {
	options := resourcehelper.PodResourcesOptions{SkipPodLevelResources: withoutOwn}
	a := amountsOf(resourcehelper.PodRequests(pod, options), resourcehelper.PodLimits(pod, options))
	if !limits(pod, v1.ResourceCPU, withoutOwn) {
		a.CPULimit = 0
	}
	if !limits(pod, v1.ResourceMemory, withoutOwn) {
		a.MemoryLimit = 0
	}
	return a
}

// limits says whether the whole pod is limited: by itself or because each
// container is.
func limits(pod *v1.Pod, name v1.ResourceName, withoutOwn bool) bool {
	if r := pod.Spec.Resources; r != nil && !withoutOwn {
		if limit := r.Limits[name]; !limit.IsZero() {
			return true
		}
	}
	each := true
	EachContainer(pod, func(c *v1.Container, kind Kind) bool {
		if limit := c.Resources.Limits[name]; kind != Ephemeral && limit.IsZero() {
			each = false
		}
		return each
	})
	return each
}

// Cover says whether nothing of other is more than a allows: no request is
// higher, and no limit.
func (a Amounts) Cover(other Amounts) bool {
	return a.CPURequest >= other.CPURequest && a.MemoryRequest >= other.MemoryRequest &&
		!lower(a.CPULimit, other.CPULimit) && !lower(a.MemoryLimit, other.MemoryLimit)
}

// LowersMemory says whether the memory limit becomes lower by going on to
// other, or appears.
func (a Amounts) LowersMemory(other Amounts) bool { return lower(other.MemoryLimit, a.MemoryLimit) }

// lower compares limits, of which 0 is the highest.
func lower(limit, other int64) bool { return limit != 0 && (other == 0 || limit < other) }

// Changed names the resources in which the amounts differ.
func (a Amounts) Changed(other Amounts) (names []v1.ResourceName) {
	if a.CPURequest != other.CPURequest || a.CPULimit != other.CPULimit {
		names = append(names, v1.ResourceCPU)
	}
	if a.MemoryRequest != other.MemoryRequest || a.MemoryLimit != other.MemoryLimit {
		names = append(names, v1.ResourceMemory)
	}
	return names
}

// Requirements are the amounts in the API's words.
func (a Amounts) Requirements() v1.ResourceRequirements {
	list := func(cpu, memory int64) v1.ResourceList {
		l := v1.ResourceList{}
		if cpu != 0 {
			l[v1.ResourceCPU] = *resource.NewMilliQuantity(cpu, resource.DecimalSI)
		}
		if memory != 0 {
			l[v1.ResourceMemory] = *resource.NewQuantity(memory, resource.BinarySI)
		}
		return l
	}
	return v1.ResourceRequirements{Requests: list(a.CPURequest, a.MemoryRequest), Limits: list(a.CPULimit, a.MemoryLimit)}
}
