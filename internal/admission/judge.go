package admission

import (
	v1 "k8s.io/api/core/v1"
)

// Reasons of verdicts that are not a check's own. InvalidNodeInfo is upstream's
// name for a node that cannot be read; there the pod is rejected, here it
// waits.
const (
	InvalidNodeInfo          = "InvalidNodeInfo"
	UnexpectedAdmissionError = "UnexpectedAdmissionError"
)

// Input is everything that a judgement depends on.
type Input struct {
	Pod *v1.Pod
	// Node is this node's object with labels, taints and allocatable
	// resources (in standalone mode one that never reaches an API server);
	// nil while it is not known.
	Node *v1.Node
	// Held is what accepted pods hold of the node. The judged pod itself is
	// not among them.
	Held []Holding
}

// Check is one rule of admission.
type Check struct {
	// Name stands in the verdicts that it gives.
	Name string
	// NeedsNode makes the pod wait while the node is not known.
	NeedsNode bool
	// Judge is pure. The zero Verdict accepts.
	Judge func(Input) Verdict
	// Remarks, if not nil, is asked once when a judged pod is accepted or
	// rejected, by whichever check. Pure as well.
	Remarks func(Input) []Remark
}

// Judge asks all checks about one pod. The first rejection wins, then the
// first reason to wait; a pod without either is accepted. It is pure if the
// checks are.
func Judge(checks []Check, in Input) Verdict {
	var wait Verdict
	for i := range checks {
		c := &checks[i]
		var v Verdict
		if c.NeedsNode && in.Node == nil {
			v = Verdict{Decision: Wait, Reason: InvalidNodeInfo, Message: "the node object is not known yet"}
		} else {
			v = c.Judge(in)
		}
		v.Check = c.Name
		switch {
		case v.Decision == Reject:
			return v
		case v.Decision == Wait && wait.Decision != Wait:
			wait = v
		}
	}
	return wait
}

// remarks of all checks about a pod that was answered for good.
func remarks(checks []Check, in Input) (all []Remark) {
	for i := range checks {
		if f := checks[i].Remarks; f != nil {
			all = append(all, f(in)...)
		}
	}
	return all
}

func reject(reason, message string) Verdict {
	return Verdict{Decision: Reject, Reason: reason, Message: message}
}

// Options of the default chain.
type Options struct {
	// AllowedUnsafeSysctls is the node's allow-list (allowedUnsafeSysctls).
	AllowedUnsafeSysctls []string
	// KernelVersion as uname says ("6.1.0-18-amd64"); newer kernels have
	// more safe sysctls. Empty counts as old.
	KernelVersion string
	// AppArmor says whether the host enforces AppArmor profiles.
	AppArmor bool
	// PodLevelResources says whether spec.resources of pods is honoured.
	PodLevelResources bool
	// TaintComparison allows the tolerations operators Lt and Gt (feature
	// gate TaintTolerationComparisonOperators).
	TaintComparison bool
	// DeclaredFeatures are those of the node's status. nil turns the check
	// off.
	DeclaredFeatures []string
	// PodSecurity judges pods by the node's own policy; nil for none.
	PodSecurity PodSecurityPolicy
}

// Chain returns the checks in upstream's order, before which comes the node's
// own pod security: what it forbids, no other node state will mend. Eviction pressure, the
// resource managers (CPU, memory, topology, devices, DRA), volume attachment
// limits and node shutdown will be checks of their own, added where upstream
// has them. Preemption of other pods by a critical one is not a check but the
// queue's answer to what they say (preempt.go).
func Chain(o Options) ([]Check, error) {
	sysctls, err := Sysctls(append(SafeSysctls(o.KernelVersion), o.AllowedUnsafeSysctls...))
	if err != nil {
		return nil, err
	}
	checks := []Check{
		sysctls,
		OSLabel(),
		OSField(),
		SupplementalGroups(),
		Resources(),
		NodeAffinity(),
		NodeName(),
		HostPorts(),
		Taints(o.TaintComparison),
		AppArmor(o.AppArmor),
		PodLevelResources(o.PodLevelResources),
	}
	if o.PodSecurity != nil {
		checks = append([]Check{PodSecurity(o.PodSecurity)}, checks...)
	}
	if o.DeclaredFeatures != nil {
		checks = append(checks, DeclaredFeatures(o.DeclaredFeatures))
	}
	return checks, nil
}
