package lifecycle

import (
	"cmp"
	"slices"

	v1 "k8s.io/api/core/v1"

	"kubelet/internal/explain"
	"kubelet/internal/observed"
	"kubelet/internal/podspec"
)

// Resizing is how far a pod is from the resources allocated to it (KEP-1287).
type Resizing struct {
	// Judged: the plan came so far as to see it; else the rest says nothing.
	Judged bool
	// Outstanding: something that runs has other resources. Containers: a
	// container has.
	Outstanding, Containers bool
	// Error is why the last try did not get further.
	Error string
}

// Room is what is known of the limits of a pod's cgroup. The zero value goes
// with a pod that asks for nothing.
type Room struct {
	Amounts podspec.Amounts
	// Over: they may be higher than Amounts. Unknown: or anything else.
	Over, Unknown bool
}

// allows says whether the limits are at least that high.
func (r Room) allows(a podspec.Amounts) bool { return !r.Unknown && r.Amounts.Cover(a) }

// is says whether they are just that.
func (r Room) is(a podspec.Amounts) bool { return !r.Unknown && !r.Over && r.Amounts == a }

// change is a container that runs with other resources than allocated.
type change struct {
	spec      *v1.Container
	running   *observed.Container
	has, want podspec.Amounts
}

// resize brings what runs to the allocated resources, each step after the one
// before, so that no child is ever allowed more than its parent:
//
//	the pod's cgroup up ─► containers down ─► containers up ─► the pod's cgroup down
//
// Containers whose resizePolicy says so are stopped instead (stopUnfit) and
// started with the new resources.
func (p *planner) resize(sandbox *observed.Sandbox) {
	var changes []change
	restarting := false
	podspec.EachContainer(p.Pod, func(c *v1.Container, kind podspec.Kind) bool {
		running := p.current(c.Name, sandbox)
		if kind == podspec.Ephemeral || running == nil {
			return true
		}
		if running.State != observed.Running {
			restarting = restarting || running.State == observed.Exited && p.resized(c, running) && p.restarts(c, kind, running)
			return true
		}
		want := podspec.ContainerAmounts(p.Pod, c)
		has, known := p.History.Has(running)
		if !known {
			has = p.handedOver(c.Name, want)
			p.presume(running.ID, has)
		}
		switch {
		case has == want:
		case restartsToResize(c, has.Changed(want)):
			p.replaced = append(p.replaced, running.ID)
		case !p.History.inFlight(Key{StopContainer, running.ID}):
			changes = append(changes, change{c, running, has, want})
		}
		return true
	})
	slices.SortStableFunc(changes, func(a, b change) int { return cmp.Compare(a.rank(), b.rank()) })

	whole := podspec.PodAmounts(p.Pod, false)
	p.roomy = p.History.Room.allows(whole)
	r := &p.out.Resizing
	r.Judged = true
	r.Containers = restarting || len(changes)+len(p.replaced) > 0
	r.Outstanding = r.Containers || !p.History.Room.is(whole)
	r.Error = p.resizeError(changes)
	switch {
	case p.resizingNow():
	case !p.roomy && len(changes)+len(p.replaced) > 0:
		room := p.History.Room
		p.ask(Action{Key: Key{Kind: ResizePod}, Amounts: whole, Raise: room.Over || room.Unknown || !whole.Cover(room.Amounts)})
	case len(changes) > 0:
		c := changes[0]
		p.ask(Action{Key: Key{ResizeContainer, c.running.ID}, ID: c.running.ID, Container: c.spec, Amounts: c.want, Was: c.has})
	case len(p.replaced) == 0 && !p.History.Room.is(whole):
		p.ask(Action{Key: Key{Kind: ResizePod}, Amounts: whole})
	}
}

// rank orders containers: those first that give something back.
func (c *change) rank() int {
	if c.has.Cover(c.want) {
		return 0
	}
	if c.want.Cover(c.has) {
		return 2
	}
	return 1
}

// handedOver is what a container of another kubelet has: what that one wrote
// down of it, or else what is allocated.
func (p *planner) handedOver(name string, allocated podspec.Amounts) podspec.Amounts {
	if p.Actuated != nil {
		if c, _ := podspec.FindContainer(p.Actuated, name); c != nil {
			return podspec.ContainerAmounts(p.Actuated, c)
		}
	}
	return allocated
}

func (p *planner) presume(id string, a podspec.Amounts) {
	if p.out.Presumed == nil {
		p.out.Presumed = map[string]podspec.Amounts{}
	}
	p.out.Presumed[id] = a
}

// resizingNow says whether a step that resizes is under way.
func (p *planner) resizingNow() bool {
	for key, step := range p.History.Steps {
		if step.InFlight && (key.Kind == ResizePod || key.Kind == ResizeContainer) {
			return true
		}
	}
	return false
}

// resizeError is why the step that is due next failed last time.
func (p *planner) resizeError(changes []change) string {
	if err := p.History.Steps[Key{Kind: ResizePod}].LastError; err != "" {
		return err
	}
	for _, c := range changes {
		if err := p.History.Steps[Key{ResizeContainer, c.running.ID}].LastError; err != "" {
			return err
		}
	}
	return ""
}

// restartsToResize says whether a container has to be restarted to change one
// of these resources.
func restartsToResize(c *v1.Container, names []v1.ResourceName) bool {
	return slices.ContainsFunc(c.ResizePolicy, func(policy v1.ContainerResizePolicy) bool {
		return policy.RestartPolicy == v1.RestartContainer && slices.Contains(names, policy.ResourceName)
	})
}

// cramped says whether a container that is to be started has to wait until
// the pod's cgroup allows what the pod is to have.
func (p *planner) cramped(c *v1.Container) bool {
	if p.roomy {
		return false
	}
	key := Key{Kind: ResizePod}
	if step := p.History.Steps[key]; step.LastError != "" {
		p.wait(c.Name, "ContainerCreating", step.LastError)
	}
	p.explain(explain.Container, c.Name, "the pod's cgroup to be resized", key)
	return true
}

// resized says whether a container that ended had other resources than it
// would be given now: its end says nothing about how it would fare.
func (p *planner) resized(c *v1.Container, dead *observed.Container) bool {
	has, known := p.History.Has(dead)
	return known && has != podspec.ContainerAmounts(p.Pod, c)
}
