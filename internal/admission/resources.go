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

// Resources rejects a pod that does not fit into what the node has left. One
// that would fit once pods that are being stopped are gone waits for them: the
// scheduler has already given their room away, and a rejection is final.
//
// Extended resources that the node does not have are not counted: they are
// the cluster's or come from DRA.
func Resources() Check {
	return Check{Name: "Resources", NeedsNode: true, Judge: func(in Input) Verdict {
		wants := requests(in.Pod)
		wants[v1.ResourcePods] = 1
		var wait Verdict
		for _, name := range ordered(wants) {
			capacity, known := in.Node.Status.Allocatable[name]
			if isExtended(name) && !known {
				continue
			}
			have := amount(name, capacity)
			staying, passing, whom := sum(name, in.Held)
			switch {
			case wants[name] <= have-staying-passing:
			case wants[name] > have-staying:
				// The numbers are in the form that upstream's users know: CPU in
				// thousandths, everything else in its unit.
				return reject(OutOf+string(name), fmt.Sprintf(
					"Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d",
					name, wants[name], staying+passing, have))
			case wait.Decision != Wait:
				wait = Verdict{Decision: Wait, Reason: OutOf + string(name), Message: fmt.Sprintf(
					"waits for %s that %s still holds", name, whom)}
			}
		}
		return wait
	}}
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
		n := int64(1)
		if name != v1.ResourcePods {
			n = held[i].amounts[name]
		}
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
	return v.Decision == Wait && (v.Check == "Resources" || v.Check == "HostPorts")
}
