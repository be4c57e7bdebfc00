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

// Untold are the IDs of containers that run and are not to be told of yet,
// because their postStart hook has not ended well.
func Untold(in Input) (untold map[string]bool) {
	p := planner{Input: in}
	podspec.EachContainer(in.Pod, func(c *v1.Container, _ podspec.Kind) bool {
		latest := in.Observed.Latest(c.Name)
		if latest != nil && latest.State == observed.Running && !p.hooked(c, latest) {
			if untold == nil {
				untold = map[string]bool{}
			}
			untold[latest.ID] = true
		}
		return true
	})
	return untold
}

// HasProbe says whether a container has any probe.
func HasProbe(c *v1.Container) bool {
	return c.StartupProbe != nil || c.LivenessProbe != nil || c.ReadinessProbe != nil
}

// was is what was last known of a container's probes: by the journal or by the
// status that was told. Either may be a moment older than the other, and the
// better of them counts: what is not true any more a probe finds out, while a
// container that turns unready with every restart of the kubelet loses its
// traffic.
func (p *planner) was(c *v1.Container, running *observed.Container) probe.State {
	life := p.History.Lives[running.ID]
	was := probe.State{Started: life.Started, Ready: life.Ready}
	told := toldOf(&p.Status, c.Name)
	if told != nil && told.State.Running != nil && isID(told.ContainerID, running.ID) {
		was.Started = was.Started || told.Started != nil && *told.Started
		was.Ready = was.Ready || told.Ready
	}
	return was
}
