package lifecycle

import (
	"fmt"
	"slices"
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
	p.prefetch()
	if !p.want(Action{Key: Key{Kind: Prepare}}) {
		p.explain(explain.Sandbox, "", "cgroup and directories of the pod", Key{Kind: Prepare})
		return
	}
	volumes := p.volumes()
	sandbox := p.sandbox(volumes)
	if !volumes || sandbox == nil {
		return
	}
	// What the spec changed is stopped before anything of it is started.
	p.stopChanged(sandbox)
	if p.initContainers(sandbox) {
		p.regularContainers(sandbox)
	}
	p.removeDead(sandbox)
	p.out.Started = p.allStarted(sandbox)
	if p.out.Explain.Stage == "" {
		p.out.Explain = explain.Entry{Stage: explain.Running}
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
	podspec.EachContainer(p.Pod, func(c *v1.Container, kind podspec.Kind) bool {
		key := Key{PullImage, c.Name}
		if _, tried := p.History.Steps[key]; tried || c.ImagePullPolicy == v1.PullAlways ||
			kind == podspec.Ephemeral || p.Observed.Latest(c.Name) != nil {
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
	p.ask(Action{Key: key})
	if !step.Mounted {
		p.explain(explain.Volumes, "", "volumes to be mounted", key)
	}
	return step.Mounted
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
	p.ask(Action{Key: key, Attempt: attempt})
	p.explain(explain.Sandbox, "", "the runtime to set up the pod's sandbox and network (RunPodSandbox)", key)
	return nil
}

// retire stops what still runs in a sandbox that is not the pod's any more
// and then its network. It reports whether that is over.
func (p *planner) retire(s *observed.Sandbox, why string) (over bool) {
	running := false
	for i := range p.Observed.Containers {
		c := &p.Observed.Containers[i]
		if c.SandboxID == s.ID && (c.State == observed.Running || c.State == observed.Unknown) {
			running = true
			p.stop(c, podspec.Grace(p.Pod), why)
		}
	}
	if running {
		p.explain(explain.Sandbox, "", "containers of the lost sandbox to stop", Key{StopSandbox, s.ID})
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

// unknownLimit is how long a call of unknown outcome is repeated under the
// same attempt number. Runtimes reserve the name while they are still at the
// first call, so that repeating can adopt but never duplicate; after this
// time the reservation is taken to have leaked.
const unknownLimit = 5 * time.Minute

func (p *planner) skipAttempts(key Key) uint32 {
	since := p.History.Steps[key].UnknownSince
	if since.IsZero() {
		return 0
	}
	return uint32(p.Now.Sub(since) / unknownLimit)
}

func (p *planner) stop(c *observed.Container, grace time.Duration, why string) {
	spec, _ := podspec.FindContainer(p.Pod, c.Name)
	p.ask(Action{Key: Key{StopContainer, c.ID}, ID: c.ID, Container: spec, Grace: grace, Why: why})
}

// stopChanged stops running containers whose image in the spec changed, the
// only field of a running container that may.
func (p *planner) stopChanged(sandbox *observed.Sandbox) {
	podspec.EachContainer(p.Pod, func(c *v1.Container, _ podspec.Kind) bool {
		latest := p.Observed.Latest(c.Name)
		if latest == nil || latest.SandboxID != sandbox.ID || latest.Hash == "" {
			return true
		}
		if latest.State == observed.Running && latest.Hash != podspec.ContainerHash(c) {
			p.stop(latest, podspec.Grace(p.Pod), fmt.Sprintf("Container %s definition changed, will be restarted", c.Name))
		}
		if latest.State == observed.Unknown {
			p.stop(latest, podspec.Grace(p.Pod), fmt.Sprintf("Container %s is in unknown state, try killing it before restart", c.Name))
		}
		return true
	})
}

// initContainers says whether all init containers are over (sidecars:
// started), and starts the next one if not.
func (p *planner) initContainers(sandbox *observed.Sandbox) (over bool) {
	started := p.everStarted(sandbox.ID)
	for i := range p.Pod.Spec.InitContainers {
		c := &p.Pod.Spec.InitContainers[i]
		latest := p.Observed.Latest(c.Name)
		if latest != nil && latest.SandboxID != sandbox.ID {
			latest = nil // init containers run again in a new sandbox
		}
		sidecar := podspec.IsSidecar(c)
		switch {
		case started && !sidecar:
			continue
		case latest == nil && started:
			// A sidecar that the runtime forgot: start it beside the others.
			p.start(c, nil, sandbox)
			continue
		case latest != nil && latest.State == observed.Exited && !sidecar && latest.ExitCode == 0:
			continue
		case latest != nil && latest.State == observed.Running && sidecar:
			continue
		case latest != nil && (latest.State == observed.Running || latest.State == observed.Unknown):
			p.explain(explain.Container, c.Name, "init container to complete", Key{})
		default:
			p.start(c, latest, sandbox)
		}
		if started {
			continue
		}
		return false
	}
	return true
}

// regularContainers starts what should run, in spec order, one at a time. A
// container that has to wait (back-off, image) does not hold up the next.
func (p *planner) regularContainers(sandbox *observed.Sandbox) {
	for i := range p.Pod.Spec.Containers {
		c := &p.Pod.Spec.Containers[i]
		latest := p.Observed.Latest(c.Name)
		if latest != nil && latest.SandboxID != sandbox.ID {
			if latest.State == observed.Exited && !restarts(p.Pod, c, podspec.Regular, latest) {
				continue
			}
			if latest.State == observed.Created {
				latest = nil
			}
		}
		if latest != nil && (latest.State == observed.Running || latest.State == observed.Unknown) {
			continue
		}
		if latest != nil && latest.State == observed.Exited && !restarts(p.Pod, c, podspec.Regular, latest) {
			continue
		}
		if busy := p.start(c, latest, sandbox); busy {
			return
		}
	}
	for i := range p.Pod.Spec.EphemeralContainers {
		c := v1.Container(p.Pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		if latest := p.Observed.Latest(c.Name); latest == nil || latest.State == observed.Created {
			if busy := p.start(&c, latest, sandbox); busy {
				return
			}
		}
	}
}

// start asks for whatever the container needs next to run: the end of its
// back-off, its image, or its creation. latest is its newest instance or nil.
// busy says that the container is being started right now, so that the next
// one has to wait.
func (p *planner) start(c *v1.Container, latest *observed.Container, sandbox *observed.Sandbox) (busy bool) {
	key := Key{StartContainer, c.Name}
	step := p.History.Steps[key]
	a := Action{Key: key, Container: c, SandboxID: sandbox.ID}

	if step.InFlight {
		p.explain(explain.Container, c.Name, "the runtime to create and start the container", key)
		return true
	}
	if p.stale() {
		p.explain(explain.Container, c.Name, "the runtime to tell what became of the last start", Key{Kind: Look})
		return true
	}
	if latest != nil && latest.State == observed.Exited {
		if p.backingOff(c, latest) {
			return false
		}
		// Whatever it waits for next, this is why it does not run.
		defer p.blame(exitText(latest), int(latest.Attempt)+1)
	}
	late := latest != nil && latest.State == observed.Created && !step.UnknownSince.IsZero()
	if !late && !p.History.due(key, p.Now) {
		p.wakeAt(step.RetryAt)
		p.wait(c.Name, step.Reason, step.LastError)
		p.explain(explain.Container, c.Name, "the next try to create the container", key)
		return false
	}
	if latest != nil && latest.State == observed.Created {
		a.ID, a.Attempt = latest.ID, latest.Attempt
	} else {
		a.Attempt = p.nextAttempt(c.Name) + p.skipAttempts(key)
		ref, present, pulling := p.image(c)
		if !present {
			return pulling
		}
		a.ImageRef = ref
	}
	if other := p.starting(); other != "" {
		p.explain(explain.Container, c.Name, "its turn after container "+other, key)
		return true
	}
	if step.Failures > 0 {
		p.wait(c.Name, step.Reason, step.LastError)
	}
	p.out.Actions = append(p.out.Actions, a)
	p.explain(explain.Container, c.Name, "the runtime to create and start the container", key)
	if latest != nil && latest.State == observed.Exited {
		if p.out.Crashes == nil {
			p.out.Crashes = map[string]CrashBackoff{}
		}
		old, had := p.History.Crashes[c.Name]
		p.out.Crashes[c.Name] = nextCrash(old, had, latest.FinishedAt, p.Now, p.MaxCrashDelay)
	}
	return true
}

// nextAttempt is one more than that of any container of the name, in whatever
// sandbox, since the runtime derives its own, unique names from it; and more
// than the restart count that was told.
func (p *planner) nextAttempt(name string) (next uint32) {
	for _, told := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		if told.Name == name && told.ContainerID != "" {
			next = uint32(max(told.RestartCount, 0)) + 1
		}
	}
	for i := range p.Observed.Containers {
		if c := &p.Observed.Containers[i]; c.Name == name {
			next = max(next, c.Attempt+1)
		}
	}
	return next
}

// image says whether the container's image is present or being pulled, and
// asks for it if neither.
func (p *planner) image(c *v1.Container) (ref string, present, pulling bool) {
	key := Key{PullImage, c.Name}
	step := p.History.Steps[key]
	if step.Done {
		return step.ImageRef, true, false
	}
	pulling = step.InFlight || p.asked(key) || p.ask(Action{Key: key, Container: c})
	if step.LastError != "" {
		p.wait(c.Name, step.Reason, step.LastError)
	}
	p.explain(explain.Image, c.Image, "image of container "+c.Name, key)
	return "", false, pulling
}

// backingOff says whether a container that exited must not be restarted yet.
func (p *planner) backingOff(c *v1.Container, exited *observed.Container) bool {
	b, had := p.History.Crashes[c.Name]
	if !had || expired(b, exited.FinishedAt, p.MaxCrashDelay) {
		return false
	}
	until := exited.FinishedAt.Add(b.Delay)
	if !until.After(p.Now) {
		return false
	}
	p.wakeAt(until)
	p.wait(c.Name, "CrashLoopBackOff", fmt.Sprintf("back-off %s restarting failed container=%s pod=%s_%s(%s)",
		b.Delay, c.Name, p.Pod.Name, p.Pod.Namespace, p.Pod.UID))
	if p.out.Explain.Stage == "" {
		p.out.Explain = explain.Entry{
			Stage: explain.BackOff, Object: c.Name,
			WaitsFor:  fmt.Sprintf("back-off of %s after the container exited", b.Delay),
			LastError: exitText(exited), Attempts: int(exited.Attempt) + 1, NextRetry: until,
		}
	}
	return true
}

func exitText(c *observed.Container) string {
	s := fmt.Sprintf("exit code %d", c.ExitCode)
	if c.Reason != "" {
		s += " (" + c.Reason + ")"
	}
	if c.Message != "" {
		s += ": " + c.Message
	}
	return s
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
		case c.State == observed.Running, c.State == observed.Unknown, first:
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
		case c == nil:
			return false
		case c.State == observed.Exited && !restarts(p.Pod, spec, podspec.Regular, c):
		case c.StartedAt.IsZero(), c.SandboxID != sandbox.ID:
			return false
		}
	}
	return true
}
