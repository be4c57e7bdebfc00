package worker

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"kubelet/internal/admission"
	"kubelet/internal/desired"
	"kubelet/internal/explain"
	"kubelet/internal/lifecycle"
	"kubelet/internal/observed"
	"kubelet/internal/podspec"
	"kubelet/internal/probe"
	"kubelet/internal/status"
)

// Desired is the table of wanted pods (package desired).
type Desired interface {
	Get(types.UID) (desired.Pod, bool)
	List() []desired.Pod
	Mirror(podspec.Name) *v1.Pod
	SyncedC() <-chan struct{}
	Forget(types.UID)
}

// Observed is the table of what the runtime has (package observed).
type Observed interface {
	Get(types.UID) observed.Pod
	List() map[types.UID]observed.Pod
	Synced() <-chan struct{}
}

// Admission judges pods one by one (package admission). Answers may come from
// any goroutine, also before the call returns.
type Admission interface {
	SubmitAll([]admission.Request)
	// Leaving says that what an accepted pod holds comes free soon.
	Leaving(types.UID)
	Forget(types.UID)
	// Resize asks for other resources of an accepted pod, and Unresize takes
	// that back.
	Resize(admission.ResizeRequest)
	Unresize(allocated *v1.Pod)
}

// Allocations knows the resources allocated to pods (package
// resources/allocation). No call blocks.
type Allocations interface {
	// Apply returns the pod with its allocated resources: the same for the
	// same version of a pod, and that very one if they are those of its spec.
	Apply(*v1.Pod) *v1.Pod
	// Knows says whether a pod is there.
	Knows(types.UID) bool
	// Actuated returns the pod with the resources that the upstream kubelet had
	// given its containers; nil if it wrote down nothing of it.
	Actuated(*v1.Pod) *v1.Pod
	// Accept enters a pod with what it asks for, unless it is there.
	Accept(*v1.Pod)
	Forget(types.UID)
}

// Mirrors keeps the API objects of static pods (package status). Neither call
// blocks.
type Mirrors interface {
	Ensure(static *v1.Pod)
	// Remove takes the mirror away, unless another static pod has the name.
	Remove(name podspec.Name, uid types.UID)
}

// References learns which objects the pods of this node refer to (package
// apiclient).
type References interface {
	Register(*v1.Pod)
	Unregister(types.UID)
}

// Probes follows the containers that run (package probe). Follow is
// latest-wins and never blocks, and a changed result wakes the pod's worker.
type Probes interface {
	Follow(pod *v1.Pod, targets []probe.Target)
	// Results are by container ID.
	Results(types.UID) map[string]probe.Result
	Forget(types.UID)
}

// Volumes tells what a pod's volumes wait for (package volume).
type Volumes interface {
	BesideSandbox(*v1.Pod) bool
	ObjectsPending(*v1.Pod) bool
}

// Doer performs actions; *lifecycle.Steps is one.
type Doer interface {
	Do(context.Context, lifecycle.Scene, lifecycle.Action) lifecycle.Result
}

// Config of a pool. Mirrors, References, Probes and Allocations may be nil.
type Config struct {
	Desired    Desired
	Observed   Observed
	Admission  Admission
	Steps      Doer
	Volumes    Volumes
	Statuses   lifecycle.Statuses
	Events     lifecycle.Events
	Explain    *explain.Table
	Mirrors    Mirrors
	References References
	Probes     Probes
	// Allocations of pods; nil runs each with what its spec asks for.
	Allocations Allocations

	// Leftovers lists pods of which something is on the node's disk or in
	// its cgroup tree; it is asked once, when all sources have reported.
	Leftovers func(context.Context) []types.UID
	// Settled, if not nil, is called once: every source has reported, and
	// admission was told of all pods that are on the node. Before that it does
	// not know what is taken.
	Settled func()
	// Known says that a pod was accepted by an earlier run of the agent.
	Known func(types.UID) bool
	// Remembered is what an earlier run of the agent knew of a pod's
	// containers; nil if nothing is kept.
	Remembered func(types.UID) map[string]lifecycle.Life
	// HostIPs of the node, at most one of each family.
	HostIPs func() []string
	// RuntimeName is the prefix of container ids in statuses.
	RuntimeName string
	// Crash is how CrashLoopBackOff grows, and Budget, if not nil, bounds the
	// restarts of crashing containers on the node. Critical pods need none.
	Crash  lifecycle.CrashPolicy
	Budget *lifecycle.Budget
	// PodResources: statuses tell the resources of pods as a whole.
	PodResources bool
	// StopSignals: statuses tell the stop signals of containers.
	StopSignals bool
	// Tracer makes a trace of each pod's start; nil for none.
	Tracer trace.Tracer
	// Now is the clock of the workers; nil for time.Now.
	Now func() time.Time
}

// Pool has one worker for each pod that is wanted or of which anything is
// left on the node.
type Pool struct {
	Config

	mu      sync.Mutex
	workers map[types.UID]*worker
	// names says which worker holds a full name; queue, who waits for it.
	names map[podspec.Name]types.UID
	queue map[podspec.Name][]types.UID
	// gone holds the UIDs that are finished while their source still lists
	// them, so that they get no worker again.
	gone    map[types.UID]bool
	pending map[types.UID]bool
	wake    chan struct{}
	// left is signalled when a worker has left.
	left chan struct{}
	// spawn runs a step beside the worker; the simulation puts it off.
	spawn func(func())

	metrics *metrics
}

// New returns a pool; Run starts it. Wake may be called before.
func New(config Config) *Pool {
	if config.Now == nil {
		config.Now = time.Now
	}
	return &Pool{
		Config:  config,
		workers: map[types.UID]*worker{},
		names:   map[podspec.Name]types.UID{},
		queue:   map[podspec.Name][]types.UID{},
		gone:    map[types.UID]bool{},
		pending: map[types.UID]bool{},
		wake:    make(chan struct{}, 1),
		left:    make(chan struct{}, 1),
		spawn:   func(step func()) { go step() },
		metrics: newMetrics(),
	}
}

// Wake tells the pod's worker, or makes one, that something about the pod
// changed in a table. It never blocks.
func (p *Pool) Wake(uid types.UID) {
	p.mu.Lock()
	w := p.workers[uid]
	if w == nil {
		p.pending[uid] = true
	}
	p.mu.Unlock()
	if w != nil {
		w.poke()
		return
	}
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// WakeVolumes tells the workers that an object that their volumes or
// containers refer to has changed.
func (p *Pool) WakeVolumes(uids []types.UID) {
	for _, uid := range uids {
		p.post(uid, func(w *worker) { w.mail.objects = true })
	}
}

// Evict makes a pod end with that failure. The shorter of two grace periods
// stays.
func (p *Pool) Evict(uid types.UID, failure status.Failure, grace time.Duration) {
	p.post(uid, func(w *worker) { w.mail.events = append(w.mail.events, Evicted{failure, grace}) })
}

func (p *Pool) post(uid types.UID, put func(*worker)) {
	p.mu.Lock()
	w := p.workers[uid]
	p.mu.Unlock()
	if w != nil {
		w.post(put)
	}
}

// States returns the phase of every worker, for metrics and health.
func (p *Pool) States() map[types.UID]Phase {
	p.mu.Lock()
	defer p.mu.Unlock()
	states := make(map[types.UID]Phase, len(p.workers))
	for uid, w := range p.workers {
		states[uid] = Phase(w.phase.Load())
	}
	return states
}

// WaitEmpty returns when no pod is left on the node.
func (p *Pool) WaitEmpty(ctx context.Context) error {
	for {
		p.mu.Lock()
		n := len(p.workers) + len(p.pending)
		p.mu.Unlock()
		if n == 0 {
			return nil
		}
		select {
		case <-p.left:
		case <-ctx.Done():
			return fmt.Errorf("wait for %d pods to end: %w", n, ctx.Err())
		}
	}
}

// Run makes workers until ctx ends, and returns when they all have. Nothing
// is started before the runtime was listed once, and nothing is taken for
// unwanted before every source has reported once.
func (p *Pool) Run(ctx context.Context) error {
	select {
	case <-p.Observed.Synced():
	case <-ctx.Done():
		return nil
	}
	var running sync.WaitGroup
	defer running.Wait()
	synced, swept, settled := p.Desired.SyncedC(), false, p.Settled
	for {
		for _, w := range p.hire(ctx, swept) {
			running.Go(func() { w.run(ctx) })
		}
		if swept && settled != nil {
			settled()
			settled = nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-synced:
			// From now on, what no source wants is an orphan.
			synced, swept = nil, true
			p.sweep(ctx)
		case <-p.wake:
		}
	}
}

// sweep queues everything that is on the node.
func (p *Pool) sweep(ctx context.Context) {
	uids := map[types.UID]bool{}
	for uid := range p.Observed.List() {
		uids[uid] = true
	}
	for _, uid := range p.Leftovers(ctx) {
		uids[uid] = true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for uid := range uids {
		if p.workers[uid] == nil {
			p.pending[uid] = true
		}
	}
	// What somebody waited for may have gone before anybody watched it.
	for _, queue := range p.queue {
		for _, uid := range queue {
			if w := p.workers[uid]; w != nil {
				w.poke()
			}
		}
	}
}

// hire makes workers for the pending pods: those that run already first, then
// the oldest first, which is the order in which admission hears of them.
func (p *Pool) hire(ctx context.Context, orphans bool) (batch []*worker) {
	p.mu.Lock()
	pending := p.pending
	p.pending = map[types.UID]bool{}
	p.mu.Unlock()
	for uid := range pending {
		if w := p.newWorker(ctx, uid, orphans); w != nil {
			batch = append(batch, w)
		}
	}
	if len(batch) == 0 {
		p.signalLeft()
	}
	slices.SortFunc(batch, seniority)
	var requests []admission.Request
	p.mu.Lock()
	for _, w := range batch {
		p.workers[w.uid] = w
	}
	p.mu.Unlock()
	for _, w := range batch {
		if r, ok := w.claim(); ok {
			requests = append(requests, r)
		}
	}
	if len(requests) > 0 {
		p.Admission.SubmitAll(requests)
	}
	return batch
}

func seniority(a, b *worker) int {
	if a.runs != b.runs {
		if a.runs {
			return -1
		}
		return 1
	}
	if c := a.pod.CreationTimestamp.Time.Compare(b.pod.CreationTimestamp.Time); c != 0 {
		return c
	}
	if a.uid < b.uid {
		return -1
	}
	return 1
}

// newWorker returns a worker if the pod needs one: it is wanted, or the
// source dropped it, or (once all sources have reported) something of it is
// left that nobody wants.
func (p *Pool) newWorker(ctx context.Context, uid types.UID, orphans bool) *worker {
	have := p.Observed.Get(uid)
	d, wanted := p.Desired.Get(uid)
	p.mu.Lock()
	busy, finished := p.workers[uid] != nil, p.gone[uid]
	if finished && (!wanted || d.Removed) {
		delete(p.gone, uid)
	}
	p.mu.Unlock()
	if busy {
		return nil
	}
	if finished && have.Empty() {
		if wanted && d.Removed {
			// May bring the pod back at once, if its source wants it again.
			p.Desired.Forget(uid)
			if again, back := p.Desired.Get(uid); back && !again.Removed {
				p.metrics.restarted.WithLabelValues(staticLabel(again.Pod)).Inc()
			}
		}
		return nil
	}
	switch {
	case wanted && !finished:
		p.metrics.containers.Observe(float64(len(d.Pod.Spec.Containers)))
		p.recallAllocation(d.Pod, have)
		return newWorker(ctx, p, uid, d.Pod, have)
	case orphans:
		p.metrics.orphans.Inc()
		klog.FromContext(ctx).Info("Pod is on the node and not wanted, ending it", "podUID", uid,
			"pod", klog.KRef(have.Namespace, have.Name))
		return newWorker(ctx, p, uid, orphan(uid, have), have)
	default:
		return nil
	}
}

func (p *Pool) signalLeft() {
	select {
	case p.left <- struct{}{}:
	default:
	}
}

// take gives the full name to a worker if it is free, else queues it. The name
// is not free while something of another pod of that name is in the runtime
// that has no worker yet: a pod that this agent has never heard of, because
// its source has not reported or has dropped it while no agent ran.
func (p *Pool) take(name podspec.Name, uid types.UID) bool {
	d, wanted := p.Desired.Get(uid)
	blocked := wanted && !d.Removed && p.remains(name, uid) != ""
	p.mu.Lock()
	defer p.mu.Unlock()
	holder, held := p.names[name]
	if held && holder != uid || !held && blocked {
		if !slices.Contains(p.queue[name], uid) {
			p.queue[name] = append(p.queue[name], uid)
		}
		return false
	}
	p.names[name] = uid
	return true
}

// remains returns a pod of that full name other than uid of which the runtime
// has something and which nobody wants. Of pods that are wanted, the queue for
// the name alone decides.
func (p *Pool) remains(name podspec.Name, uid types.UID) types.UID {
	for other, have := range p.Observed.List() {
		if other == uid || podspec.Name(have.Name+"_"+have.Namespace) != name {
			continue
		}
		if d, wanted := p.Desired.Get(other); !wanted || d.Removed {
			return other
		}
	}
	return ""
}

// holder returns the UID of the pod that has the full name, or is in the way
// of one that is to get it.
func (p *Pool) holder(name podspec.Name) types.UID {
	p.mu.Lock()
	uid, held := p.names[name]
	p.mu.Unlock()
	if held {
		return uid
	}
	return p.remains(name, "")
}

// leave ends a worker: its full name goes to the next, and its tombstone away.
func (p *Pool) leave(w *worker) {
	name := podspec.FullName(w.pod)
	p.mu.Lock()
	delete(p.workers, w.uid)
	p.gone[w.uid] = true
	next := p.queue[name]
	if p.names[name] == w.uid {
		delete(p.names, name)
		delete(p.queue, name)
	}
	p.mu.Unlock()
	for _, uid := range next {
		if uid != w.uid {
			p.Wake(uid)
		}
	}
	p.signalLeft()
	// Looks once more: what is not listed any more is forgotten, and what a
	// late answer of the runtime brought into being gets a worker.
	p.Wake(w.uid)
}
