package worker

import (
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"

	"kubelet/internal/lifecycle"
	"kubelet/internal/podspec"
)

// warnOfFields tells the pod's owner which fields of the spec this kubelet
// accepts and does not act on, so that nothing is ignored silently.
func (w *worker) warnOfFields() {
	if fields := podspec.NotActedOn(w.pod); len(fields) > 0 {
		w.pool.Events.Event(w.pod, "", v1.EventTypeWarning, "FieldsNotActedOn",
			"This kubelet does not act on these fields yet: "+strings.Join(fields, ", "))
	}
}

// warnOfBackOff records an event when a container comes into back-off.
func (w *worker) warnOfBackOff(out lifecycle.Output) {
	for name, waiting := range out.Waiting {
		if waiting.Reason == "CrashLoopBackOff" && !isWaiting(w.previous, name, waiting.Reason) {
			w.pool.Events.Event(w.pod, name, v1.EventTypeWarning, "BackOff",
				fmt.Sprintf("Back-off restarting failed container %s in pod %s_%s(%s)", name, w.pod.Name, w.pod.Namespace, w.uid))
		}
	}
}

func isWaiting(s v1.PodStatus, container, reason string) bool {
	is := func(c v1.ContainerStatus) bool {
		return c.Name == container && c.State.Waiting != nil && c.State.Waiting.Reason == reason
	}
	return slices.ContainsFunc(s.ContainerStatuses, is) || slices.ContainsFunc(s.InitContainerStatuses, is)
}
