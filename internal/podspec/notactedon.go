package podspec

import v1 "k8s.io/api/core/v1"

// NotActedOn lists the fields that a pod sets and this kubelet accepts but
// does not act on yet, by their path in the spec (docs/compatibility.md has
// them all).
func NotActedOn(pod *v1.Pod) []string {
	var fields []string
	add := func(set bool, path string) {
		if set {
			fields = append(fields, path)
		}
	}
	EachContainer(pod, func(c *v1.Container, kind Kind) bool {
		path := map[Kind]string{Regular: "containers", Init: "initContainers", Ephemeral: "ephemeralContainers"}[kind] + "[" + c.Name + "]."
		add(c.LivenessProbe != nil, path+"livenessProbe")
		add(c.ReadinessProbe != nil, path+"readinessProbe")
		add(c.StartupProbe != nil, path+"startupProbe")
		if l := c.Lifecycle; l != nil {
			add(l.PostStart != nil, path+"lifecycle.postStart")
			add(l.PreStop != nil, path+"lifecycle.preStop")
			add(l.StopSignal != nil, path+"lifecycle.stopSignal")
		}
		add(len(c.RestartPolicyRules) > 0, path+"restartPolicyRules")
		add(kind != Init && c.RestartPolicy != nil, path+"restartPolicy")
		add(c.Resources.Claims != nil, path+"resources.claims")
		return true
	})
	s := &pod.Spec
	add(len(s.ResourceClaims) > 0, "resourceClaims")
	return fields
}
