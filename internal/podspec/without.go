package podspec

import (
	"slices"

	v1 "k8s.io/api/core/v1"
)

// Without are groups of fields that are left out of a spec because their
// feature gate is off: the pod then runs as if they were not set, and no other
// part has to know of the gate.
type Without struct {
	// RestartRules: restartPolicy of containers, but for sidecars, and
	// restartPolicyRules.
	RestartRules bool
	// RestartAll: rules that restart all containers of the pod.
	RestartAll bool
	// StopSignals: lifecycle.stopSignal.
	StopSignals bool
}

// From returns the pod without the fields; the same pod if it sets none of
// them.
func (w Without) From(pod *v1.Pod) *v1.Pod {
	found := false
	w.each(pod, func(*v1.Container, Kind) { found = true })
	if !found {
		return pod
	}
	pod = pod.DeepCopy()
	w.each(pod, func(c *v1.Container, kind Kind) {
		if w.RestartRules {
			c.RestartPolicyRules = nil
			if kind != Init || !IsSidecar(c) {
				c.RestartPolicy = nil
			}
		}
		if w.RestartAll {
			c.RestartPolicyRules = slices.DeleteFunc(c.RestartPolicyRules, restartsAll)
		}
		if w.StopSignals && c.Lifecycle != nil {
			c.Lifecycle.StopSignal = nil
		}
	})
	return pod
}

// each calls f for the containers that set a field to be left out.
func (w Without) each(pod *v1.Pod, f func(*v1.Container, Kind)) {
	visit := func(list []v1.Container, kind Kind) {
		for i := range list {
			c := &list[i]
			policy := c.RestartPolicy != nil && (kind != Init || !IsSidecar(c))
			if w.RestartRules && (policy || len(c.RestartPolicyRules) > 0) ||
				w.RestartAll && slices.ContainsFunc(c.RestartPolicyRules, restartsAll) ||
				w.StopSignals && c.Lifecycle != nil && c.Lifecycle.StopSignal != nil {
				f(c, kind)
			}
		}
	}
	visit(pod.Spec.InitContainers, Init)
	visit(pod.Spec.Containers, Regular)
}

func restartsAll(r v1.ContainerRestartRule) bool {
	return r.Action == v1.ContainerRestartRuleActionRestartAllContainers
}
