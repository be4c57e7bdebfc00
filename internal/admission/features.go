package admission

import (
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/component-helpers/nodedeclaredfeatures"
	"k8s.io/component-helpers/nodedeclaredfeatures/features"
	resourcehelper "k8s.io/component-helpers/resource"
)

// SupplementalGroups rejects a pod that wants the Strict policy where the
// runtime does not offer it (KEP-3619).
func SupplementalGroups() Check {
	return Check{Name: "SupplementalGroups", NeedsNode: true, Judge: func(in Input) Verdict {
		sc := in.Pod.Spec.SecurityContext
		if sc == nil || sc.SupplementalGroupsPolicy == nil || *sc.SupplementalGroupsPolicy != v1.SupplementalGroupsPolicyStrict {
			return Verdict{}
		}
		if f := in.Node.Status.Features; f != nil && f.SupplementalGroupsPolicy != nil && *f.SupplementalGroupsPolicy {
			return Verdict{}
		}
		if in.Node.Status.NodeInfo.ContainerRuntimeVersion == "" {
			return Verdict{Decision: Wait, Reason: InvalidNodeInfo, Message: "the container runtime has not told its features yet"}
		}
		return reject("SupplementalGroupsPolicyNotSupported", "the container runtime of this node does not offer supplementalGroupsPolicy Strict")
	}}
}

// PodLevelResources rejects a pod with resources of its own where they are
// turned off.
func PodLevelResources(enabled bool) Check {
	return Check{Name: "PodLevelResources", Judge: func(in Input) Verdict {
		if enabled || !resourcehelper.IsPodLevelResourcesSet(in.Pod) {
			return Verdict{}
		}
		return reject("PodLevelResourcesNotAdmitted", "the pod has resources of its own, and feature gate PodLevelResources is off")
	}}
}

// behaves like this release of upstream.
const release = "1.37"

// DeclaredFeatures rejects a pod that needs a feature that the node does not
// declare in its status (KEP-5328).
func DeclaredFeatures(declared []string) Check {
	// The registry is copied because New sorts it in place.
	framework := nodedeclaredfeatures.New(slices.Clone(features.AllFeatures))
	target := version.MustParseGeneric(release)
	declared = slices.Sorted(slices.Values(declared))
	have := framework.TryMap(declared)
	return Check{Name: "DeclaredFeatures", Judge: func(in Input) Verdict {
		const reason = "PodFeatureUnsupported"
		needed, err := framework.InferForPodScheduling(&nodedeclaredfeatures.PodInfo{Spec: &in.Pod.Spec, Status: &in.Pod.Status}, target)
		if err != nil {
			return reject(reason, fmt.Sprintf("the features that the pod needs cannot be told: %v", err))
		}
		match, err := framework.MatchNodeFeatureSet(needed, have)
		if err != nil {
			return reject(reason, fmt.Sprintf("the features that the pod needs cannot be compared: %v", err))
		}
		if !match.IsMatch {
			return reject(reason, fmt.Sprintf("the node does not have features that the pod needs: %s", strings.Join(match.UnsatisfiedRequirements, ", ")))
		}
		return Verdict{}
	}}
}
