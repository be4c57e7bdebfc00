package podspec

import (
	v1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
)

// QoS returns the pod's quality-of-service class, computed from the spec
// (https://kubernetes.io/docs/concepts/workloads/pods/pod-qos/): Guaranteed
// if each container limits cpu and memory and requests as much, BestEffort if
// none requests or limits either, else Burstable. Pod-level resources decide
// alone where any is set; an empty list of them is as good as none. The class in the status, if any, is kept: it is
// immutable.
func QoS(pod *v1.Pod) v1.PodQOSClass {
	if pod.Status.QOSClass != "" {
		return pod.Status.QOSClass
	}
	if resourcehelper.IsPodLevelResourcesSet(pod) {
		return qosOf([]v1.ResourceRequirements{*pod.Spec.Resources})
	}
	var all []v1.ResourceRequirements
	EachContainer(pod, func(c *v1.Container, kind Kind) bool {
		if kind != Ephemeral {
			all = append(all, c.Resources)
		}
		return true
	})
	return qosOf(all)
}

func qosOf(all []v1.ResourceRequirements) v1.PodQOSClass {
	any, guaranteed := false, true
	for _, r := range all {
		for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
			request, limit := r.Requests[name], r.Limits[name]
			if request.Sign() > 0 || limit.Sign() > 0 {
				any = true
			}
			if limit.Sign() <= 0 {
				guaranteed = false
				continue
			}
			if _, requested := r.Requests[name]; requested && request.Cmp(limit) != 0 {
				guaranteed = false
			}
		}
	}
	switch {
	case !any:
		return v1.PodQOSBestEffort
	case guaranteed:
		return v1.PodQOSGuaranteed
	default:
		return v1.PodQOSBurstable
	}
}
