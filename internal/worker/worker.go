package worker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"kubelet/internal/admission"
	"kubelet/internal/explain"
	"kubelet/internal/lifecycle"
	"kubelet/internal/observed"
	"kubelet/internal/podspec"
	"kubelet/internal/status"
	"kubelet/internal/volume"
)

// worker is one pod's. Only its own goroutine touches the fields below mail,
// except before run.
type worker struct {
	pool *Pool
	uid  types.UID
	wake chan struct{}
	// phase mirrors state.Phase for readers.
	phase atomic.Int32

	mu   sync.Mutex
	mail mail

	ctx context.Context // carries the logger; ends with the agent
	// pod is what is wanted, with the resources that are allocated to it; spec
	// is what it asks for.
	pod, spec *v1.Pod
	// actuated is with the resources that another kubelet had given it, if
	// those are others.
	actuated *v1.Pod
	resizing resizing
	runs     bool      // containers ran when the worker was made
	arrived  time.Time // when the worker was made
	ending   time.Time // when Terminating began
	state    State
	// verdict of an admission that waits.
	verdict  admission.Verdict
	history  lifecycle.History
	mounts   volume.Mounts
	cgroup   string
	previous v1.PodStatus
	// published is the status that was handed on last; since heldSince a
	// newer one is held back.
	published v1.PodStatus
	heldSince time.Time
	told      explain.Entry // stage and object that the pod is in, and since when
	// starts bring the pod further and end when it is to end; hooks before the
	// end of a container outlive a shorter grace period.
	starts, stops, hooks rim
	// flights can be cancelled one by one.
	flights map[lifecycle.Key]context.CancelFunc
	// The versions of pod that mirrors and references know.
	mirrored, registered *v1.Pod
	steps                sync.WaitGroup
	idle                 chan struct{} // closed when the last step has ended

	// For metrics: whether the start is still to be measured, whether a step
	// was ever begun and the pod ever ran, and time spent on pulls.
	fresh, begun, ran bool
	round             round
	pulls             stopwatch
	// starting is the trace of the pod's start while it lasts, if there is one.
	starting *startTrace
}

// mail is what arrived since the last turn. Tables are not in it: the latest
// snapshot is read at each turn.
type mail struct {
	events  []Event
	results []lifecycle.Result
	objects bool
	resizes []resizeAnswer
}

// newMail is an empty one.
func newMail() mail { return mail{} }

// rim is the context of a group of actions that can be cancelled together.
type rim struct {
	ctx    context.Context
	cancel context.CancelFunc
}

func newRim(ctx context.Context) rim {
	ctx, cancel := context.WithCancel(ctx)
	return rim{ctx, cancel}
}

func newWorker(ctx context.Context, p *Pool, uid types.UID, pod *v1.Pod, have observed.Pod) *worker {
	spec := pod
	var actuated *v1.Pod
	if p.Allocations != nil && !podspec.IsStatic(pod) {
		pod = p.Allocations.Apply(spec)
		if actuated = p.Allocations.Actuated(pod); actuated == pod {
			actuated = nil // it is as allocated
		}
	}
	logger := klog.FromContext(ctx).WithValues("pod", klog.KObj(pod), "podUID", uid)
	ctx = klog.NewContext(ctx, logger)
	w := &worker{
		pool: p, uid: uid, ctx: ctx, pod: pod, spec: spec, actuated: actuated, arrived: p.Now(),
		runs:   have.Running() > 0,
		wake:   make(chan struct{}, 1),
		idle:   make(chan struct{}),
		starts: newRim(context.WithoutCancel(ctx)), stops: newRim(context.WithoutCancel(ctx)), hooks: newRim(context.WithoutCancel(ctx)),
		flights:  map[lifecycle.Key]context.CancelFunc{},
		history:  p.remembered(uid),
		fresh:    !podspec.IsStatic(pod) && !pod.CreationTimestamp.IsZero() && pod.Status.StartTime == nil && pod.DeletionTimestamp == nil,
		previous: status.Previous(pod, p.Desired.Mirror(podspec.FullName(pod))),
	}
	w.recallResize()
	w.traceStart()
	return w
}

func (w *worker) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *worker) post(put func(*worker)) {
	w.mu.Lock()
	put(w)
	w.mu.Unlock()
	w.poke()
}

// claim tries to get the pod's full name and returns what admission is to be
// asked then.
func (w *worker) claim() (admission.Request, bool) {
	if w.state.Claimed || w.state.Phase != Waiting || !w.pool.take(podspec.FullName(w.pod), w.uid) {
		return admission.Request{}, false
	}
	accepted := w.pool.acceptedBefore(w.spec)
	var commands []Command
	w.state, commands = Step(w.state, Claimed{Accepted: accepted})
	if len(commands) == 0 || podspec.IsTerminalPhase(w.pod.Status.Phase) {
		return admission.Request{}, false
	}
	pod := w.pod
	return admission.Request{
		Pod: pod, Running: w.runs, Accepted: accepted,
		Answer: func(v admission.Verdict) {
			w.post(func(w *worker) { w.mail.events = append(w.mail.events, Judged{v}) })
		},
		Remark: func(r admission.Remark) { w.pool.Events.Event(pod, "", r.Type, r.Reason, r.Message) },
	}, true
}

// run takes turns until the pod is gone or ctx ends. A clean end of the agent
// leaves everything as it is.
func (w *worker) run(ctx context.Context) {
	defer w.end(ctx)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		next := w.turn()
		if w.state.Phase == Gone {
			return
		}
		if next.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(max(next.Sub(w.pool.Now()), 0))
		}
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		case <-timer.C:
		}
	}
}

// parting is how long a clean end of the agent waits for steps under way. A
// runtime that is cut off in the middle of a call may count it as failed.
const parting = 3 * time.Second

// end waits for the steps under way, and cancels those that take too long.
func (w *worker) end(ctx context.Context) {
	cut := context.AfterFunc(ctx, func() {
		timer := time.NewTimer(parting)
		defer timer.Stop()
		select {
		case <-timer.C:
			w.cancelAll()
		case <-w.idle:
		}
	})
	w.steps.Wait()
	w.traceEnd(errors.New("the kubelet ended before the pod was Ready"))
	cut()
	close(w.idle)
	w.cancelAll()
}

func (w *worker) cancelAll() {
	w.starts.cancel()
	w.stops.cancel()
	w.hooks.cancel()
}

// turn reads everything that is known, decides, tells and begins what is to be
// done. It returns when to turn again if nothing happens before.
func (w *worker) turn() (next time.Time) {
	now := w.pool.Now()
	// Results first, then the table: a step's result is posted after the
	// table has what the step did.
	w.receive(now)
	have := w.pool.Observed.Get(w.uid)
	w.readDesired()
	w.seekResize(now)
	if !w.state.Claimed && w.state.Phase == Waiting {
		if r, ok := w.claim(); ok {
			w.pool.Admission.SubmitAll([]admission.Request{r})
		}
	}
	w.history.Prune(&have)
	w.noteStart(have, now)
	out := w.plan(have, now)
	w.noteResize(out, now)
	if w.state.Phase == Gone {
		w.rest(now)
		return time.Time{}
	}
	w.register()
	settles := w.publish(have, out, now)
	w.begin(have, out, now)
	w.rest(now)
	if !settles.IsZero() && (out.Wake.IsZero() || settles.Before(out.Wake)) {
		return settles
	}
	return out.Wake
}

// receive takes the mail.
func (w *worker) receive(now time.Time) {
	w.mu.Lock()
	mail := w.mail
	w.mail = newMail()
	w.mu.Unlock()
	for _, r := range mail.results {
		w.note(r, now)
		w.round.flights--
		if r.Kind == lifecycle.PullImage {
			w.pulls.stop(now)
		}
	}
	for _, e := range mail.events {
		if j, ok := e.(Judged); ok {
			w.verdict = j.Verdict
			if j.Verdict.Decision == admission.Reject && w.state.Phase == Waiting {
				j.Verdict.Message = "Pod was rejected: " + j.Verdict.Message
				w.pool.Events.Event(w.pod, "", v1.EventTypeWarning, j.Verdict.Reason, j.Verdict.Message)
				e = j
			}
		}
		w.step(e)
	}
	for _, a := range mail.resizes {
		w.resizeAnswered(a, now)
	}
	if mail.objects {
		w.history.Dirty(lifecycle.Key{Kind: lifecycle.Mount})
		w.history.Wake(lifecycle.Mount, lifecycle.StartContainer)
	}
}

// note takes the result of a step.
func (w *worker) note(r lifecycle.Result, now time.Time) {
	logger := klog.FromContext(w.ctx)
	w.history.End(r, now)
	if cancel := w.flights[r.Key]; cancel != nil {
		cancel()
		delete(w.flights, r.Key)
	}
	switch {
	case r.Err == nil && r.Kind == lifecycle.Prepare:
		w.cgroup = r.CgroupParent
	case r.Err == nil && r.Kind == lifecycle.Mount:
		w.mounts = r.Mounts
	case r.Err == nil && r.Kind == lifecycle.Allocate:
		w.resizeAllocated(r.Pod, now)
	case r.Err != nil && errors.Is(r.Err, context.Canceled):
		// Taken back by us: what is still wanted is asked for at once.
		w.history.Wake(r.Kind)
	case r.Err != nil:
		logger.Error(r.Err, "Step of pod failed", "step", r.Key.String(),
			"unknown", r.Unknown, "retryAt", w.history.Steps[r.Key].RetryAt)
	default:
		logger.V(3).Info("Step of pod done", "step", r.Key.String())
	}
}

// readDesired turns the newest spec into events.
func (w *worker) readDesired() {
	d, wanted := w.pool.Desired.Get(w.uid)
	if wanted {
		if !maps.Equal(w.pod.Labels, d.Pod.Labels) || !maps.Equal(w.pod.Annotations, d.Pod.Annotations) {
			// Downward API volumes show them.
			w.history.Dirty(lifecycle.Key{Kind: lifecycle.Mount})
		}
		w.ask(d.Pod)
	}
	grace := podspec.Grace(w.pod)
	switch {
	case !wanted || d.Removed:
		w.step(Removed{grace})
	case w.pod.DeletionTimestamp != nil:
		w.step(Deleted{grace})
	case podspec.IsTerminalPhase(w.pod.Status.Phase) && !podspec.IsStatic(w.pod):
		w.step(Ended{grace})
	}
}

// step lets the state machine take one event.
func (w *worker) step(e Event) {
	before := w.state.Phase
	var commands []Command
	w.state, commands = Step(w.state, e)
	for _, c := range commands {
		switch c {
		case CancelStarts:
			w.starts.cancel()
		case CancelStops:
			w.stops.cancel()
			w.stops = newRim(context.WithoutCancel(w.ctx))
		case Leave:
			w.leave()
		}
	}
	if w.state.Phase == before {
		return
	}
	w.phase.Store(int32(w.state.Phase))
	w.traceMoved()
	klog.FromContext(w.ctx).V(2).Info("Pod changed phase", "from", before.String(), "to", w.state.Phase.String(),
		"event", fmt.Sprintf("%T", e))
	if w.state.Phase == Starting && before == Waiting {
		w.warnOfFields()
		if w.allocates() {
			w.pool.Allocations.Accept(w.pod)
		}
	}
	if w.state.Phase == Running {
		w.noteRunning()
	}
	if w.state.Phase == Terminated {
		w.pool.Admission.Forget(w.uid)
	}
	if w.state.Phase >= Terminating {
		w.endResize()
	}
	if w.state.Phase == Terminating {
		w.ending = w.pool.Now()
		w.pool.Admission.Leaving(w.uid)
	}
}

// plan asks for the next actions, and again for as long as what the plan saw
// moves the state machine on.
func (w *worker) plan(have observed.Pod, now time.Time) lifecycle.Output {
	for {
		in := lifecycle.Input{
			Now: now, Pod: w.pod, Observed: have, History: w.history,
			Crash: w.pool.Crash, Budgeted: w.pool.Budget != nil && !podspec.IsCritical(w.pod),
			Status: w.previous,
			Grace:  w.state.Grace, Since: w.ending, Why: w.state.Why,
			Delete:   w.state.Deleted && !w.state.Removed,
			Gone:     w.state.Removed,
			Silent:   w.state.Removed,
			Allocate: w.resizing.granted,
			Actuated: w.actuated,
		}
		switch w.state.Phase {
		case Waiting:
			return lifecycle.Output{Explain: w.explainWaiting()}
		case Starting, Running:
			in.Mode = lifecycle.Run
			if len(have.Sandboxes) == 0 && !w.history.Steps[lifecycle.Key{Kind: lifecycle.Mount}].Mounted {
				in.BesideSandbox = w.pool.Volumes.BesideSandbox(w.pod)
				in.ObjectsPending = !in.BesideSandbox && w.pool.Volumes.ObjectsPending(w.pod)
			}
		case Terminating:
			in.Mode = lifecycle.Terminate
		case Terminated:
			in.Mode = lifecycle.Finish
		case Gone:
			return lifecycle.Output{}
		}
		in.Probes = w.follow(in)
		in.History = w.history
		out := lifecycle.Plan(in)
		if len(out.Reserve) > 0 {
			for _, id := range out.Reserve {
				w.history.Turn(id, w.pool.Budget.Reserve(now))
			}
			continue
		}
		w.history.Note(&out, now)
		before := w.state.Phase
		grace := podspec.Grace(w.pod)
		switch {
		case out.DeadlineExceeded:
			w.step(DeadlineExceeded{grace})
		case out.Ended:
			w.step(Ended{grace})
		case out.Stopped:
			w.step(Stopped{})
		case out.Clean:
			w.step(Clean{})
		case out.Started:
			w.step(Started{})
		case in.Mode == lifecycle.Run && have.ReadySandbox() == nil:
			w.step(SandboxLost{})
		}
		if w.state.Phase == before || (before == Starting && w.state.Phase == Running) ||
			(before == Running && w.state.Phase == Starting) {
			return out
		}
	}
}

func (w *worker) explainWaiting() explain.Entry {
	if !w.state.Claimed {
		holder := w.pool.holder(podspec.FullName(w.pod))
		return explain.Entry{Stage: explain.Previous, Object: string(holder),
			WaitsFor: "an older pod of the same name to be gone"}
	}
	e := explain.Entry{Stage: explain.Admission, WaitsFor: "its turn at admission"}
	if w.verdict.Decision == admission.Wait && w.verdict.Message != "" {
		e.Object, e.WaitsFor = w.verdict.Check, w.verdict.Message
	}
	return e
}

// register keeps the pod's references and its mirror true.
func (w *worker) register() {
	if w.registered != w.pod && w.state.Phase <= Running && w.pool.References != nil {
		w.pool.References.Register(w.pod)
		w.registered = w.pod
	}
	if w.pool.Mirrors == nil || !podspec.IsStatic(w.pod) {
		return
	}
	switch {
	case w.state.Removed:
		w.pool.Mirrors.Remove(podspec.FullName(w.pod), w.uid)
	case w.state.Claimed && w.mirrored != w.pod:
		w.mirrored = w.pod
		w.pool.Mirrors.Ensure(w.pod)
	}
}

// settling is how long a stage without an error has to last before it stands
// in the status: a pod that starts without trouble, even one of many at once,
// comes through its stages in less, and each change of the status is a write to
// the API server.
const settling = 10 * time.Second

// publish tells what the pod's state is. It returns when the explanation will
// have lasted long enough to be told to the API server, zero if it is told.
func (w *worker) publish(have observed.Pod, out lifecycle.Output, now time.Time) (settles time.Time) {
	entry := out.Explain
	entry.UID, entry.Namespace, entry.Name = w.uid, w.pod.Namespace, w.pod.Name
	entry.Since = now
	if w.state.Failure != nil && w.state.Phase >= Terminating && entry.LastError == "" {
		entry.LastError = w.state.Failure.Reason + ": " + w.state.Failure.Message
	}
	w.pool.Explain.Set(entry)
	if w.told.Stage != entry.Stage || w.told.Object != entry.Object {
		w.told = entry
	}
	explanation := ""
	if w.state.Phase < Terminating && have.ReadySandbox() == nil {
		settles = w.told.Since.Add(settling)
		if entry.LastError != "" || !settles.After(now) {
			explanation, settles = explain.Line(entry, now), time.Time{}
		}
	}
	w.warnOfBackOff(out)
	// Of a pod that is gone nobody can be told, and a static pod's mirror
	// still belongs to the pod that has the name.
	if w.state.Removed || (!w.state.Claimed && podspec.IsStatic(w.pod)) || (w.state.Phase == Waiting && !settles.IsZero()) {
		return settles
	}
	var untold map[string]bool
	if w.state.Phase < Terminated {
		untold = lifecycle.Untold(lifecycle.Input{Pod: w.pod, Observed: have, History: w.history, Status: w.previous})
	}
	before := w.previous
	w.previous = status.Generate(status.Input{
		Pod: w.pod, Previous: w.previous, Observed: w.settled(have, untold),
		Waiting: out.Waiting, Failure: w.state.Failure,
		Probes: w.probed(have), RestartingAll: out.RestartingAll, StopSignals: w.pool.StopSignals,
		Ended:         w.state.Phase >= Terminated,
		Terminating:   w.state.Phase == Terminating,
		ResizePending: w.resizing.pending, ResizeInProgress: w.resizing.progress, Has: w.hasResources(have),
		Undecided:    w.undecided(),
		PodResources: w.pool.PodResources, PodHas: w.podHas(),
		VolumesReady: w.volumesReady(have),
		Explanation:  explanation,
		RuntimeName:  w.pool.RuntimeName,
		HostIPs:      w.pool.HostIPs(),
		Now:          now,
	})
	w.noteTerminated(&before, &w.previous)
	if until := w.holds(out, now); !until.IsZero() {
		if settles.IsZero() || until.Before(settles) {
			settles = until
		}
		return settles
	}
	w.published, w.heldSince = w.previous, time.Time{}
	w.pool.Statuses.Publish(w.pod, w.previous)
	w.tracePublished()
	return settles
}

// volumesReady says whether all volumes are mounted. Until this process has
// looked, they are if something runs, or if they were when the status was told
// last.
func (w *worker) volumesReady(have observed.Pod) bool {
	mount := w.history.Steps[lifecycle.Key{Kind: lifecycle.Mount}]
	if mount.Mounted || have.ReadySandbox() != nil && have.Running() > 0 {
		return true
	}
	return mount.Failures == 0 && slices.ContainsFunc(w.previous.Conditions, func(c v1.PodCondition) bool {
		return c.Type == v1.PodReadyToStartContainers && c.Status == v1.ConditionTrue
	})
}

// settled leaves out containers that are not to be told of yet: those whose
// postStart hook has not ended well, and those that are created and being
// started right now, for the moment between the two is no news for the API
// server.
func (w *worker) settled(have observed.Pod, untold map[string]bool) observed.Pod {
	passing := func(c observed.Container) bool {
		return untold[c.ID] ||
			c.State == observed.Created && w.history.Steps[lifecycle.Key{Kind: lifecycle.StartContainer, Name: c.Name}].InFlight
	}
	if slices.ContainsFunc(have.Containers, passing) {
		have.Containers = slices.DeleteFunc(slices.Clone(have.Containers), passing)
	}
	return have
}

// begin starts the actions of a plan, each in a goroutine of its own that
// posts the result.
func (w *worker) begin(have observed.Pod, out lifecycle.Output, now time.Time) {
	for _, key := range out.Cancel {
		if cancel := w.flights[key]; cancel != nil {
			cancel()
		}
	}
	w.launch(len(out.Actions), now)
	scene := lifecycle.Scene{Pod: w.pod, Observed: have, Mounts: w.mounts, CgroupParent: w.cgroup, Since: w.arrived}
	for _, a := range out.Actions {
		w.history.Begin(a, now)
		if a.Kind == lifecycle.PullImage {
			w.pulls.start(now)
		}
		ctx := w.stops.ctx
		switch a.Kind {
		case lifecycle.Prepare, lifecycle.Mount, lifecycle.RunSandbox, lifecycle.PullImage, lifecycle.StartContainer, lifecycle.PostStart,
			lifecycle.Allocate, lifecycle.ResizePod, lifecycle.ResizeContainer:
			ctx = w.starts.ctx
		case lifecycle.PreStop:
			ctx = w.hooks.ctx
		}
		ctx, w.flights[a.Key] = context.WithCancel(ctx)
		ctx, done := w.starting.step(ctx, a)
		w.steps.Add(1)
		w.pool.spawn(func() {
			defer w.steps.Done()
			r := w.pool.Steps.Do(ctx, scene, a)
			done(r)
			w.post(func(w *worker) { w.mail.results = append(w.mail.results, r) })
		})
	}
}

// leave ends the worker's part in everything.
func (w *worker) leave() {
	if w.pool.References != nil {
		w.pool.References.Unregister(w.uid)
	}
	if w.pool.Probes != nil {
		w.pool.Probes.Forget(w.uid)
	}
	if w.allocates() {
		w.pool.Allocations.Forget(w.uid)
	}
	w.pool.Statuses.Forget(w.uid)
	w.pool.Admission.Forget(w.uid)
	w.pool.Explain.Delete(w.uid)
	w.pool.leave(w)
}
