package lifecycle

import (
	"fmt"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"

	"kubelet/internal/explain"
	"kubelet/internal/observed"
	"kubelet/internal/podspec"
)

// current is the newest container of a name as far as it counts: it is in
// this sandbox, and not from before the restart of all containers.
func (p *planner) current(name string, sandbox *observed.Sandbox) *observed.Container {
	c := p.Observed.Latest(name)
	if c == nil || c.SandboxID != sandbox.ID || p.void[c.ID] {
		return nil
	}
	return c
}

// initContainers says whether all init containers are over (sidecars:
// started), and starts the next one if not. The farthest one of which the
// runtime has a record says how far the pod has come; of those before it, only
// sidecars are kept running.
func (p *planner) initContainers(sandbox *observed.Sandbox) (over bool) {
	inits := p.Pod.Spec.InitContainers
	farthest := len(inits)
	if !p.everStarted(sandbox.ID) {
		for farthest = len(inits) - 1; farthest > 0; farthest-- {
			if p.current(inits[farthest].Name, sandbox) != nil {
				break
			}
		}
	}
	for i := range inits {
		c := &inits[i]
		sidecar := podspec.IsSidecar(c)
		latest := p.current(c.Name, sandbox)
		if i < farthest {
			if sidecar && (latest == nil || !runs(latest)) {
				p.start(c, sandbox)
			} else if sidecar {
				p.hooking(c, latest)
			}
			continue
		}
		switch {
		case latest == nil, latest.State == observed.Created:
			p.start(c, sandbox)
		case latest.State == observed.Unknown:
			p.explain(explain.Container, c.Name, "the runtime to tell the init container's state", Key{})
		case latest.State == observed.Running && !sidecar:
			p.explain(explain.Container, c.Name, "init container to complete", Key{})
		case latest.State == observed.Running:
			if !p.hooking(c, latest) && p.up(c, latest) {
				continue
			}
			p.explain(explain.Container, c.Name, "the sidecar's startup probe to succeed", Key{})
		case p.restarts(c, podspec.Init, latest):
			p.start(c, sandbox)
		case latest.ExitCode == 0:
			continue
		}
		return false
	}
	return true
}

// up says whether a running sidecar lets the next container start: its hook
// ended well, and its startup probe succeeded.
func (p *planner) up(c *v1.Container, running *observed.Container) bool {
	return p.hooked(c, running) && (c.StartupProbe == nil || p.Probes == nil || p.Probes[running.ID].Started)
}

// regularContainers starts what should run, in spec order, one at a time. A
// container that has to wait (back-off, image) does not hold up the next; one
// whose postStart hook runs does.
func (p *planner) regularContainers(sandbox *observed.Sandbox) {
	for i := range p.Pod.Spec.Containers {
		c := &p.Pod.Spec.Containers[i]
		latest := p.Observed.Latest(c.Name)
		busy := false
		switch {
		case latest != nil && runs(latest):
			busy = p.hooking(c, latest)
		case latest != nil && latest.State == observed.Exited && !p.restarts(c, podspec.Regular, latest):
		case p.lostForGood(c, podspec.Regular):
		default:
			busy = p.start(c, sandbox)
		}
		if busy {
			return
		}
	}
}

// ephemeralContainers starts each of them once, whatever the others do.
func (p *planner) ephemeralContainers(sandbox *observed.Sandbox) {
	for i := range p.Pod.Spec.EphemeralContainers {
		e := &p.Pod.Spec.EphemeralContainers[i]
		c := v1.Container(e.EphemeralContainerCommon)
		latest := p.Observed.Latest(c.Name)
		if latest != nil && (latest.State != observed.Created || latest.SandboxID != sandbox.ID) || p.lostForGood(&c, podspec.Ephemeral) {
			continue
		}
		if target := e.TargetContainerName; target != "" && latest == nil {
			if t := p.current(target, sandbox); t == nil || t.State != observed.Running {
				const reason = "CreateContainerConfigError"
				message := fmt.Sprintf("target container %q does not run: this container is started when it does", target)
				p.wait(c.Name, reason, message)
				p.explain(explain.Container, c.Name, "target container "+target+" to run", Key{})
				continue
			}
		}
		p.start(&c, sandbox)
	}
}

// target is the container whose processes an ephemeral container is to see.
func (p *planner) target(name string, sandbox *observed.Sandbox) string {
	for i := range p.Pod.Spec.EphemeralContainers {
		e := &p.Pod.Spec.EphemeralContainers[i]
		if e.Name == name && e.TargetContainerName != "" {
			if t := p.current(e.TargetContainerName, sandbox); t != nil {
				return t.ID
			}
		}
	}
	return ""
}

// hooked says whether the postStart hook of a container that runs has ended
// well, as far as there is one. Nobody was told that it runs before.
func (p *planner) hooked(c *v1.Container, running *observed.Container) bool {
	if c.Lifecycle == nil || c.Lifecycle.PostStart == nil || p.History.Lives[running.ID].Hooked {
		return true
	}
	told := toldOf(&p.Status, c.Name)
	return told != nil && told.State.Running != nil && isID(told.ContainerID, running.ID)
}

// slowHook is how long a postStart hook runs before that is worth telling.
const slowHook = 5 * time.Second

// hooking says whether a running container's postStart hook still has to end,
// and sees to it that it runs.
func (p *planner) hooking(c *v1.Container, running *observed.Container) bool {
	key := Key{PostStart, running.ID}
	step := p.History.Steps[key]
	if running.State != observed.Running || step.Failures > 0 || p.hooked(c, running) {
		return false // one that failed is being stopped
	}
	p.ask(Action{Key: key, Container: c, ID: running.ID})
	p.explain(explain.Container, c.Name, "its postStart hook to end", key)
	if step.InFlight {
		if slow := step.Began.Add(slowHook); slow.After(p.Now) {
			p.wakeAt(slow)
		} else {
			p.wait(c.Name, "", "the container has been started and waits for its postStart hook, which runs since "+
				step.Began.UTC().Format(time.RFC3339))
		}
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

// start asks for whatever the container needs next to run: the end of its
// back-off, its image, or its creation. busy says that the container is being
// started right now, so that the next one has to wait.
func (p *planner) start(c *v1.Container, sandbox *observed.Sandbox) (busy bool) {
	key := Key{StartContainer, c.Name}
	step := p.History.Steps[key]
	a := Action{Key: key, Container: c, SandboxID: sandbox.ID, TargetID: p.target(c.Name, sandbox)}

	if step.InFlight {
		p.explain(explain.Container, c.Name, "the runtime to create and start the container", key)
		return true
	}
	if p.stale() {
		p.explain(explain.Container, c.Name, "the runtime to tell what became of the last start", Key{Kind: Look})
		return true
	}
	created, dead := p.created(c.Name, sandbox), p.dead(c, sandbox)
	if dead != nil {
		if p.backingOff(c, dead) {
			return false
		}
		// Whatever it waits for next, this is why it does not run.
		defer p.blame(p.exitText(dead), int(dead.Attempt)+1)
	}
	late := created != nil && !step.UnknownSince.IsZero()
	if !late && !p.History.due(key, p.Now) {
		p.wakeAt(step.RetryAt)
		p.wait(c.Name, step.Reason, step.LastError)
		p.explain(explain.Container, c.Name, "the next try to create the container", key)
		return false
	}
	if created != nil {
		a.ID, a.Attempt = created.ID, created.Attempt
	} else {
		a.Attempt = p.nextAttempt(c.Name) + p.skipAttempts(key)
		ref, present, pulling := p.image(c)
		if !present {
			return pulling
		}
		a.ImageRef = ref
	}
	if p.cramped(c) {
		return true
	}
	if other := p.starting(); other != "" {
		p.explain(explain.Container, c.Name, "its turn after container "+other, key)
		return true
	}
	if step.Failures > 0 {
		p.wait(c.Name, step.Reason, step.LastError)
	}
	if dead != nil && p.crashed(c, dead) {
		a.Delay = p.Crash.next(dead)
	}
	p.out.Actions = append(p.out.Actions, a)
	p.explain(explain.Container, c.Name, "the runtime to create and start the container", key)
	return true
}

// created is a container that was created in the sandbox and not started yet.
func (p *planner) created(name string, sandbox *observed.Sandbox) *observed.Container {
	if c := p.current(name, sandbox); c != nil && c.State == observed.Created {
		return c
	}
	return nil
}

// dead is the newest container of the name if it has ended. Init containers
// start afresh in a new sandbox, regular ones do not.
func (p *planner) dead(c *v1.Container, sandbox *observed.Sandbox) *observed.Container {
	latest := p.Observed.Latest(c.Name)
	if latest == nil || latest.State != observed.Exited {
		return nil
	}
	if _, kind := podspec.FindContainer(p.Pod, c.Name); kind == podspec.Init && latest.SandboxID != sandbox.ID {
		return nil
	}
	return latest
}

// crashed says whether the end of a container counts for CrashLoopBackOff:
// not if it was stopped because another container restarts all, and not if the
// spec asks for another image or other resources since.
func (p *planner) crashed(c *v1.Container, dead *observed.Container) bool {
	return (!p.void[dead.ID] || dead == p.trigger) && (dead.Hash == "" || dead.Hash == podspec.ContainerHash(c)) && !p.resized(c, dead)
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
func (p *planner) backingOff(c *v1.Container, dead *observed.Container) bool {
	delay := p.Crash.delay(dead)
	if delay == 0 || !p.crashed(c, dead) {
		return false
	}
	until := dead.FinishedAt.Add(delay)
	waitsFor, note := fmt.Sprintf("back-off of %s after the container exited", delay), ""
	if !until.After(p.Now) && p.Budgeted {
		turn, reserved := p.History.Turns[dead.ID]
		if !reserved {
			p.out.Reserve = append(p.out.Reserve, dead.ID)
			return true // planned again at once
		}
		until, waitsFor = turn, "its turn in the node's restart budget"
		note = ", its turn in the node's restart budget"
	}
	if !until.After(p.Now) {
		return false
	}
	if hook := p.History.Steps[Key{PostStart, dead.ID}]; hook.LastError != "" {
		note += "; " + hook.LastError
	}
	p.wakeAt(until)
	p.wait(c.Name, "CrashLoopBackOff", fmt.Sprintf("back-off %s restarting failed container=%s pod=%s_%s(%s); next try at %s%s",
		delay, c.Name, p.Pod.Name, p.Pod.Namespace, p.Pod.UID, until.UTC().Format(time.RFC3339), note))
	if p.out.Explain.Stage == "" {
		p.out.Explain = explain.Entry{
			Stage: explain.BackOff, Object: c.Name, WaitsFor: waitsFor,
			LastError: p.exitText(dead), Attempts: int(dead.Attempt) + 1, NextRetry: until,
		}
	}
	return true
}

// tellBackOff tells of containers in back-off while the pod is not as far yet,
// as after a restart of the kubelet: their state does not change by that.
func (p *planner) tellBackOff() {
	podspec.EachContainer(p.Pod, func(c *v1.Container, kind podspec.Kind) bool {
		dead := p.Observed.Latest(c.Name)
		if dead != nil && dead.State == observed.Exited && p.restarts(c, kind, dead) &&
			dead.FinishedAt.Add(p.Crash.delay(dead)).After(p.Now) {
			p.backingOff(c, dead)
		}
		return true
	})
}

// exitText says how a container ended, and why it was stopped if its hook
// failed.
func (p *planner) exitText(c *observed.Container) string {
	if hook := p.History.Steps[Key{PostStart, c.ID}]; hook.LastError != "" {
		return hook.LastError
	}
	s := fmt.Sprintf("exit code %d", c.ExitCode)
	if c.Reason != "" {
		s += " (" + c.Reason + ")"
	}
	if c.Message != "" {
		s += ": " + c.Message
	}
	return s
}

// toldOf is what was last told of a container.
func toldOf(s *v1.PodStatus, name string) *v1.ContainerStatus {
	for _, list := range [][]v1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

// isID says whether a status's container ID, which has a scheme, is that of
// the runtime.
func isID(told, id string) bool {
	_, rest, ok := strings.Cut(told, "://")
	return ok && rest == id
}
