package lifecycle

import (
	"kubelet/internal/explain"
	"kubelet/internal/observed"
)

// terminate stops all containers; nothing is started any more.
func (p *planner) terminate() {
	var running []*observed.Container
	for i := range p.Observed.Containers {
		if c := &p.Observed.Containers[i]; runs(c) {
			running = append(running, c)
		}
	}
	p.end(running, ending{since: p.Since, grace: p.Grace, why: p.Why})
	unsettled := p.unsettled(explain.Terminating)
	p.out.Stopped = len(running) == 0 && !unsettled
	if p.out.Explain.Stage == "" {
		p.out.Explain = explain.Entry{Stage: explain.Terminating}
	}
}

// finish reports the end and releases everything:
//
//	StopSandbox ─► RemoveCgroup ─┐
//	Unmount ─────────────────────┼─► DeleteObject
//	FlushStatus ─────────────────┤
//	                             └─► RemoveSandbox ─► RemoveLogs   (if Gone or Delete)
//
// The runtime's records go only after the final status is safe, because until
// then they are the only place that has it.
func (p *planner) finish() {
	// A container or sandbox that a late answer brought into being.
	stopped := true
	for i := range p.Observed.Containers {
		c := &p.Observed.Containers[i]
		if runs(c) {
			p.explain(explain.Cleanup, c.Name, "the container to stop", Key{StopContainer, c.ID})
			p.stop(c, ending{since: p.Now, grace: MinimumGrace, why: "the pod has ended", noHooks: true})
			stopped = false
		}
	}
	if p.unsettled(explain.Cleanup) {
		stopped = false
	}
	quiet := stopped
	if stopped {
		for i := range p.Observed.Sandboxes {
			s := &p.Observed.Sandboxes[i]
			key := Key{StopSandbox, s.ID}
			if !p.want(Action{Key: key, ID: s.ID}) {
				p.explain(explain.Cleanup, "", "the sandbox and its network to be taken down (StopPodSandbox)", key)
				stopped = false
			}
		}
	}

	flushed := p.Silent || p.want(Action{Key: Key{Kind: FlushStatus}})
	if !flushed {
		p.explain(explain.Cleanup, "", "the API server to accept the final status", Key{Kind: FlushStatus})
	}
	unmounted := false
	if quiet && !p.History.inFlight(Key{Kind: Mount}) && !p.History.inFlight(Key{Kind: Prepare}) &&
		!p.History.inFlight(Key{Kind: Remember}) {
		unmounted = p.want(Action{Key: Key{Kind: Unmount}})
	}
	if !unmounted {
		p.explain(explain.Cleanup, "", "volumes to be unmounted and removed", Key{Kind: Unmount})
	}
	if !stopped {
		return
	}
	freed := p.want(Action{Key: Key{Kind: RemoveCgroup}})
	if !freed {
		p.explain(explain.Cleanup, "", "the pod's cgroup to be removed", Key{Kind: RemoveCgroup})
	}
	released := flushed && unmounted && freed
	deleted := !p.Delete
	if released && p.Delete {
		deleted = p.want(Action{Key: Key{Kind: DeleteObject}})
		if !deleted {
			p.explain(explain.Cleanup, "", "the API server to delete the object", Key{Kind: DeleteObject})
		}
	}
	removed := true
	if p.Gone || p.Delete {
		removed = flushed && p.removeRecords()
	}
	p.out.Clean = released && deleted && removed
	if p.out.Explain.Stage == "" {
		p.out.Explain = explain.Entry{Stage: explain.Done}
	}
}

// removeRecords removes sandboxes with their containers, then the logs.
func (p *planner) removeRecords() (over bool) {
	for i := range p.Observed.Sandboxes {
		s := &p.Observed.Sandboxes[i]
		p.ask(Action{Key: Key{RemoveSandbox, s.ID}, ID: s.ID})
		p.explain(explain.Cleanup, "", "the runtime to remove the sandbox (RemovePodSandbox)", Key{RemoveSandbox, s.ID})
	}
	if len(p.Observed.Sandboxes) > 0 {
		return false
	}
	for i := range p.Observed.Containers {
		c := &p.Observed.Containers[i]
		p.ask(Action{Key: Key{RemoveContainer, c.ID}, ID: c.ID})
		p.explain(explain.Cleanup, c.Name, "the runtime to remove the container", Key{RemoveContainer, c.ID})
	}
	return len(p.Observed.Containers) == 0 && p.want(Action{Key: Key{Kind: RemoveLogs}})
}
