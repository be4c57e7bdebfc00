package admission

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"kubelet/internal/podspec"
)

// Preemption is one accepted pod that has to go so that a critical one fits.
type Preemption struct {
	Victim types.UID
	// For is the pod that needs the room, of what it lacks the Resource.
	For      *v1.Pod
	Resource v1.ResourceName
}

// shortage is what a pod lacks of a resource although all that leave are gone.
type shortage struct {
	name   v1.ResourceName
	amount int64
}

// victims chooses the pods that give a critical pod what it lacks, by
// upstream's rule: as few Guaranteed pods as would do if all the others went,
// then as few Burstable ones as would do if the BestEffort ones went, and of
// those what is still needed. ok is false if even all of them would not do.
func victims(pod *v1.Pod, held []Holding, lacks []shortage) (chosen []*Holding, ok bool) {
	classes := map[v1.PodQOSClass][]*Holding{}
	for i := range held {
		if h := &held[i]; h.Standing == Staying && preemptable(pod, h) {
			classes[h.qos] = append(classes[h.qos], h)
		}
	}
	bestEffort, burstable, guaranteed := classes[v1.PodQOSBestEffort], classes[v1.PodQOSBurstable], classes[v1.PodQOSGuaranteed]
	if len(without(lacks, bestEffort, burstable, guaranteed)) > 0 {
		return nil, false
	}
	guaranteed = fewest(guaranteed, without(lacks, bestEffort, burstable))
	burstable = fewest(burstable, without(lacks, bestEffort, guaranteed))
	bestEffort = fewest(bestEffort, without(lacks, burstable, guaranteed))
	return slices.Concat(bestEffort, burstable, guaranteed), true
}

// preemptable says whether a pod may take the place of one that is accepted:
// a critical pod that of one which is not, any pod that of a lower priority.
func preemptable(pod *v1.Pod, h *Holding) bool {
	if podspec.IsCritical(pod) && !h.critical {
		return true
	}
	return pod.Spec.Priority != nil && h.priority != nil && *pod.Spec.Priority > *h.priority
}

// fewest takes from pods, one after another, the one that leaves least of what
// is lacked, and of equal ones the smallest.
func fewest(pods []*Holding, lacks []shortage) []*Holding {
	pods = slices.Clone(pods)
	var chosen []*Holding
	for len(lacks) > 0 && len(pods) > 0 {
		best := slices.MinFunc(pods, func(a, b *Holding) int {
			return cmp.Or(
				cmp.Compare(distance(a, lacks), distance(b, lacks)),
				cmp.Compare(a.amounts[v1.ResourceMemory], b.amounts[v1.ResourceMemory]),
				cmp.Compare(a.amounts[v1.ResourceCPU], b.amounts[v1.ResourceCPU]),
				cmp.Compare(a.UID, b.UID),
			)
		})
		chosen = append(chosen, best)
		lacks = without(lacks, []*Holding{best})
		pods = slices.DeleteFunc(pods, func(h *Holding) bool { return h == best })
	}
	return chosen
}

// distance is how far a pod is from giving all that is lacked: the squares of
// the parts that would still be missing.
func distance(h *Holding, lacks []shortage) (d float64) {
	for _, l := range lacks {
		if missing := float64(l.amount - h.amount(l.name)); missing > 0 {
			part := missing / float64(l.amount)
			d += part * part
		}
	}
	return d
}

// without is what is lacked still when these pods are gone.
func without(lacks []shortage, gone ...[]*Holding) (still []shortage) {
	for _, l := range lacks {
		for _, h := range slices.Concat(gone...) {
			l.amount -= h.amount(l.name)
		}
		if l.amount > 0 {
			still = append(still, l)
		}
	}
	return still
}

// makeRoom answers for a critical pod that lacks nothing but resources: the
// pods that have to go for it, or the verdict if they cannot help. Pure.
func makeRoom(checks []Check, in Input) ([]Preemption, Verdict) {
	others := slices.DeleteFunc(slices.Clone(checks), func(c Check) bool { return c.Name == resourcesCheck })
	if v := Judge(others, in); v.Decision == Reject {
		return nil, v
	}
	lacks := shortages(in)
	chosen, ok := victims(in.Pod, in.Held, lacks)
	if !ok {
		words := make([]string, len(lacks))
		for i, l := range lacks {
			words[i] = fmt.Sprintf("%d more of %s", l.amount, l.name)
		}
		v := reject(UnexpectedAdmissionError, fmt.Sprintf(
			"the pod is critical and lacks %s; all pods of lower priority together do not hold as much. "+
				"Lower its requests, or remove other critical pods of this node", strings.Join(words, ", ")))
		v.Check = resourcesCheck
		return nil, v
	}
	preemptions := make([]Preemption, len(chosen))
	for i, h := range chosen {
		preemptions[i] = Preemption{Victim: h.UID, For: in.Pod, Resource: lacks[0].name}
	}
	return preemptions, Verdict{}
}
