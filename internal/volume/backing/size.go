package backing

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	podresource "k8s.io/component-helpers/resource"

	"kubelet/internal/podspec"
)

// tmpfsBytes returns the size of a volume in memory: the least of the volume's
// size limit, the pod's memory limit and what the node has for pods
// (KEP-1967). 0 if none is known.
func tmpfsBytes(pod *v1.Pod, limit *resource.Quantity, allocatable v1.ResourceList) int64 {
	least := int64(0)
	bound := func(n int64) {
		if n > 0 && (least == 0 || n < least) {
			least = n
		}
	}
	memory := allocatable[v1.ResourceMemory]
	bound(memory.Value())
	bound(podMemoryLimit(pod))
	if limit != nil {
		bound(limit.Value())
	}
	return least
}

// podMemoryLimit returns the memory limit of the pod's cgroup, or 0 if it has
// none because a container is without.
func podMemoryLimit(pod *v1.Pod) int64 {
	limited := true
	podspec.EachContainer(pod, func(c *v1.Container, kind podspec.Kind) bool {
		if kind != podspec.Ephemeral && c.Resources.Limits.Memory().IsZero() {
			limited = false
		}
		return limited
	})
	if r := pod.Spec.Resources; r != nil && !r.Limits.Memory().IsZero() {
		limited = true
	}
	if !limited {
		return 0
	}
	memory := podresource.PodLimits(pod, podresource.PodResourcesOptions{})[v1.ResourceMemory]
	return memory.Value()
}
