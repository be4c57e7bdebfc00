package status

import (
	"bytes"
	"encoding/json"
	"fmt"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"kubelet/internal/podspec"
)

// merge is the status that the API object should have: ours, and what others
// own in it as it stands there.
func merge(object, ours v1.PodStatus) v1.PodStatus {
	merged := ours
	merged.ResourceClaimStatuses = object.ResourceClaimStatuses
	merged.ExtendedResourceClaimStatus = object.ExtendedResourceClaimStatus
	merged.NodeAllocatableResourceClaimStatuses = object.NodeAllocatableResourceClaimStatuses
	merged.NominatedNodeName = object.NominatedNodeName
	merged.Resize = object.Resize
	merged.ObservedGeneration = max(object.ObservedGeneration, ours.ObservedGeneration)
	// In the object's order, so that the patch does not bring them into ours.
	merged.Conditions = nil
	for _, c := range object.Conditions {
		switch wanted := findCondition(ours.Conditions, c.Type); {
		case !isOurs(c.Type):
			merged.Conditions = append(merged.Conditions, c)
		case wanted != nil:
			merged.Conditions = append(merged.Conditions, *wanted)
		}
	}
	for _, c := range ours.Conditions {
		// DisruptionTarget is shared: the scheduler and the eviction API set
		// it too, and the first word stands.
		if (isOurs(c.Type) || c.Type == v1.DisruptionTarget) && findCondition(object.Conditions, c.Type) == nil {
			merged.Conditions = append(merged.Conditions, c)
		}
	}
	return merged
}

// patch is the strategic merge patch from one status to the other; nil if
// they are equal in what the API keeps.
func patch(from, to v1.PodStatus) ([]byte, error) {
	// Pods without metadata: only the status is compared.
	old, err := json.Marshal(&v1.Pod{Status: from})
	if err != nil {
		return nil, fmt.Errorf("make status patch: %w", err)
	}
	wanted, err := json.Marshal(&v1.Pod{Status: to})
	if err != nil {
		return nil, fmt.Errorf("make status patch: %w", err)
	}
	if bytes.Equal(old, wanted) {
		return nil, nil
	}
	body, err := strategicpatch.CreateTwoWayMergePatch(old, wanted, &v1.Pod{})
	if err != nil {
		return nil, fmt.Errorf("make status patch: %w", err)
	}
	if string(body) == "{}" {
		return nil, nil
	}
	return body, nil
}

// forward holds a status against the one before and takes back what would go
// backwards: a terminal phase, a restart count, a container that ended and is
// said to run or wait without having been started again. It returns what it
// took back; nothing in a right kubelet.
func forward(before, after v1.PodStatus) (v1.PodStatus, []string) {
	var violations []string
	if podspec.IsTerminalPhase(before.Phase) && after.Phase != before.Phase {
		violations = append(violations, fmt.Sprintf("phase %s to %s", before.Phase, after.Phase))
		after.Phase, after.Reason, after.Message = before.Phase, before.Reason, before.Message
	}
	for _, list := range []struct {
		before []v1.ContainerStatus
		after  *[]v1.ContainerStatus
	}{
		{before.InitContainerStatuses, &after.InitContainerStatuses},
		{before.ContainerStatuses, &after.ContainerStatuses},
		{before.EphemeralContainerStatuses, &after.EphemeralContainerStatuses},
	} {
		copied := false
		for i := range *list.after {
			now := (*list.after)[i]
			old := find(list.before, now.Name)
			if old == nil {
				continue
			}
			wrong := ""
			if now.RestartCount < old.RestartCount {
				wrong = fmt.Sprintf("container %s: restart count %d to %d", now.Name, old.RestartCount, now.RestartCount)
				now.RestartCount = old.RestartCount
			}
			if revives(old, &now) {
				wrong = fmt.Sprintf("container %s: terminated, and not started again", now.Name)
				now.State, now.LastTerminationState, now.Ready, now.Started = old.State, old.LastTerminationState, old.Ready, old.Started
			}
			if wrong == "" {
				continue
			}
			violations = append(violations, wrong)
			if !copied { // statuses are shared and never changed in place
				*list.after = append([]v1.ContainerStatus(nil), *list.after...)
				copied = true
			}
			(*list.after)[i] = now
		}
	}
	return after, violations
}

// revives says whether a container leaves its end without a new attempt. One
// that waits to be started again keeps its end as the last state.
func revives(old, now *v1.ContainerStatus) bool {
	ended := old.State.Terminated
	if ended == nil || now.State.Terminated != nil {
		return false
	}
	if now.ContainerID != old.ContainerID || now.RestartCount > old.RestartCount {
		return false
	}
	return now.State.Waiting == nil || now.LastTerminationState.Terminated == nil
}

// Previous is the status to go on from when this kubelet knows none of the
// pod, as after its start: the API object's. A static pod has its mirror's,
// if that shows this very pod; but a final one there belongs to an earlier
// life, for the manifest asks for the pod again. mirror may be nil.
func Previous(pod, mirror *v1.Pod) v1.PodStatus {
	if !podspec.IsStatic(pod) {
		return pod.Status
	}
	if mirror == nil || !mirrors(mirror, pod) || podspec.IsTerminalPhase(mirror.Status.Phase) {
		return v1.PodStatus{}
	}
	return mirror.Status
}
