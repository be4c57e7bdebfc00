package lifecycle

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"

	"kubelet/internal/explain"
	"kubelet/internal/observed"
	"kubelet/internal/podspec"
)

// MinimumGrace is what a container gets to end after its stop signal, whatever
// its hook or other containers have left of the grace period.
const MinimumGrace = 2 * time.Second

// runs says whether a container may have processes.
func runs(c *observed.Container) bool {
	return c.State == observed.Running || c.State == observed.Unknown
}

// ending is how containers are stopped: within a grace period that counts from
// since.
type ending struct {
	since   time.Time
	grace   time.Duration
	why     string
	noHooks bool
}

func (e ending) until() time.Time { return e.since.Add(e.grace) }

// end stops containers that run, within one grace period: their preStop hooks
// run at once; then each gets its stop signal, a sidecar when the regular
// containers and the sidecars after it have ended (KEP-753). When the period
// is over nobody waits for anybody any more.
func (p *planner) end(running []*observed.Container, e ending) {
	slices.SortStableFunc(running, func(a, b *observed.Container) int {
		return cmp.Compare(p.place(a.Name), p.place(b.Name))
	})
	for _, c := range running {
		if p.place(c.Name) == p.place(running[0].Name) || !p.Now.Before(e.until()) {
			p.stop(c, e)
			continue
		}
		p.wakeAt(e.until())
		if !e.noHooks {
			p.preStop(c, e)
		}
		p.explain(p.stopping(), c.Name, "container "+running[0].Name+" to end before this sidecar", Key{})
	}
}

// stopping is the stage of a pod that waits for a container to stop.
func (p *planner) stopping() explain.Stage {
	if p.Mode == Run {
		return explain.Container
	}
	return explain.Terminating
}

// place is a container's place in the order of ends: 0 but for sidecars, the
// last of which is 1.
func (p *planner) place(name string) int {
	n := len(p.Pod.Spec.InitContainers)
	for i := range p.Pod.Spec.InitContainers {
		if c := &p.Pod.Spec.InitContainers[i]; c.Name == name && podspec.IsSidecar(c) {
			return n - i
		}
	}
	return 0
}

// stopOne stops a single container within the grace period, which counts from
// when its hook began.
func (p *planner) stopOne(c *observed.Container, grace time.Duration, why string) {
	since := p.Now
	if step, begun := p.History.Steps[Key{PreStop, c.ID}]; begun {
		since = step.Began
	}
	p.stop(c, ending{since: since, grace: grace, why: why})
}

// stop sends a container its stop signal as soon as its preStop hook has
// ended or the grace period is over.
func (p *planner) stop(c *observed.Container, e ending) {
	key := Key{StopContainer, c.ID}
	spec, _ := podspec.FindContainer(p.Pod, c.Name)
	if !e.noHooks && !p.preStop(c, e) {
		p.explain(p.stopping(), c.Name, "its preStop hook to end", Key{PreStop, c.ID})
		return
	}
	p.explain(p.stopping(), c.Name, "the container to stop within its grace period", key)
	_, hooked := p.History.Steps[Key{PreStop, c.ID}]
	left := max(e.until().Sub(p.Now), 0)
	if step := p.History.Steps[key]; step.InFlight && step.Until.After(p.Now.Add(left+MinimumGrace)) {
		// It was told to take more time than there is now.
		p.out.Cancel = append(p.out.Cancel, key)
		return
	}
	a := Action{Key: key, ID: c.ID, Container: spec, Grace: max(left, MinimumGrace), Why: e.why, Again: hooked}
	p.ask(a)
}

// preStop says whether nothing has to be waited for before the stop signal:
// there is no hook, or it has ended, or its time is over. Else it sees to it
// that the hook runs.
func (p *planner) preStop(c *observed.Container, e ending) (over bool) {
	spec, _ := podspec.FindContainer(p.Pod, c.Name)
	if spec == nil || spec.Lifecycle == nil || spec.Lifecycle.PreStop == nil || c.State != observed.Running {
		return true
	}
	key := Key{PreStop, c.ID}
	if p.History.done(key) || p.History.inFlight(Key{StopContainer, c.ID}) || !p.Now.Before(e.until()) {
		return true
	}
	p.wakeAt(e.until())
	p.ask(Action{Key: key, ID: c.ID, Container: spec, Grace: e.until().Sub(p.Now), Why: e.why})
	return false
}

// cancelHooks ends the hooks of containers that have ended: nobody waits for
// them, and one that sleeps or hangs would not notice.
func (p *planner) cancelHooks() {
	for key, step := range p.History.Steps {
		if !step.InFlight || key.Kind != PostStart && key.Kind != PreStop {
			continue
		}
		alive := false
		for i := range p.Observed.Containers {
			c := &p.Observed.Containers[i]
			alive = alive || c.ID == key.Name && runs(c)
		}
		if !alive {
			p.out.Cancel = append(p.out.Cancel, key)
		}
	}
}

// stopUnfit stops what runs and has to be started anew: its image in the spec
// changed, its resources did and cannot be changed in place, its hook failed, a
// probe says so, or the runtime does not know its state.
func (p *planner) stopUnfit(sandbox *observed.Sandbox) {
	podspec.EachContainer(p.Pod, func(c *v1.Container, kind podspec.Kind) bool {
		latest := p.Observed.Latest(c.Name)
		if latest == nil || latest.SandboxID != sandbox.ID || !runs(latest) || p.void[latest.ID] {
			return true
		}
		title := "Container " + c.Name
		if kind == podspec.Init {
			title = "Init container " + c.Name
		}
		grace, restart := podspec.Grace(p.Pod), podspec.RestartsKilled(p.Pod, c, kind)
		hook := p.History.Steps[Key{PostStart, latest.ID}]
		probes := p.Probes[latest.ID]
		why := ""
		switch {
		case latest.State == observed.Unknown:
			p.stopOne(latest, grace, title+" is in unknown state, try killing it before restart")
			return true
		case latest.Hash != "" && latest.Hash != podspec.ContainerHash(c):
			why, restart = title+" definition changed", true
		case slices.Contains(p.replaced, latest.ID):
			why, restart = title+" resize requires restart", true
		case hook.Failures > 0 && !p.hooked(c, latest):
			p.wait(c.Name, hook.Reason, hook.LastError)
			p.explain(explain.Container, c.Name, "the container, whose postStart hook failed, to stop", Key{PostStart, latest.ID})
			why = "FailedPostStartHook"
		case probes.Failed != nil:
			why = fmt.Sprintf("%s failed %s probe", title, strings.ToLower(probes.Failed.Kind.String()))
			if s := probes.Failed.Grace; s != nil {
				grace = time.Duration(max(*s, 1)) * time.Second
			}
			p.explain(explain.Container, c.Name, "the container, which failed its "+strings.ToLower(probes.Failed.Kind.String())+" probe, to stop", Key{})
			p.blame(probes.Failed.Message, 0)
		default:
			return true
		}
		if restart {
			p.out.Condemned = append(p.out.Condemned, latest.ID)
			if hook.Failures == 0 {
				why += ", will be restarted"
			}
		}
		p.stopOne(latest, grace, why)
		return true
	})
}
