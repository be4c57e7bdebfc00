package admission

import (
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// OutOf is the prefix of reasons for a resource that the node lacks, as in
// OutOfcpu, OutOfmemory, OutOfpods, OutOfephemeral-storage.
const OutOf = "OutOf"

const resourcesCheck = "Resources"

// Resources rejects a pod that does not fit into what the node has left. One
// that would fit once pods that are being stopped are gone waits for them: the
// scheduler has already given their room away, and a rejection is final.
//
// Extended resources that the node does not have are not counted: they are
// the cluster's or come from DRA.
func Resources() Check {
	return Check{Name: resourcesCheck, NeedsNode: true, Judge: func(in Input) Verdict {
		var wait Verdict
		for _, n := range needs(in) {
			name, have, staying, passing := n.name, n.have, n.staying, n.passing
			switch {
			case n.wants <= have-staying-passing:
			case n.wants > have-staying:
				// The numbers are in the form that upstream's users know: CPU in
				// thousandths, everything else in its unit.
				return reject(OutOf+string(name), fmt.Sprintf(
					"Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d",
					name, n.wants, staying+passing, have))
			case wait.Decision != Wait:
				wait = Verdict{Decision: Wait, Reason: OutOf + string(name), Message: fmt.Sprintf(
					"waits for %s that %s still holds", name, n.whom)}
			}
		}
		return wait
	}}
}

// need is what a pod wants of a resource, and what there is of it.
type need struct {
	name                          v1.ResourceName
	wants, have, staying, passing int64
	whom                          string // one of those that pass it on soon
}

// needs of a pod, in the order in which upstream reports them.
func needs(in Input) []need {
	wants := requests(in.Pod)
	wants[v1.ResourcePods] = 1
	var all []need
	for _, name := range ordered(wants) {
		capacity, known := in.Node.Status.Allocatable[name]
		if isExtended(name) && !known {
			continue
		}
		n := need{name: name, wants: wants[name], have: amount(name, capacity)}
		n.staying, n.passing, n.whom = sum(name, in.Held)
		all = append(all, n)
	}
	return all
}

// shortages are the needs that no pod which leaves will meet.
func shortages(in Input) []shortage {
	var lacks []shortage
	for _, n := range needs(in) {
		if missing := n.wants - (n.have - n.staying); missing > 0 {
			lacks = append(lacks, shortage{n.name, missing})
		}
	}
	return lacks
}

// ordered puts resources into the order in which upstream reports them.
func ordered(wants map[v1.ResourceName]int64) []v1.ResourceName {
	first := []v1.ResourceName{v1.ResourcePods, v1.ResourceCPU, v1.ResourceMemory, v1.ResourceEphemeralStorage}
	var names, rest []v1.ResourceName
	for _, name := range first {
		if _, ok := wants[name]; ok {
			names = append(names, name)
		}
	}
	for name := range wants {
		if !slices.Contains(first, name) {
			rest = append(rest, name)
		}
	}
	slices.Sort(rest)
	return append(names, rest...)
}

// sum adds up what pods hold that stay and what those hold that pass it on
// soon, and names one of the latter.
func sum(name v1.ResourceName, held []Holding) (staying, passing int64, whom string) {
	for i := range held {
		n := held[i].amount(name)
		if held[i].Standing == Staying {
			staying += n
			continue
		}
		if passing += n; whom == "" && n > 0 {
			whom = held[i].whom()
		}
	}
	return staying, passing, whom
}

func (h *Holding) amount(name v1.ResourceName) int64 {
	if name == v1.ResourcePods {
		return 1
	}
	return h.amounts[name]
}

func (h *Holding) whom() string {
	if h.Standing == Queued {
		return "pod " + h.Pod + ", which waits longer,"
	}
	return "pod " + h.Pod + ", which is being stopped,"
}

func amount(name v1.ResourceName, q resource.Quantity) int64 {
	if name == v1.ResourceCPU {
		return q.MilliValue()
	}
	return q.Value()
}

// waitsForRoom says whether a verdict makes a pod wait for what others hold.
func waitsForRoom(v Verdict) bool {
	return v.Decision == Wait && (v.Check == resourcesCheck || v.Check == "HostPorts")
}
