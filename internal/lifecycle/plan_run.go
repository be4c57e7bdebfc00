package lifecycle

import (
	"maps"
	"time"

	v1 "k8s.io/api/core/v1"

	"kubelet/internal/explain"
	"kubelet/internal/observed"
	"kubelet/internal/podspec"
)

// run plans towards what the spec wants:
//
//	Prepare ─► Mount ────────────┐
//	      └──► RunSandbox ───────┼─► init containers ─► regular containers
//	PullImage of what comes next ┘   one at a time, in spec order
//
// RunSandbox waits for Mount where volumes need more than this node's cache.
func (p *planner) run() {
	if p.deadlineExceeded() || p.endedNow() {
		return
	}
	if p.Allocate != nil {
		p.ask(Action{Key: Key{Kind: Allocate}, Pod: p.Allocate})
	}
	p.prefetch()
	if !p.want(Action{Key: Key{Kind: Prepare}, Amounts: podspec.PodAmounts(p.Pod, false)}) {
		p.explain(explain.Sandbox, "", "cgroup and directories of the pod", Key{Kind: Prepare})
		p.tellBackOff()
		return
	}
	volumes := p.volumes()
	sandbox := p.sandbox(volumes)
	if !volumes || sandbox == nil {
		p.tellBackOff()
		return
	}
	p.resize(sandbox)
	// What has to go is stopped before anything is started in its place.
	p.stopUnfit(sandbox)
	if !p.restartingAll() {
		p.ephemeralContainers(sandbox)
		if p.initContainers(sandbox) {
			p.regularContainers(sandbox)
		}
	}
	p.removeDead(sandbox)
	p.remember()
	p.out.Started = p.allStarted(sandbox)
	if p.out.Explain.Stage == "" {
		p.out.Explain = p.explainUnready()
	}
}

func (p *planner) deadlineExceeded() bool {
	seconds := p.Pod.Spec.ActiveDeadlineSeconds
	if seconds == nil || p.Status.StartTime == nil {
		return false
	}
	end := p.Status.StartTime.Add(time.Duration(*seconds) * time.Second)
	p.out.DeadlineExceeded = !p.Now.Before(end)
	p.wakeAt(end)
	return p.out.DeadlineExceeded
}

func (p *planner) endedNow() bool {
	if p.startInFlight() || p.stale() || !p.ended() {
		return false
	}
	p.out.Ended = true
	p.out.Explain = explain.Entry{Stage: explain.Done}
	return true
}

// prefetch asks once for images that are needed later and may be on the node
// already. A failure shows when the container's turn comes. Always is checked
// at that turn, not before.
func (p *planner) prefetch() {
	sandbox := p.Observed.ReadySandbox()
	initialized := sandbox != nil && p.everStarted(sandbox.ID)
	podspec.EachContainer(p.Pod, func(c *v1.Container, kind podspec.Kind) bool {
		key := Key{PullImage, c.Name}
		if _, tried := p.History.Steps[key]; tried || c.ImagePullPolicy == v1.PullAlways ||
			kind == podspec.Ephemeral || p.Observed.Latest(c.Name) != nil || p.lostForGood(c, kind) ||
			kind == podspec.Init && initialized && !podspec.IsSidecar(c) {
			return true
		}
		p.ask(Action{Key: key, Container: c})
		return true
	})
}

// volumes says whether all volumes are mounted, and keeps them up to date.
func (p *planner) volumes() (ready bool) {
	key := Key{Kind: Mount}
	step := p.History.Steps[key]
	if step.Done && !step.NextDue.IsZero() {
		if step.NextDue.After(p.Now) {
			p.wakeAt(step.NextDue)
		} else {
			step.Done = false
		}
	}
	if step.Done {
		return true
	}
	if !step.Mounted && p.ObjectsPending {
		p.explain(explain.Volumes, "", "the API server to tell the ConfigMaps and Secrets", key)
		return false
	}
	p.ask(Action{Key: key})
	if !step.Mounted {
		p.explain(explain.Volumes, "", "volumes to be mounted", key)
	}
	return step.Mounted
}

// together asks for the sandbox. If the volumes are to be mounted beside it,
// they wait until it is let in at the start gate: each mount on the node makes
// the start of every container there slower, so pods that have to wait have
// none yet.
func (p *planner) together(sandbox Action) {
	if !p.ask(sandbox) {
		return
	}
	for i := range p.out.Actions {
		if p.out.Actions[i].Kind == Mount && !p.History.Steps[Key{Kind: Mount}].Mounted {
			gathering := newGathering()
			p.out.Actions[i].gathering, p.out.Actions[len(p.out.Actions)-1].gathering = gathering, gathering
		}
	}
}

// sandbox returns the sandbox to run containers in, or nil after having asked
// for what is needed to get one.
func (p *planner) sandbox(volumesReady bool) *observed.Sandbox {
	current := p.Observed.ReadySandbox()
	blocked := false
	for i := range p.Observed.Sandboxes {
		s := &p.Observed.Sandboxes[i]
		if s == current {
			continue
		}
		if !p.retire(s, "the pod's sandbox was replaced") && current == nil {
			blocked = true
		}
	}
	if current != nil || blocked {
		return current
	}
	key := Key{Kind: RunSandbox}
	if !volumesReady && !p.BesideSandbox {
		p.explain(explain.Sandbox, "", "volumes, before the sandbox", key)
		return nil
	}
	if p.stale() {
		p.explain(explain.Sandbox, "", "the runtime to tell what became of the last start", Key{Kind: Look})
		return nil
	}
	attempt := uint32(0)
	if len(p.Observed.Sandboxes) > 0 {
		attempt = p.Observed.Sandboxes[0].Attempt + 1
	}
	attempt += p.skipAttempts(key)
	p.together(Action{Key: key, Attempt: attempt})
	p.explain(explain.Sandbox, "", "the runtime to set up the pod's sandbox and network (RunPodSandbox)", key)
	return nil
}

// retire stops what still runs in a sandbox that is not the pod's any more
// and then its network. It reports whether that is over.
func (p *planner) retire(s *observed.Sandbox, why string) (over bool) {
	var running []*observed.Container
	for i := range p.Observed.Containers {
		if c := &p.Observed.Containers[i]; c.SandboxID == s.ID && runs(c) {
			running = append(running, c)
		}
	}
	if len(running) > 0 {
		since, begun := p.History.Ending[s.ID]
		if !begun {
			since = p.Now
			p.out.Ending = append(p.out.Ending, s.ID)
		}
		p.explain(explain.Sandbox, "", "containers of the lost sandbox to stop", Key{StopSandbox, s.ID})
		p.end(running, ending{since: since, grace: podspec.Grace(p.Pod), why: why})
		return false
	}
	if !p.History.done(Key{StopSandbox, s.ID}) && p.unsettled(explain.Sandbox) {
		return false // a container may yet appear in it
	}
	if !p.want(Action{Key: Key{StopSandbox, s.ID}, ID: s.ID}) {
		p.explain(explain.Sandbox, "", "the lost sandbox's network to be taken down (StopPodSandbox)", Key{StopSandbox, s.ID})
		return false
	}
	return true
}

// remember journals what the runtime cannot tell, if it has changed.
func (p *planner) remember() {
	h := History{Lives: p.History.Lives}
	h.Note(&p.out, p.Now)
	lives := h.Lives
	if !maps.Equal(lives, p.History.Kept) {
		p.ask(Action{Key: Key{Kind: Remember}, Lives: lives})
	}
}

// removeDead removes dead containers beyond the newest dead one of each name,
// and sandboxes that hold none that is kept.
func (p *planner) removeDead(sandbox *observed.Sandbox) {
	keep := map[string]bool{} // by sandbox id
	dead := map[string]int{}
	newest := map[string]bool{}
	for i := range p.Observed.Containers {
		c := &p.Observed.Containers[i]
		first := !newest[c.Name]
		newest[c.Name] = true
		switch {
		case runs(c), first, c == p.trigger && p.anyVoid():
			keep[c.SandboxID] = true
			if c.State == observed.Exited {
				dead[c.Name]++
			}
		case c.State == observed.Exited && dead[c.Name] == 0:
			dead[c.Name]++
			keep[c.SandboxID] = true
		default:
			p.ask(Action{Key: Key{RemoveContainer, c.ID}, ID: c.ID})
		}
	}
	for i := range p.Observed.Sandboxes {
		s := &p.Observed.Sandboxes[i]
		if s.ID != sandbox.ID && !s.Ready && !keep[s.ID] && p.History.done(Key{StopSandbox, s.ID}) {
			p.ask(Action{Key: Key{RemoveSandbox, s.ID}, ID: s.ID})
		}
	}
}

// allStarted says whether every regular container was started in the sandbox
// or will not be started again.
func (p *planner) allStarted(sandbox *observed.Sandbox) bool {
	for i := range p.Pod.Spec.Containers {
		spec := &p.Pod.Spec.Containers[i]
		c := p.Observed.Latest(spec.Name)
		switch {
		case p.lostForGood(spec, podspec.Regular):
		case c == nil:
			return false
		case c.State == observed.Exited && !p.restarts(spec, podspec.Regular, c):
		case c.StartedAt.IsZero(), c.SandboxID != sandbox.ID, p.void[c.ID], c.State == observed.Running && !p.hooked(spec, c):
			return false
		}
	}
	return true
}
