package admission

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"kubelet/internal/podspec"
)

// refreshTimeout bounds the question for a fresh node object.
const refreshTimeout = 10 * time.Second

// Config of a Queue.
type Config struct {
	Checks []Check
	// Node returns this node's object from a cache; false while it is not
	// known. It is called often and must not block.
	Node func() (*v1.Node, bool)
	// RefreshNode, if not nil, reads the node object from the API server. It
	// is asked before a pod is rejected because of the node's labels: a pod
	// may be bound to the node the moment that a label is set.
	RefreshNode func(ctx context.Context) (*v1.Node, error)
	// Preempt, if not nil, ends an accepted pod so that a critical one, which
	// waits meanwhile, has room. It is called on the queue's goroutine and must
	// not block. Without it a critical pod that does not fit is rejected.
	Preempt func(Preemption)
	// Resizes are the rules for pods that run and ask for other resources.
	Resizes ResizeRules
	// Ready, if not nil, is closed when every source of pods has reported
	// once. Until then only static pods and those already accepted are
	// answered, so that the order of the sources does not decide who fits.
	Ready <-chan struct{}
	// Registerer takes the package's metrics; nil for none.
	Registerer prometheus.Registerer
}

// Request asks for admission of one pod.
type Request struct {
	Pod *v1.Pod
	// Running says that containers of the pod run already; it is judged
	// before those that do not.
	Running bool
	// Accepted says that the pod was accepted before, by an earlier run of
	// the agent too. It is never judged again, only counted.
	Accepted bool
	// Answer gets each verdict about the pod that differs from the one
	// before: any number of Wait, then one Accept or Reject. It is called on
	// the queue's goroutine and must not block.
	Answer func(Verdict)
	// Remark, if not nil, gets what checks had to say about the pod beside
	// the verdict, just before the final answer. A pod that was accepted
	// before is not remarked upon. Like Answer it must not block.
	Remark func(Remark)
}

// Queue judges pods one at a time and owns the table of accepted pods with
// what they hold. The order is: pods accepted before, pods that run, then by
// creation time, oldest first, as upstream (static pods have none and so come
// first); within the same second static pods, higher priority, and name.
//
// The pod's worker may call its methods from any goroutine; none blocks.
type Queue struct {
	config     Config
	rejections *prometheus.CounterVec
	admissions *prometheus.CounterVec
	preempted  *prometheus.CounterVec
	// Of resizes.
	infeasible, deferredGranted *prometheus.CounterVec
	wake                        chan struct{}

	mu       sync.Mutex
	ready    bool
	pending  map[types.UID]*petition
	accepted []Holding // by UID
	// resizes that wait, and why they are to be judged, if they are.
	resizes map[types.UID]*resize
	trigger string
}

type petition struct {
	Request
	said    Verdict // last answer
	dirty   bool    // to be judged
	fresh   bool    // a fresh node was read, or could not be, since this was asked
	asks    bool    // waits for the fresh node
	answers bool    // said is set
}

// New returns a Queue that judges nothing before Run.
func New(config Config) (*Queue, error) {
	if config.Node == nil {
		return nil, errors.New("admission needs a way to read the node")
	}
	q := &Queue{
		config:     config,
		rejections: newRejections(),
		admissions: newAccepted(),
		preempted:  newPreemptions(),
		infeasible: newInfeasible(), deferredGranted: newDeferredGranted(),
		resizes: map[types.UID]*resize{},
		wake:    make(chan struct{}, 1),
		ready:   config.Ready == nil,
		pending: map[types.UID]*petition{},
	}
	if config.Registerer != nil {
		for _, c := range []prometheus.Collector{q.rejections, q.admissions, q.preempted, q.infeasible, q.deferredGranted} {
			if err := config.Registerer.Register(c); err != nil {
				return nil, err
			}
		}
	}
	return q, nil
}

// Submit asks for one pod. A pod that is pending is asked for anew with this
// request; for one that is accepted the answer is Accept.
func (q *Queue) Submit(r Request) { q.SubmitAll([]Request{r}) }

// SubmitAll asks for several pods at once, to be judged in the queue's order
// whatever the order in the slice. What one source reports together, the
// first list of the API server above all, must come as one.
func (q *Queue) SubmitAll(requests []Request) {
	q.mu.Lock()
	for _, r := range requests {
		q.pending[r.Pod.UID] = &petition{Request: r, dirty: true}
	}
	q.mu.Unlock()
	q.signal()
}

// Update gives the newest version of a pod. One that waits is judged again;
// an accepted one is not, but is known to be leaving once it is being
// deleted. What it holds stays as accepted, until Resize.
func (q *Queue) Update(pod *v1.Pod) {
	q.mu.Lock()
	if p, ok := q.pending[pod.UID]; ok {
		p.Pod, p.dirty = pod, true
	}
	q.mu.Unlock()
	if pod.DeletionTimestamp != nil {
		q.Leaving(pod.UID)
	}
	q.signal()
}

// Leaving says that an accepted pod is being stopped for good: what it holds
// comes free soon.
func (q *Queue) Leaving(uid types.UID) {
	q.mu.Lock()
	if i, ok := q.find(uid); ok {
		q.accepted[i].Standing = Leaving
	}
	delete(q.resizes, uid)
	q.mu.Unlock()
}

// Forget drops a pod that has ended or is no longer wanted, and judges those
// again that wait.
func (q *Queue) Forget(uid types.UID) {
	q.mu.Lock()
	delete(q.pending, uid)
	if i, ok := q.find(uid); ok {
		q.accepted = slices.Delete(q.accepted, i, i+1)
	}
	delete(q.resizes, uid)
	q.trigger = cmp.Or(q.trigger, triggerPodRemoved)
	q.mu.Unlock()
	q.Recheck()
}

// Recheck judges all waiting pods and resizes again. Call it when the node object
// changed; the queue does so itself when a pod is forgotten.
func (q *Queue) Recheck() {
	q.mu.Lock()
	for _, p := range q.pending {
		p.dirty = true
	}
	q.trigger = cmp.Or(q.trigger, triggerPeriodic)
	q.mu.Unlock()
	q.signal()
}

// IsAccepted says whether the pod is accepted and not forgotten.
func (q *Queue) IsAccepted(uid types.UID) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	_, ok := q.find(uid)
	return ok
}

// find locates an accepted pod, or where it would stand.
func (q *Queue) find(uid types.UID) (int, bool) {
	return slices.BinarySearchFunc(q.accepted, uid, func(h Holding, uid types.UID) int { return cmp.Compare(h.UID, uid) })
}

func (q *Queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// Run judges until the context ends.
func (q *Queue) Run(ctx context.Context) error {
	ready := q.config.Ready
	fresh := make(chan *v1.Node, 1)
	asking := false
	var retry <-chan time.Time
	for {
		if retry == nil && q.anyResize() {
			retry = time.After(resizeRetry)
		}
		if !asking && q.wantsFresh() {
			asking = true
			go func() { fresh <- q.refresh(ctx) }()
		}
		select {
		case <-ctx.Done():
			if asking {
				<-fresh // it ends with the context
			}
			return ctx.Err()
		case <-ready:
			ready = nil
			q.mu.Lock()
			q.ready = true
			q.mu.Unlock()
			q.pass(ctx, nil)
		case node := <-fresh:
			asking = false
			q.noteFresh()
			q.pass(ctx, node)
		case <-q.wake:
			q.pass(ctx, nil)
		case <-retry:
			retry = nil
			q.Recheck()
		}
	}
}

func (q *Queue) wantsFresh() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, p := range q.pending {
		if p.asks && !p.fresh {
			return true
		}
	}
	return false
}

// noteFresh marks the pods for which the question has been put.
func (q *Queue) noteFresh() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, p := range q.pending {
		if p.asks {
			p.asks, p.fresh, p.dirty = false, true, true
		}
	}
}

func (q *Queue) refresh(ctx context.Context) *v1.Node {
	ctx, cancel := context.WithTimeout(ctx, refreshTimeout)
	defer cancel()
	node, err := q.config.RefreshNode(ctx)
	if err != nil {
		klog.FromContext(ctx).Error(err, "Could not read the node afresh, judging by the cached one")
		return nil
	}
	return node
}

// pass judges what is to be judged, in order. fresh, if not nil, is a newer
// node object than the cached one.
func (q *Queue) pass(ctx context.Context, fresh *v1.Node) {
	node := fresh
	if node == nil {
		if n, ok := q.config.Node(); ok {
			node = n
		}
	}
	for _, uid := range q.order() {
		out := q.one(uid, node)
		for _, victim := range out.preempt {
			q.preempted.WithLabelValues(string(victim.Resource)).Inc()
			klog.FromContext(ctx).Info("Pod preempted", "podUID", victim.Victim, "resource", victim.Resource, "for", klog.KObj(victim.For))
			q.config.Preempt(victim)
		}
		p, verdict := out.petitioner, out.verdict
		if p == nil {
			continue
		}
		for _, r := range out.remarks {
			if len(r.Log) > 0 {
				klog.FromContext(ctx).Info("Pod remarked upon at admission", append([]any{"pod", klog.KObj(p.Pod), "podUID", uid, "reason", r.Reason}, r.Log...)...)
			}
			if p.Remark != nil {
				p.Remark(r)
			}
		}
		if verdict.Decision == Accept {
			mode, class := resourceLabels(p.Pod)
			q.admissions.WithLabelValues(mode, class).Inc()
		}
		if verdict.Decision == Reject {
			q.rejections.WithLabelValues(label(verdict.Reason)).Inc()
			klog.FromContext(ctx).Info("Pod rejected", "podUID", uid, "check", verdict.Check, "reason", verdict.Reason, "message", verdict.Message)
		}
		if p.Answer != nil {
			p.Answer(verdict)
		}
	}
	q.judgeResizes(node, klog.FromContext(ctx))
}

// order lists the pods that may be judged now.
func (q *Queue) order() []types.UID {
	q.mu.Lock()
	defer q.mu.Unlock()
	list := make([]*petition, 0, len(q.pending))
	for _, p := range q.pending {
		if p.dirty && (q.ready || p.Accepted || podspec.IsStatic(p.Pod)) {
			list = append(list, p)
		}
	}
	slices.SortFunc(list, inOrder)
	uids := make([]types.UID, len(list))
	for i, p := range list {
		uids[i] = p.Pod.UID
	}
	return uids
}

// first orders what has a quality before what has not.
func first(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

func inOrder(a, b *petition) int {
	return cmp.Or(
		first(a.Accepted, b.Accepted),
		first(a.Running, b.Running),
		a.Pod.CreationTimestamp.Compare(b.Pod.CreationTimestamp.Time),
		first(podspec.IsStatic(a.Pod), podspec.IsStatic(b.Pod)),
		cmp.Compare(priorityOf(b.Pod), priorityOf(a.Pod)),
		cmp.Compare(a.Pod.Namespace, b.Pod.Namespace),
		cmp.Compare(a.Pod.Name, b.Pod.Name),
		cmp.Compare(a.Pod.UID, b.Pod.UID),
	)
}

// outcome of a judgement. petitioner is nil if there is nothing new to say.
type outcome struct {
	petitioner *Request
	verdict    Verdict
	remarks    []Remark
	preempt    []Preemption
}

// one judges a pod and books the outcome.
func (q *Queue) one(uid types.UID, node *v1.Node) (out outcome) {
	q.mu.Lock()
	defer q.mu.Unlock()
	p, ok := q.pending[uid]
	if !ok || !p.dirty {
		return out
	}
	p.dirty = false
	var verdict Verdict
	at, counted := q.find(uid)
	in := Input{Pod: p.Pod, Node: node}
	judged := !counted && !p.Accepted
	if judged {
		in.Held = q.held(p)
		verdict = Judge(q.config.Checks, in)
		if verdict.Decision == Reject && verdict.Check == resourcesCheck && q.config.Preempt != nil && podspec.IsCritical(p.Pod) {
			verdict, out.preempt = q.preempt(p, in)
		}
	}
	if verdict.Decision == Reject && verdict.Reason == reasonNodeAffinity && q.config.RefreshNode != nil && !p.fresh {
		p.asks = true
		verdict.Decision = Wait
		verdict.Message += " as cached; reading the node afresh"
	}
	switch verdict.Decision {
	case Accept:
		if !counted {
			q.accepted = slices.Insert(q.accepted, at, Hold(p.Pod))
		}
		delete(q.pending, uid)
	case Reject:
		delete(q.pending, uid)
	case Wait:
		if p.answers && p.said == verdict {
			return out
		}
		p.said, p.answers = verdict, true
	}
	if judged && verdict.Decision != Wait {
		out.remarks = remarks(q.config.Checks, in)
	}
	out.petitioner, out.verdict = &p.Request, verdict
	return out
}

// preempt chooses who has to go for a critical pod and judges it anew, now
// that they leave: it waits for them, before all that come after it.
func (q *Queue) preempt(p *petition, in Input) (Verdict, []Preemption) {
	chosen, verdict := makeRoom(q.config.Checks, in)
	if verdict.Decision == Reject {
		return verdict, nil
	}
	for _, c := range chosen {
		if i, ok := q.find(c.Victim); ok {
			q.accepted[i].Standing = Leaving
		}
	}
	in.Held = q.held(p)
	return Judge(q.config.Checks, in), chosen
}

// held lists what is held while p is judged: by accepted pods, and by pods
// that come before p and wait, so that a younger one does not take what they
// wait for.
func (q *Queue) held(p *petition) []Holding {
	held := slices.Clip(q.accepted)
	for _, other := range q.pending {
		if other != p && other.answers && waitsForRoom(other.said) && inOrder(other, p) < 0 {
			h := Hold(other.Pod)
			h.Standing = Queued
			held = append(held, h)
		}
	}
	return held
}
