package worker

import (
	"cmp"
	"encoding/json"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	v1 "k8s.io/api/core/v1"

	"kubelet/internal/admission"
	"kubelet/internal/lifecycle"
	"kubelet/internal/observed"
	"kubelet/internal/podspec"
	"kubelet/internal/status"
)

// A pod that asks for other resources than it has (KEP-1287) goes on with what
// it has while admission is asked. What is granted is written down first
// (Allocate); from then on it is what the pod is run with, and the plan sees
// that its containers and its cgroup have something else.

// resizing is how far that has come.
type resizing struct {
	// asked is the version of the pod that admission was asked about last.
	asked *v1.Pod
	// granted is to be written down.
	granted *v1.Pod
	// The conditions to tell: why the pod does not have what it asks for, and
	// that it is on its way to what was allocated.
	pending, progress *status.Resize
	// judged: it was seen whether the pod has what is allocated to it.
	judged bool
	// since when the allocated resources are to be had.
	since time.Time
}

// resizeAnswer is admission's about a version of the pod.
type resizeAnswer struct {
	asked   *v1.Pod
	verdict admission.ResizeVerdict
}

// allocates says whether the pod's resources are a matter of allocation: not
// those of static pods, whose manifests make new pods if they change.
func (w *worker) allocates() bool { return w.pool.Allocations != nil && !podspec.IsStatic(w.spec) }

// recallAllocation enters what a pod was given by an earlier run of the agent
// that was killed before it was written down: the spec may ask for something
// else by now, and that is a resize.
func (p *Pool) recallAllocation(spec *v1.Pod, have observed.Pod) {
	if p.Allocations == nil || podspec.IsStatic(spec) || p.Allocations.Knows(spec.UID) || len(have.Containers) == 0 {
		return
	}
	if given := p.remembered(spec.UID).Given(spec, have); given != nil {
		p.Allocations.Accept(given)
	}
}

// acceptedBefore says whether an earlier run of the agent has accepted a pod,
// which is then not judged again.
func (p *Pool) acceptedBefore(spec *v1.Pod) bool {
	have := p.Observed.Get(spec.UID)
	traces := !have.Empty() || p.Known(spec.UID) || (!podspec.IsStatic(spec) && spec.Status.StartTime != nil)
	if !traces || p.Allocations == nil || podspec.IsStatic(spec) {
		return traces
	}
	return len(have.Containers) > 0 || p.Allocations.Knows(spec.UID) || asAccepted(spec)
}

// asAccepted says whether a pod of which it is not known what it was accepted
// with asks for that still, or for nothing any more. If not, it is judged by
// what it asks for now.
func asAccepted(spec *v1.Pod) bool { return spec.Generation <= 1 || spec.DeletionTimestamp != nil }

// ask takes the newest version of the pod.
func (w *worker) ask(spec *v1.Pod) {
	if w.pool.Allocations == nil || podspec.IsStatic(spec) {
		w.pod, w.spec = spec, spec
		return
	}
	w.pool.metrics.resizes.count(w.spec, spec)
	w.spec, w.pod = spec, w.pool.Allocations.Apply(spec)
}

// recallResize takes over what an earlier run of the agent has told.
func (w *worker) recallResize() {
	if !w.allocates() {
		return
	}
	w.setPending(status.RecallResize(w.previous, v1.PodResizePending))
	w.setProgress(status.RecallResize(w.previous, v1.PodResizeInProgress))
	w.resizing.since = w.arrived
}

// seekResize asks admission if the pod asks for something else than before.
func (w *worker) seekResize(now time.Time) {
	if !w.allocates() || !w.state.Accepted || w.state.Phase >= Terminating {
		return
	}
	r := &w.resizing
	if w.pod == w.spec { // it has what it asks for
		if r.asked != nil {
			r.asked, r.granted = nil, nil
			w.pool.Admission.Unresize(w.pod)
		}
		w.resolve("reverted", now)
		return
	}
	if r.asked != nil && sameResources(r.asked, w.spec) {
		return
	}
	asked := w.spec
	request := admission.ResizeRequest{Pod: asked, Allocated: w.pod, Answer: func(v admission.ResizeVerdict) {
		w.post(func(w *worker) { w.mail.resizes = append(w.mail.resizes, resizeAnswer{asked, v}) })
	}}
	if p := r.pending; p != nil && p.Reason == v1.PodReasonDeferred {
		request.Since = p.Since
	}
	r.asked, r.granted = asked, nil
	w.pool.Admission.Resize(request)
}

func sameResources(a, b *v1.Pod) bool {
	same := podspec.PodAmounts(a, false) == podspec.PodAmounts(b, false) && (a.Spec.Resources == nil) == (b.Spec.Resources == nil)
	podspec.EachContainer(b, func(c *v1.Container, _ podspec.Kind) bool {
		other, _ := podspec.FindContainer(a, c.Name)
		same = same && other != nil && podspec.ContainerAmounts(a, other) == podspec.ContainerAmounts(b, c)
		return same
	})
	return same && a.Generation == b.Generation
}

// resizeAnswered takes admission's answer, unless the pod has asked for
// something else since.
func (w *worker) resizeAnswered(a resizeAnswer, now time.Time) {
	r := &w.resizing
	if a.asked != r.asked || w.state.Phase >= Terminating {
		return
	}
	switch a.verdict.Decision {
	case admission.Granted:
		r.granted = a.asked
		w.history.Renew(lifecycle.Allocate)
	case admission.Deferred:
		w.tellPending(v1.PodReasonDeferred, "ResizeDeferred", cmp.Or(a.verdict.Reason, v1.PodReasonDeferred), a, now)
	case admission.Infeasible:
		w.tellPending(v1.PodReasonInfeasible, "ResizeInfeasible", v1.PodReasonInfeasible, a, now)
	}
}

// tellPending sets the condition, with an event the first time.
func (w *worker) tellPending(reason, event, title string, a resizeAnswer, now time.Time) {
	before := w.resizing.pending
	next := &status.Resize{Reason: reason, Message: a.verdict.Message, Generation: a.asked.Generation, Since: now}
	if before != nil && before.Reason == reason {
		next.Since = before.Since
	}
	w.setPending(next)
	if before == nil || before.Reason != reason || before.Generation != next.Generation {
		w.pool.Events.Event(w.pod, "", v1.EventTypeWarning, event, resizeMessage("Pod resize "+title, a.asked, next.Generation, next.Message))
	}
}

// resizeAllocated goes on with what was written down, unless the pod has asked
// for something else since: that follows, or is asked for.
func (w *worker) resizeAllocated(granted *v1.Pod, now time.Time) {
	r := &w.resizing
	if granted != r.granted || w.state.Phase >= Terminating {
		return
	}
	r.asked, r.granted = nil, nil
	w.resolve("accepted", now)
	w.setProgress(&status.Resize{Generation: granted.Generation, Since: now})
	r.since = now
	w.pool.Events.Event(granted, "", v1.EventTypeNormal, "ResizeStarted", resizeMessage("Pod resize started", granted, granted.Generation, ""))
	// Downward API volumes show them, and what failed may go well now.
	w.history.Dirty(lifecycle.Key{Kind: lifecycle.Mount})
	w.history.Renew(lifecycle.ResizePod, lifecycle.ResizeContainer)
}

// noteResize tells how far the allocated resources are from being had.
func (w *worker) noteResize(out lifecycle.Output, now time.Time) {
	if !out.Resizing.Judged {
		return
	}
	w.resizing.judged = true
	if w.resizing.progress == nil && out.Resizing.Containers && w.allocates() {
		// A kubelet that was killed had no time to tell.
		w.setProgress(&status.Resize{Generation: w.spec.Generation, Since: now})
		w.resizing.since = now
	}
	p := w.resizing.progress
	if p == nil {
		return
	}
	metrics := &w.pool.metrics.resizes
	switch reason := out.Resizing.Error; {
	case !out.Resizing.Outstanding:
		w.setProgress(nil)
		metrics.duration.WithLabelValues("true").Observe(float64(now.Sub(w.resizing.since).Milliseconds()))
		w.pool.Events.Event(w.pod, "", v1.EventTypeNormal, "ResizeCompleted", resizeMessage("Pod resize completed", w.pod, p.Generation, ""))
	case reason != "" && (p.Reason != v1.PodReasonError || p.Message != reason):
		w.setProgress(&status.Resize{Reason: v1.PodReasonError, Message: reason, Generation: p.Generation, Since: now})
		metrics.duration.WithLabelValues("false").Observe(float64(now.Sub(w.resizing.since).Milliseconds()))
		if p.Reason != v1.PodReasonError { // usage, which stands in the message, changes all the time
			w.pool.Events.Event(w.pod, "", v1.EventTypeWarning, "ResizeError", resizeMessage("Pod resize error", w.pod, p.Generation, reason))
		}
	}
}

// endResize forgets it: the pod ends.
func (w *worker) endResize() {
	w.resolve("terminated", w.pool.Now())
	w.setProgress(nil)
	w.resizing = resizing{}
}

// resolve ends the wait for resources.
func (w *worker) resolve(how string, now time.Time) {
	p := w.resizing.pending
	if p == nil {
		return
	}
	if p.Reason == v1.PodReasonDeferred {
		w.pool.metrics.resizes.deferred.WithLabelValues(how, admission.PriorityBucket(w.spec)).Observe(now.Sub(p.Since).Seconds())
	}
	w.setPending(nil)
}

func (w *worker) setPending(p *status.Resize) {
	gauge := func(p *status.Resize) prometheus.Gauge {
		reason := "deferred"
		if p.Reason == v1.PodReasonInfeasible {
			reason = "infeasible"
		}
		return w.pool.metrics.resizes.pending.WithLabelValues(reason, admission.PriorityBucket(w.spec))
	}
	if old := w.resizing.pending; old != nil {
		gauge(old).Dec()
	}
	if w.resizing.pending = p; p != nil {
		gauge(p).Inc()
	}
}

func (w *worker) setProgress(p *status.Resize) {
	switch before := w.resizing.progress; {
	case before == nil && p != nil:
		w.pool.metrics.resizes.progress.Inc()
	case before != nil && p == nil:
		w.pool.metrics.resizes.progress.Dec()
	}
	w.resizing.progress = p
}

// undecided says whether it is open what becomes of the pod's question, or
// after a restart of the agent, whether the pod has what is allocated to it.
func (w *worker) undecided() bool {
	r := &w.resizing
	if w.runs && !r.judged && w.allocates() && w.state.Phase < Terminating && w.previous.ObservedGeneration != 0 {
		return true
	}
	return r.asked != nil && (r.granted != nil || r.pending == nil || r.pending.Generation != r.asked.Generation)
}

// hasResources are those of the containers that run, by ID, as far as it is
// known what they were given.
func (w *worker) hasResources(have observed.Pod) map[string]podspec.Amounts {
	known := map[string]podspec.Amounts{}
	for i := range have.Containers {
		if c := &have.Containers[i]; c.State == observed.Running {
			if a, ok := w.history.Has(c); ok {
				known[c.ID] = a
			}
		}
	}
	return known
}

// podHas are the resources that the pod's cgroup has, nil while they are not
// known.
func (w *worker) podHas() *podspec.Amounts {
	room := w.history.Room
	if room.Over || room.Unknown || !w.history.Steps[lifecycle.Key{Kind: lifecycle.Prepare}].Done {
		return nil
	}
	return &room.Amounts
}

// resizeMessage is the text of an event, as programs read upstream's.
func resizeMessage(title string, pod *v1.Pod, generation int64, problem string) string {
	type container struct {
		Name      string                  `json:"name"`
		Resources v1.ResourceRequirements `json:"resources"`
	}
	summary := struct {
		InitContainers []container `json:"initContainers,omitempty"`
		Containers     []container `json:"containers,omitempty"`
		Generation     int64       `json:"generation"`
		Error          string      `json:"error,omitempty"`
	}{Generation: generation, Error: problem}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		summary.InitContainers = append(summary.InitContainers, container{c.Name, c.Resources})
	}
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		summary.Containers = append(summary.Containers, container{c.Name, c.Resources})
	}
	text, err := json.Marshal(summary)
	if err != nil {
		return title
	}
	return title + ": " + string(text)
}

// resizeMetrics are named and labelled as upstream's.
type resizeMetrics struct {
	requested *prometheus.CounterVec
	duration  *prometheus.HistogramVec
	deferred  *prometheus.HistogramVec
	pending   *prometheus.GaugeVec
	progress  prometheus.Gauge
}

func newResizeMetrics() resizeMetrics {
	return resizeMetrics{
		requested: prometheus.NewCounterVec(prometheus.CounterOpts{
			Subsystem: "kubelet", Name: "container_requested_resizes_total",
			Help: "Changes of containers' resources that were asked for, by resource, requests or limits, and operation (add, remove, increase, decrease).",
		}, []string{"resource", "requirement", "operation"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Subsystem: "kubelet", Name: "pod_resize_duration_milliseconds",
			Help:    "Milliseconds from the allocation of resources to a pod that runs until it had them, or until a step of that failed.",
			Buckets: []float64{10, 50, 100, 500, 1000, 2000, 5000, 10000, 20000, 30000, 60000, 120000, 300000, 600000},
		}, []string{"success"}),
		deferred: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Subsystem: "kubelet", Name: "pod_deferred_resize_duration_seconds",
			Help:    "Seconds that pods waited for resources that the node did not have, by how that ended (accepted, reverted, terminated).",
			Buckets: []float64{5, 10, 15, 20, 30, 45, 60, 90, 120, 150, 180, 300, 600, 1200, 1800, 3600},
		}, []string{"resolution", "priority_bucket"}),
		pending: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Subsystem: "kubelet", Name: "pod_pending_resizes", Help: "Pods that ask for resources that they do not get, by reason (deferred, infeasible).",
		}, []string{"reason", "priority_bucket"}),
		progress: prometheus.NewGauge(prometheus.GaugeOpts{
			Subsystem: "kubelet", Name: "pod_in_progress_resizes", Help: "Pods that are on their way to the resources allocated to them.",
		}),
	}
}

func (m *resizeMetrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.requested, m.duration, m.deferred, m.pending, m.progress}
}

// count counts what a new version of a pod asks for.
func (m *resizeMetrics) count(before, after *v1.Pod) {
	if before == after {
		return
	}
	podspec.EachContainer(after, func(c *v1.Container, kind podspec.Kind) bool {
		old, _ := podspec.FindContainer(before, c.Name)
		if old == nil || kind == podspec.Ephemeral {
			return true
		}
		for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
			m.operation(name, "requests", old.Resources.Requests, c.Resources.Requests)
			m.operation(name, "limits", old.Resources.Limits, c.Resources.Limits)
		}
		return true
	})
}

func (m *resizeMetrics) operation(name v1.ResourceName, requirement string, before, after v1.ResourceList) {
	was, is := before[name], after[name]
	operation := ""
	switch c := is.Cmp(was); {
	case c == 0:
		return
	case was.IsZero():
		operation = "add"
	case is.IsZero():
		operation = "remove"
	case c > 0:
		operation = "increase"
	default:
		operation = "decrease"
	}
	m.requested.WithLabelValues(string(name), requirement, operation).Inc()
}
