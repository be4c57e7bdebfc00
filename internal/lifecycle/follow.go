package lifecycle

import (
	v1 "k8s.io/api/core/v1"

	"kubelet/internal/observed"
	"kubelet/internal/podspec"
	"kubelet/internal/probe"
)

// Targets are the containers of the pod whose probes are to be followed: those
// that have any, run in the pod's sandbox, and whose postStart hook has ended.
func Targets(in Input, ip string) (targets []probe.Target) {
	sandbox := in.Observed.ReadySandbox()
	if sandbox == nil || in.Mode == Finish {
		return nil
	}
	p := planner{Input: in}
	podspec.EachContainer(in.Pod, func(c *v1.Container, _ podspec.Kind) bool {
		if !HasProbe(c) {
			return true
		}
		latest := in.Observed.Latest(c.Name)
		if latest == nil || latest.State != observed.Running || latest.SandboxID != sandbox.ID || !p.hooked(c, latest) {
			return true
		}
		targets = append(targets, probe.Target{
			Container: c, ID: latest.ID, StartedAt: latest.StartedAt, IP: ip,
			Terminating: in.Mode == Terminate, Was: p.was(c, latest),
		})
		return true
	})
	return targets
}

// HasProbe says whether a container has any probe.
func HasProbe(c *v1.Container) bool {
	return c.StartupProbe != nil || c.LivenessProbe != nil || c.ReadinessProbe != nil
}

// was is what was last known of a container's probes: in the journal, or else
// in the status that was told.
func (p *planner) was(c *v1.Container, running *observed.Container) probe.State {
	if life, known := p.History.Lives[running.ID]; known && (life.Started || life.Ready) {
		return probe.State{Started: life.Started, Ready: life.Ready}
	}
	told := toldOf(&p.Status, c.Name)
	if told == nil || told.State.Running == nil || !isID(told.ContainerID, running.ID) {
		return probe.State{}
	}
	return probe.State{Started: told.Started != nil && *told.Started, Ready: told.Ready}
}
