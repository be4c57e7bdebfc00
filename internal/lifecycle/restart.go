package lifecycle

import (
	v1 "k8s.io/api/core/v1"

	"kubelet/internal/observed"
	"kubelet/internal/podspec"
)

// restarts says whether a container that exited is started again.
func (p *planner) restarts(c *v1.Container, kind podspec.Kind, exited *observed.Container) bool {
	if kind == podspec.Ephemeral {
		return false
	}
	return p.void[exited.ID] || p.History.Lives[exited.ID].Restart ||
		podspec.Restarts(p.Pod, c, kind, exited.ExitCode)
}

// ended says whether no regular container runs and none will run again.
func (p *planner) ended() bool {
	if p.initFailed() || p.failedAndLost() {
		return true
	}
	lost := len(p.Observed.Sandboxes) > 0 && p.Observed.ReadySandbox() == nil
	ran := false
	for i := range p.Pod.Spec.Containers {
		c := &p.Pod.Spec.Containers[i]
		latest := p.Observed.Latest(c.Name)
		switch {
		case p.lostForGood(c, podspec.Regular):
			ran = true
		case latest == nil || latest.State == observed.Created:
			// With Never, a sandbox that was lost after containers ran is not
			// made anew, so what has not run yet never will.
			if !(lost && p.Pod.Spec.RestartPolicy == v1.RestartPolicyNever) {
				return false
			}
		case latest.State != observed.Exited:
			return false
		case p.restarts(c, podspec.Regular, latest):
			return false
		default:
			ran = true
		}
	}
	return ran
}

// initFailed says whether an init container failed for good before any
// regular container was started.
func (p *planner) initFailed() bool {
	if len(p.Observed.Sandboxes) == 0 {
		return false
	}
	newest := p.Observed.Sandboxes[0].ID
	if p.everStarted(newest) {
		return false
	}
	for i := range p.Pod.Spec.InitContainers {
		c := &p.Pod.Spec.InitContainers[i]
		latest := p.Observed.Latest(c.Name)
		if latest != nil && latest.SandboxID == newest && latest.State == observed.Exited &&
			latest.ExitCode != 0 && !p.restarts(c, podspec.Init, latest) {
			return true
		}
	}
	return false
}
