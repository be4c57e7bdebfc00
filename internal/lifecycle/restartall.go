package lifecycle

import (
	"fmt"

	v1 "k8s.io/api/core/v1"

	"kubelet/internal/observed"
	"kubelet/internal/podspec"
)

// The restart of all containers (KEP-5532) acts like a new sandbox that is the
// old one: what was created before the exit that caused it is void, is stopped
// if it runs and does not count any more, so that the pod starts over with its
// first init container. All of that can be read from the runtime's records at
// any time, so nothing has to be remembered: the record of the exit is kept
// until no container is void any more.

// restartPoint finds the last exit that restarted all, and what is void since.
func (p *planner) restartPoint() {
	if len(p.Observed.Sandboxes) == 0 || !podspec.CanRestartAll(p.Pod) {
		return
	}
	sandbox := p.Observed.Sandboxes[0].ID
	for i := range p.Observed.Containers {
		c := &p.Observed.Containers[i]
		if c.SandboxID != sandbox || c.State != observed.Exited {
			continue
		}
		spec, kind := podspec.FindContainer(p.Pod, c.Name)
		if spec != nil && kind != podspec.Ephemeral && podspec.RestartsAll(spec, c.ExitCode) &&
			(p.trigger == nil || c.FinishedAt.After(p.trigger.FinishedAt)) {
			p.trigger = c
		}
	}
	if p.trigger == nil {
		return
	}
	p.void = map[string]bool{}
	// What was created after the exit and before anybody knew of it has not
	// waited for the init containers to run again; it stays void when they have.
	since := p.trigger.FinishedAt
	tooEarly := false
	podspec.EachContainer(p.Pod, func(spec *v1.Container, kind podspec.Kind) bool {
		if kind == podspec.Ephemeral {
			return true
		}
		var records []*observed.Container // newest first
		for i := range p.Observed.Containers {
			if c := &p.Observed.Containers[i]; c.Name == spec.Name && c.SandboxID == sandbox {
				records = append(records, c)
				if tooEarly || c.CreatedAt.Before(since) {
					p.void[c.ID] = true
				}
			}
		}
		switch {
		case kind != podspec.Init || len(records) == 0:
		case p.void[records[0].ID]:
			tooEarly = true
		// A sidecar's later runs say nothing about what came after its first.
		case !podspec.IsSidecar(spec) || len(records) > 1 && p.void[records[1].ID]:
			since = records[0].CreatedAt
		}
		return true
	})
}

// restartingAll stops what is void. Until that is over nothing is started.
func (p *planner) restartingAll() (stopping bool) {
	var running []*observed.Container
	for i := range p.Observed.Containers {
		if c := &p.Observed.Containers[i]; p.void[c.ID] && runs(c) {
			running = append(running, c)
		}
	}
	if len(running) == 0 {
		return false
	}
	p.out.RestartingAll = p.trigger.Name
	why := fmt.Sprintf("Container %s exited with code %d, which restarts all containers of the pod", p.trigger.Name, p.trigger.ExitCode)
	podspec.EachContainer(p.Pod, func(c *v1.Container, _ podspec.Kind) bool {
		if latest := p.Observed.Latest(c.Name); latest != nil && p.void[latest.ID] {
			p.wait(c.Name, "RestartingAllContainers", why)
		}
		return true
	})
	// As upstream: their preStop hooks are left out.
	p.end(running, ending{since: p.Now, grace: MinimumGrace, why: why, noHooks: true})
	return true
}

// anyVoid says whether a container has not been started again yet.
func (p *planner) anyVoid() (any bool) {
	podspec.EachContainer(p.Pod, func(c *v1.Container, _ podspec.Kind) bool {
		latest := p.Observed.Latest(c.Name)
		any = latest != nil && p.void[latest.ID]
		return !any
	})
	return any
}
