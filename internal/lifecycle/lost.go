package lifecycle

import (
	v1 "k8s.io/api/core/v1"

	"kubelet/internal/podspec"
)

// A runtime may lose its records: its directory was emptied, a node was set up
// anew under its old name, somebody removed a container by hand. What was told
// of the pod is then all that is known of its containers.

// lostForGood says whether a container has run, the runtime has no record of
// it any more, and it is not to be started again. Of one that ran when it was
// last told of nobody knows how it ended: that is no success, and matches no
// rule by exit codes.
func (p *planner) lostForGood(c *v1.Container, kind podspec.Kind) bool {
	if p.Observed.Latest(c.Name) != nil {
		return false
	}
	told := toldOf(&p.Status, c.Name)
	switch {
	case told == nil:
		return false
	case told.State.Running != nil:
		return !podspec.RestartsKilled(p.Pod, c, kind)
	case told.State.Terminated != nil:
		return !podspec.Restarts(p.Pod, c, kind, told.State.Terminated.ExitCode)
	}
	return false
}

// failedAndLost says whether an init container is lost for good and has not
// ended well, and no regular container was told to have started after it.
func (p *planner) failedAndLost() (failed bool) {
	for i := range p.Pod.Spec.Containers {
		if told := toldOf(&p.Status, p.Pod.Spec.Containers[i].Name); told != nil && told.ContainerID != "" {
			return false
		}
	}
	for i := range p.Pod.Spec.InitContainers {
		c := &p.Pod.Spec.InitContainers[i]
		if !p.lostForGood(c, podspec.Init) {
			continue
		}
		if t := toldOf(&p.Status, c.Name).State.Terminated; t == nil || t.ExitCode != 0 {
			return true
		}
	}
	return false
}
