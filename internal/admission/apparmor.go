package admission

import (
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"

	"kubelet/internal/podspec"
)

// AppArmor rejects a pod that asks for a profile on a host that cannot
// enforce one, or for a local profile without a name. The annotations that
// came before the fields count too: a static pod's are never turned into
// fields by an API server. A pod that ran already is let through, so that
// changing the host ends none.
func AppArmor(enforced bool) Check {
	const reason = "AppArmor"
	return Check{Name: "AppArmor", Judge: func(in Input) Verdict {
		pod := in.Pod
		if (pod.Status.Phase != "" && pod.Status.Phase != v1.PodPending) || !wantsAppArmor(pod) {
			return Verdict{}
		}
		if !enforced {
			return reject(reason, "the pod asks for an AppArmor profile, and AppArmor is not enabled on the host")
		}
		var verdict Verdict
		podspec.EachContainer(pod, func(c *v1.Container, _ podspec.Kind) bool {
			if profile := podspec.AppArmorProfile(pod, c); profile != nil && profile.Type == v1.AppArmorProfileTypeLocalhost &&
				(profile.LocalhostProfile == nil || strings.TrimSpace(*profile.LocalhostProfile) == "") {
				verdict = reject(reason, fmt.Sprintf("container %s: the local AppArmor profile has no name", c.Name))
			}
			return verdict.Decision == Accept
		})
		return verdict
	}}
}

func wantsAppArmor(pod *v1.Pod) bool {
	confined := func(p *v1.AppArmorProfile) bool { return p != nil && p.Type != v1.AppArmorProfileTypeUnconfined }
	if sc := pod.Spec.SecurityContext; sc != nil && confined(sc.AppArmorProfile) {
		return true
	}
	wants := false
	podspec.EachContainer(pod, func(c *v1.Container, _ podspec.Kind) bool {
		wants = c.SecurityContext != nil && confined(c.SecurityContext.AppArmorProfile)
		return !wants
	})
	for key, value := range pod.Annotations {
		if strings.HasPrefix(key, v1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix) && value != v1.DeprecatedAppArmorBetaProfileNameUnconfined {
			wants = true
		}
	}
	return wants
}
