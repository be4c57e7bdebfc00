package status

import (
	"slices"

	v1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
)

// OnlyProgress says whether a status tells nothing more than one that was told
// before but that the pod is on its way to run: its sandbox has come up, init
// containers have succeeded, some of its containers run and others do not yet.
// Nobody acts on these before the pod is Ready, so that their write may wait
// for what comes next. Whatever ended otherwise, was restarted or waits for a
// reason of its own is news.
func OnlyProgress(told, now v1.PodStatus) bool {
	if told.Phase != now.Phase || told.Reason != now.Reason || told.Message != now.Message ||
		told.ObservedGeneration != now.ObservedGeneration || (told.StartTime == nil) != (now.StartTime == nil) {
		return false
	}
	for i := range now.Conditions {
		c := &now.Conditions[i]
		old := findCondition(told.Conditions, c.Type)
		switch {
		case old != nil && old.Status == c.Status && old.Reason == c.Reason && old.Message == c.Message:
		case c.Type == v1.PodReadyToStartContainers || c.Type == v1.PodInitialized:
			// A sandbox that waits for volumes is further than none.
			if c.Status != v1.ConditionTrue && !(old != nil && old.Message == messageNoSandbox && c.Message == messageVolumesNotReady) {
				return false
			}
		case c.Type == v1.ContainersReady || c.Type == v1.PodReady:
			// The message says which containers are missing.
			if old == nil || c.Status == v1.ConditionTrue || old.Status != c.Status {
				return false
			}
		default:
			return false
		}
	}
	return slices.EqualFunc(told.InitContainerStatuses, now.InitContainerStatuses, progressed(true)) &&
		slices.EqualFunc(told.ContainerStatuses, now.ContainerStatuses, progressed(false)) &&
		apiequality.Semantic.DeepEqual(told.EphemeralContainerStatuses, now.EphemeralContainerStatuses)
}

// OnlyUnwinding says whether a status of a pod that is being deleted tells
// nothing more than one that was told before but that the deletion was seen
// and that the sandbox is gone.
func OnlyUnwinding(told, now v1.PodStatus) bool {
	if told.Phase != now.Phase || told.Reason != now.Reason || told.Message != now.Message || len(told.Conditions) != len(now.Conditions) {
		return false
	}
	for i := range now.Conditions {
		c := &now.Conditions[i]
		if c.Type == v1.PodReadyToStartContainers {
			continue
		}
		old := findCondition(told.Conditions, c.Type)
		if old == nil || old.Status != c.Status || old.Reason != c.Reason || old.Message != c.Message {
			return false
		}
	}
	return apiequality.Semantic.DeepEqual(told.InitContainerStatuses, now.InitContainerStatuses) &&
		apiequality.Semantic.DeepEqual(told.ContainerStatuses, now.ContainerStatuses) &&
		apiequality.Semantic.DeepEqual(told.EphemeralContainerStatuses, now.EphemeralContainerStatuses)
}

// progressed compares the statuses of a container in its first life.
func progressed(initContainer bool) func(told, now v1.ContainerStatus) bool {
	return func(told, now v1.ContainerStatus) bool {
		if apiequality.Semantic.DeepEqual(told, now) {
			return true
		}
		if told.Name != now.Name || now.RestartCount > 0 || now.LastTerminationState.Terminated != nil || told.State.Terminated != nil {
			return false
		}
		switch s := now.State; {
		case s.Terminated != nil:
			return initContainer && s.Terminated.ExitCode == 0
		case s.Waiting != nil:
			return told.State.Waiting != nil && isStarting(told.State.Waiting.Reason) && isStarting(s.Waiting.Reason)
		}
		return now.State.Running != nil
	}
}

func isStarting(reason string) bool { return reason == reasonCreating || reason == reasonInitializing }
