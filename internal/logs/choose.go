package logs

import (
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"
)

// ContainerID returns the runtime's id, scheme and all, of the container whose
// log somebody means who asks for a container by name: the one that runs, or
// the last one that ran; with previous, the one before it. The errors are for
// that person; they have upstream's wording, which tools look for.
func ContainerID(podName string, status *v1.PodStatus, container string, previous bool) (string, error) {
	c := find(status, container)
	if c == nil {
		return "", fmt.Errorf("container %q in pod %q is not available", container, podName)
	}
	last := ""
	if t := c.LastTerminationState.Terminated; t != nil {
		last = t.ContainerID
	}
	switch waiting, terminated := c.State.Waiting, c.State.Terminated; {
	case previous:
		if last == "" {
			return "", fmt.Errorf("previous terminated container %q in pod %q not found", container, podName)
		}
		return last, nil
	case c.State.Running != nil:
		return c.ContainerID, nil
	case terminated != nil && terminated.ContainerID != "":
		return terminated.ContainerID, nil
	case last != "":
		return last, nil
	case terminated != nil || c.LastTerminationState.Terminated != nil:
		return "", fmt.Errorf("container %q in pod %q is terminated", container, podName)
	case waiting == nil:
		return "", fmt.Errorf("container %q in pod %q is waiting to start - no logs yet", container, podName)
	case waiting.Reason == "ErrImagePull":
		return "", fmt.Errorf("container %q in pod %q is waiting to start: image can't be pulled", container, podName)
	case waiting.Reason == "ImagePullBackOff":
		return "", fmt.Errorf("container %q in pod %q is waiting to start: trying and failing to pull image", container, podName)
	default:
		return "", fmt.Errorf("container %q in pod %q is waiting to start: %s", container, podName, waiting.Reason)
	}
}

func find(status *v1.PodStatus, container string) *v1.ContainerStatus {
	for _, list := range [][]v1.ContainerStatus{status.ContainerStatuses, status.InitContainerStatuses, status.EphemeralContainerStatuses} {
		if i := slices.IndexFunc(list, func(c v1.ContainerStatus) bool { return c.Name == container }); i >= 0 {
			return &list[i]
		}
	}
	return nil
}
