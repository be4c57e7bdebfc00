package lifecycle

import (
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"

	"kubelet/internal/explain"
	"kubelet/internal/observed"
	"kubelet/internal/podspec"
	"kubelet/internal/probe"
)

// Mode is what a plan works towards; the worker's state machine decides it.
type Mode int

// Modes.
const (
	// Run: make the spec true.
	Run Mode = iota
	// Terminate: stop all containers, start none.
	Terminate
	// Finish: nothing runs any more; report, release and remove.
	Finish
)

// Input is everything a plan depends on.
type Input struct {
	Now      time.Time
	Pod      *v1.Pod
	Mode     Mode
	Observed observed.Pod
	History  History

	// BesideSandbox and ObjectsPending as told by Volumes.
	BesideSandbox, ObjectsPending bool
	// Status is what was last told of the pod. activeDeadlineSeconds counts
	// from its start time, and restart counts go on from it when the runtime
	// has lost its records.
	Status v1.PodStatus
	// Crash is how CrashLoopBackOff grows.
	Crash CrashPolicy
	// Budgeted: restarts of crashing containers need a turn (History.Turns).
	Budgeted bool
	// Probes says what is known of the containers with probes, by their ID;
	// nil if nobody probes.
	Probes map[string]probe.Result

	// Actuated is the pod with the resources that its containers had when
	// another kubelet handed the node over; nil if that is not known.
	Actuated *v1.Pod
	// Allocate, if not nil, is the pod with resources that admission has
	// granted and that are to be written down.
	Allocate *v1.Pod

	// Of Terminate: the grace period that counts from Since, and the reason.
	Grace time.Duration
	Since time.Time
	Why   string

	// Of Finish. Gone: nobody wants the pod any more, so its containers,
	// sandboxes and logs are removed as well. Delete: the API object waits
	// to be deleted by us.
	Gone   bool
	Delete bool
	// Silent: there is no object that could take the final status.
	Silent bool
}

// Output is what to do now, what to tell, and when to plan again if nothing
// happens before.
type Output struct {
	Actions []Action
	// Waiting as in status.Input.
	Waiting map[string]v1.ContainerStateWaiting
	// Explain says why the pod is where it is; the worker adds its identity.
	Explain explain.Entry
	// Wake is when time alone changes the plan; zero for never.
	Wake time.Time
	// Condemned are IDs of containers that are being stopped to be started
	// again, and Ending those of sandboxes whose containers are, to be noted
	// in the history.
	Condemned, Ending []string
	// Cancel names steps under way whose result is of no use any more.
	Cancel []Key
	// Reserve names dead containers that need a turn in the node's restart
	// budget, by ID; then plan again.
	Reserve []string
	// RestartingAll names the container whose exit restarts all of the pod's,
	// while they are being stopped.
	RestartingAll string

	// Presumed are the resources that containers of another kubelet are taken
	// to have, by ID, to be noted in the history.
	Presumed map[string]podspec.Amounts
	// Resizing (of Run) is how far the pod is from its allocated resources.
	Resizing Resizing

	// Of Run. Started: all regular containers run or have run. Ended: none
	// of the pod's containers will be started again, and none of the regular
	// ones runs. DeadlineExceeded: activeDeadlineSeconds passed.
	Started, Ended, DeadlineExceeded bool
	// Stopped (of Terminate): no container runs and none can appear.
	Stopped bool
	// Clean (of Finish): nothing of the pod is left that is to be removed.
	Clean bool
}

// Plan decides the next steps of one pod. It is pure: the same input gives
// the same output, nothing is read or changed besides. Of each key it returns
// at most one action, and none that is in flight or waits for its retry.
func Plan(in Input) Output {
	p := &planner{Input: in}
	if p.stale() {
		p.ask(Action{Key: Key{Kind: Look}})
	}
	switch in.Mode {
	case Run:
		p.restartPoint()
		p.run()
	case Terminate:
		p.terminate()
	case Finish:
		p.finish()
	}
	p.cancelHooks()
	return p.out
}

type planner struct {
	Input
	out Output
	// trigger is the container whose exit restarted all, nil if none did;
	// void are the containers that were before that, by ID (restartall.go).
	trigger *observed.Container
	void    map[string]bool
	// roomy: the pod's cgroup allows what the pod is to have. replaced are
	// IDs of containers to be restarted with other resources (plan_resize.go).
	roomy    bool
	replaced []string
}

// want returns whether the step is done; if it is not, it asks for it as soon
// as it is due and notes when that will be.
func (p *planner) want(a Action) (done bool) {
	if p.History.done(a.Key) {
		return true
	}
	p.ask(a)
	return false
}

// ask adds the action if it is due, else makes sure to plan again when it is.
func (p *planner) ask(a Action) (asked bool) {
	if p.History.due(a.Key, p.Now) {
		a.Again = p.History.Steps[a.Key].Failures > 0
		p.out.Actions = append(p.out.Actions, a)
		return true
	}
	p.wakeAt(p.History.Steps[a.Key].RetryAt)
	return false
}

func (p *planner) asked(key Key) bool {
	return slices.ContainsFunc(p.out.Actions, func(a Action) bool { return a.Key == key })
}

// starting names the container that is being started, "" for none.
func (p *planner) starting() string {
	for key, step := range p.History.Steps {
		if step.InFlight && key.Kind == StartContainer {
			return key.Name
		}
	}
	for i := range p.out.Actions {
		if p.out.Actions[i].Kind == StartContainer {
			return p.out.Actions[i].Name
		}
	}
	return ""
}

func (p *planner) wakeAt(t time.Time) {
	if t.After(p.Now) && (p.out.Wake.IsZero() || t.Before(p.out.Wake)) {
		p.out.Wake = t
	}
}

// explain notes the first reason for which the pod is not further; later ones
// are consequences.
func (p *planner) explain(stage explain.Stage, object, waitsFor string, key Key) {
	if p.out.Explain.Stage != "" {
		return
	}
	step := p.History.Steps[key]
	p.out.Explain = explain.Entry{
		Stage: stage, Object: object, WaitsFor: waitsFor,
		LastError: step.LastError, Attempts: step.Failures,
	}
	if step.RetryAt.After(p.Now) {
		p.out.Explain.NextRetry = step.RetryAt
	}
}

// blame gives the explanation an error if it has none of its own.
func (p *planner) blame(text string, attempts int) {
	if e := &p.out.Explain; e.LastError == "" && e.Stage != explain.Running && e.Stage != "" {
		e.LastError, e.Attempts = text, attempts
	}
}

func (p *planner) wait(container, reason, message string) {
	if p.out.Waiting == nil {
		p.out.Waiting = map[string]v1.ContainerStateWaiting{}
	}
	p.out.Waiting[container] = waiting(reason, message)
}

// startInFlight says whether something is under way that may bring a new
// process into being.
func (p *planner) startInFlight() bool {
	for key, step := range p.History.Steps {
		if step.InFlight && starts(key.Kind) {
			return true
		}
	}
	return false
}

// stale says whether what was observed may be from before a start that ended
// since: more may run than is known.
func (p *planner) stale() bool { return p.Observed.At.Before(p.History.Unseen) }

// unsettled says whether more may run than was observed, and explains it.
func (p *planner) unsettled(stage explain.Stage) bool {
	switch {
	case p.startInFlight():
		p.explain(stage, "", "a start under way to end", Key{})
	case p.stale():
		p.explain(stage, "", "the runtime to tell what became of the last start", Key{Kind: Look})
	default:
		return false
	}
	return true
}

// everStarted says whether a regular container has been started in that
// sandbox; then its init containers are over, even if the runtime has
// forgotten them.
func (p *planner) everStarted(sandboxID string) bool {
	for i := range p.Observed.Containers {
		c := &p.Observed.Containers[i]
		if c.SandboxID != sandboxID || c.StartedAt.IsZero() || p.void[c.ID] {
			continue
		}
		if spec, kind := podspec.FindContainer(p.Pod, c.Name); spec != nil && kind == podspec.Regular {
			return true
		}
	}
	return false
}
