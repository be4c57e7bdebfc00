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
		add(c.Resources.Claims != nil, path+"resources.claims")
		for i := range c.VolumeMounts {
			add(c.VolumeMounts[i].BindMountOptions != nil, path+"volumeMounts["+c.VolumeMounts[i].Name+"].bindMountOptions")
		}
		return true
	})
	s := &pod.Spec
	add(len(s.ResourceClaims) > 0, "resourceClaims")
	add(s.Resources != nil && s.Resources.Claims != nil, "resources.claims")
	return fields
}
