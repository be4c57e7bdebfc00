package status

import (
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	resourcehelper "k8s.io/component-helpers/resource"

	"kubelet/internal/observed"
	"kubelet/internal/podspec"
)

// Generate makes the status of a pod. It is pure, and idempotent: with its own
// result as Previous and the rest unchanged it gives the same status.
//
// What was reported once is not taken back: a terminal phase, a restart count,
// the start time, the addresses of a pod whose sandbox is gone, how a
// container ended that the runtime has forgotten.
func Generate(in Input) v1.PodStatus {
	g := generator{Input: in, now: second(in.Now)}
	s := v1.PodStatus{
		ObservedGeneration: max(in.Previous.ObservedGeneration, in.Pod.Generation),
		QOSClass:           podspec.QoS(in.Pod),
		NominatedNodeName:  in.Pod.Status.NominatedNodeName,
		StartTime:          g.startTime(),
		Resize:             in.Pod.Status.Resize,

		// Others write these.
		ResourceClaimStatuses:                in.Pod.Status.ResourceClaimStatuses,
		ExtendedResourceClaimStatus:          in.Pod.Status.ExtendedResourceClaimStatus,
		NodeAllocatableResourceClaimStatuses: in.Pod.Status.NodeAllocatableResourceClaimStatuses,
		VolumeHealth:                         in.Previous.VolumeHealth,
	}
	if in.Undecided {
		s.ObservedGeneration = in.Previous.ObservedGeneration
	}
	g.containers(&s)
	g.phase(&s)
	g.addresses(&s)
	g.resources(&s)
	g.conditions(&s)
	return s
}

type generator struct {
	Input
	now metav1.Time
}

// second cuts a time to what the API keeps, so that a status equals the one
// that comes back from the server.
func second(t time.Time) metav1.Time {
	if t.IsZero() {
		return metav1.Time{}
	}
	return metav1.NewTime(t.UTC().Truncate(time.Second))
}

func (g *generator) startTime() *metav1.Time {
	for _, t := range []*metav1.Time{g.Previous.StartTime, g.Pod.Status.StartTime} {
		if t != nil && !t.IsZero() {
			kept := second(t.Time)
			return &kept
		}
	}
	now := g.now
	return &now
}

func (g *generator) addresses(s *v1.PodStatus) {
	for i, ip := range g.HostIPs {
		if i == 0 {
			s.HostIP = ip
		}
		if i < 2 {
			s.HostIPs = append(s.HostIPs, v1.HostIP{IP: ip})
		}
	}
	if len(g.HostIPs) == 0 {
		s.HostIP, s.HostIPs = g.Previous.HostIP, g.Previous.HostIPs
	}
	var ips []string
	ready := g.Observed.ReadySandbox()
	switch {
	case g.Pod.Spec.HostNetwork:
		// The node's; the primary one stays for life, a second one is added
		// when the node gets it.
		for _, ip := range g.Previous.PodIPs {
			ips = append(ips, ip.IP)
		}
		if len(ips) == 0 {
			ips = podspec.OrderIPs(g.HostIPs, g.HostIPs)
		} else if len(ips) == 1 {
			ips = podspec.OrderIPs(append(ips, g.HostIPs...), ips)
		}
	case ready != nil:
		ips = podspec.OrderIPs(g.sandboxIPs(ready), g.HostIPs)
	default:
		// The last ones known: who looks at a pod that has ended wants to
		// know where it was.
		s.PodIP, s.PodIPs = g.Previous.PodIP, g.Previous.PodIPs
		return
	}
	for _, ip := range ips {
		s.PodIPs = append(s.PodIPs, v1.PodIP{IP: ip})
	}
	if len(ips) > 0 {
		s.PodIP = ips[0]
	}
}

// inForce puts in the amounts that a cgroup has, as far as it has any and the
// list names them.
func inForce(list, has v1.ResourceList, names ...v1.ResourceName) v1.ResourceList {
	list = list.DeepCopy()
	for _, name := range names {
		if q, ok := has[name]; ok && list != nil {
			if _, named := list[name]; named {
				set(list, name, q)
			}
		}
	}
	return list
}

// sandboxIPs are the addresses of a ready sandbox. A runtime under pressure
// may leave them out for once (containerd 1.6 does); containers were only made
// once they were known, so those told last are still its.
func (g *generator) sandboxIPs(sandbox *observed.Sandbox) []string {
	if len(sandbox.IPs) > 0 || !g.anyIn(sandbox.ID) {
		return sandbox.IPs
	}
	var ips []string
	for _, ip := range g.Previous.PodIPs {
		ips = append(ips, ip.IP)
	}
	return ips
}

// resources are the pod's totals (KEP-5419).
func (g *generator) resources(s *v1.PodStatus) {
	if !g.PodResources {
		return
	}
	requests := resourcehelper.PodRequests(g.Pod, resourcehelper.PodResourcesOptions{})
	limits := resourcehelper.PodLimits(g.Pod, resourcehelper.PodResourcesOptions{})
	r := &v1.ResourceRequirements{}
	if g.Pod.Spec.Resources != nil {
		r.Claims = g.Pod.Spec.Resources.Claims
	}
	// Empty lists come back from the server as none.
	if len(requests) > 0 {
		s.AllocatedResources, r.Requests = requests, requests
	}
	if len(limits) > 0 {
		r.Limits = limits
	}
	if g.PodHas != nil {
		has := g.PodHas.Requirements()
		r.Requests, r.Limits = inForce(r.Requests, has.Requests, v1.ResourceCPU), inForce(r.Limits, has.Limits, v1.ResourceCPU, v1.ResourceMemory)
	}
	s.Resources = r
}
