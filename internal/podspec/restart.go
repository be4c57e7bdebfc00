package podspec

import (
	"slices"

	v1 "k8s.io/api/core/v1"
)

// Restarts says whether a container that ended with this code is started
// again. The container's rules decide, the first that matches; then its own
// policy; then the pod's (KEP-5307). An init container is done once it
// succeeded, a sidecar never (KEP-753), an ephemeral container with its first
// end.
func Restarts(pod *v1.Pod, c *v1.Container, kind Kind, exitCode int32) bool {
	switch {
	case kind == Ephemeral:
		return false
	case kind == Init && IsSidecar(c):
		return true
	case kind == Init && exitCode == 0:
		return false
	}
	if c.RestartPolicy == nil {
		return byPolicy(pod.Spec.RestartPolicy, exitCode)
	}
	switch restartRule(c, exitCode) {
	case v1.ContainerRestartRuleActionRestart, v1.ContainerRestartRuleActionRestartAllContainers:
		return true
	}
	return byPolicy(v1.RestartPolicy(*c.RestartPolicy), exitCode)
}

// RestartsKilled says whether a container is started again that this kubelet
// stopped because a probe or a hook of it failed. How it then exits says
// nothing about it, so rules and codes do not count.
func RestartsKilled(pod *v1.Pod, c *v1.Container, kind Kind) bool {
	if kind == Ephemeral {
		return false
	}
	if c.RestartPolicy != nil {
		return *c.RestartPolicy != v1.ContainerRestartPolicyNever
	}
	return pod.Spec.RestartPolicy != v1.RestartPolicyNever
}

// RestartsAll says whether the end of a container with this code restarts all
// containers of its pod (KEP-5532).
func RestartsAll(c *v1.Container, exitCode int32) bool {
	return restartRule(c, exitCode) == v1.ContainerRestartRuleActionRestartAllContainers
}

// CanRestartAll says whether any container of the pod has a rule that
// restarts all of them.
func CanRestartAll(pod *v1.Pod) (can bool) {
	EachContainer(pod, func(c *v1.Container, _ Kind) bool {
		can = slices.ContainsFunc(c.RestartPolicyRules, restartsAll)
		return !can
	})
	return can
}

func byPolicy(policy v1.RestartPolicy, exitCode int32) bool {
	switch policy {
	case v1.RestartPolicyNever:
		return false
	case v1.RestartPolicyOnFailure:
		return exitCode != 0
	}
	return true
}

// restartRule is the action of the first rule that matches the code, "" for
// none.
func restartRule(c *v1.Container, exitCode int32) v1.ContainerRestartRuleAction {
	for i := range c.RestartPolicyRules {
		rule := &c.RestartPolicyRules[i]
		if rule.ExitCodes == nil {
			continue
		}
		in := slices.Contains(rule.ExitCodes.Values, exitCode)
		switch rule.ExitCodes.Operator {
		case v1.ContainerRestartRuleOnExitCodesOpIn:
		case v1.ContainerRestartRuleOnExitCodesOpNotIn:
			in = !in
		default:
			continue
		}
		if in {
			return rule.Action
		}
	}
	return ""
}
