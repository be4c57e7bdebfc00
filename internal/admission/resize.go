package admission

import (
	"cmp"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/klog/v2"

	"kubelet/internal/podspec"
)

// A pod that runs may ask for other resources (KEP-1287). That is a question
// of its own: the pod goes on with what it has until the node can give it more,
// and is never rejected.

// ResizeDecision is the answer to it.
type ResizeDecision int

// Decisions. Only Deferred is not final for this version of the pod.
const (
	// Undecided: not answered yet.
	Undecided ResizeDecision = iota
	// Granted: the node has room; what the pod holds is changed.
	Granted
	// Deferred: not now. It is asked again when pods leave or shrink.
	Deferred
	// Infeasible: never on this node.
	Infeasible
)

// ResizeVerdict is what admission says about a resize.
type ResizeVerdict struct {
	Decision ResizeDecision
	// Reason of Deferred, as OutOfcpu; Detail of Infeasible, for metrics.
	Reason, Detail string
	Message        string
}

// ResizeRequest asks for one pod's resources to be changed.
type ResizeRequest struct {
	// Pod as it is wanted, and as it is allocated.
	Pod, Allocated *v1.Pod
	// Since when it is deferred; zero if it is new.
	Since time.Time
	// Answer gets each verdict that differs from the one before, on the
	// queue's goroutine. It must not block.
	Answer func(ResizeVerdict)
}

// ResizeRules are what cannot be resized on this node.
type ResizeRules struct {
	// OwnResources allows changes of what pods ask for as a whole (feature
	// gate InPlacePodLevelResourcesVerticalScaling).
	OwnResources bool
	// Swap: containers of Burstable pods get swap by their memory request.
	Swap bool
	// StaticCPU and StaticMemory: Guaranteed pods have CPUs or memory of their
	// own (policy static of the managers).
	StaticCPU, StaticMemory bool
}

// JudgeResize answers a resize. in.Pod is as it is wanted, and not in in.Held.
// It is pure.
func JudgeResize(rules ResizeRules, in Input, allocated *v1.Pod) ResizeVerdict {
	if detail, message := rules.infeasible(in.Pod, allocated); message != "" {
		return ResizeVerdict{Decision: Infeasible, Detail: detail, Message: message}
	}
	verdict := Judge([]Check{Resources()}, in)
	if verdict.Decision == Accept {
		return ResizeVerdict{Decision: Granted}
	}
	return ResizeVerdict{Decision: Deferred, Reason: verdict.Reason, Message: verdict.Message}
}

// infeasible says why a pod can never be resized so, in upstream's words.
func (r ResizeRules) infeasible(pod, allocated *v1.Pod) (detail, message string) {
	changed := changes(pod, allocated)
	guaranteed := podspec.QoS(pod) == v1.PodQOSGuaranteed
	switch {
	case podspec.IsStatic(pod):
		return "static_pod", "In-place resize of static pods is not supported"
	case r.Swap && !guaranteed && changed[v1.ResourceMemory] && !restartsForMemory(pod, allocated):
		return "swap_limitation", "In-place resize of containers with swap is not supported."
	case !r.OwnResources && !equality.Semantic.DeepEqual(pod.Spec.Resources, allocated.Spec.Resources):
		return "plr_feature_gate_off", "InPlacePodLevelResourcesVerticalScaling is disabled"
	case r.StaticCPU && guaranteed && changed[v1.ResourceCPU]:
		return "guaranteed_pod_cpu_manager_static_policy", `Resize is infeasible for Guaranteed Pods alongside CPU Manager policy "static"`
	case r.StaticMemory && guaranteed && changed[v1.ResourceMemory]:
		return "guaranteed_pod_memory_manager_static_policy", `Resize is infeasible for Guaranteed Pods alongside Memory Manager policy "Static"`
	}
	return "", ""
}

// changes says which requests of containers change.
func changes(pod, allocated *v1.Pod) map[v1.ResourceName]bool {
	changed := map[v1.ResourceName]bool{}
	podspec.EachContainer(pod, func(c *v1.Container, _ podspec.Kind) bool {
		if has, _ := podspec.FindContainer(allocated, c.Name); has != nil {
			changed[v1.ResourceCPU] = changed[v1.ResourceCPU] || !c.Resources.Requests.Cpu().Equal(*has.Resources.Requests.Cpu())
			changed[v1.ResourceMemory] = changed[v1.ResourceMemory] || !c.Resources.Requests.Memory().Equal(*has.Resources.Requests.Memory())
		}
		return true
	})
	return changed
}

// restartsForMemory says whether each container whose memory request changes
// is restarted for it, and so gets its swap anew.
func restartsForMemory(pod, allocated *v1.Pod) bool {
	all := true
	podspec.EachContainer(pod, func(c *v1.Container, _ podspec.Kind) bool {
		has, _ := podspec.FindContainer(allocated, c.Name)
		if has == nil || c.Resources.Requests.Memory().Equal(*has.Resources.Requests.Memory()) {
			return true
		}
		all = slices.ContainsFunc(c.ResizePolicy, func(p v1.ContainerResizePolicy) bool {
			return p.ResourceName == v1.ResourceMemory && p.RestartPolicy == v1.RestartContainer
		})
		return all
	})
	return all
}

// Triggers by which deferred resizes are judged again, as a metric calls them.
const (
	triggerPodUpdated = "pod_updated"
	triggerPodResized = "pod_resized"
	triggerPodRemoved = "pods_removed"
	triggerPeriodic   = "periodic_retry"
)

// resizeRetry is how often deferred resizes are judged again by time alone;
// the node may have become larger.
const resizeRetry = 3 * time.Minute

type resize struct {
	ResizeRequest
	said ResizeVerdict
}

// Resize asks for an accepted pod to be resized; a request for an earlier
// version of it is dropped.
func (q *Queue) Resize(r ResizeRequest) {
	q.mu.Lock()
	q.resizes[r.Pod.UID] = &resize{ResizeRequest: r}
	q.trigger = cmp.Or(q.trigger, triggerPodUpdated)
	q.mu.Unlock()
	q.signal()
}

// Unresize takes a request back: the pod asks again for what it has.
func (q *Queue) Unresize(allocated *v1.Pod) {
	q.mu.Lock()
	delete(q.resizes, allocated.UID)
	if i, ok := q.find(allocated.UID); ok {
		q.rehold(i, allocated)
	}
	q.mu.Unlock()
	q.signal()
}

// rehold changes what an accepted pod holds.
func (q *Queue) rehold(i int, pod *v1.Pod) {
	standing := q.accepted[i].Standing
	q.accepted[i] = Hold(pod)
	q.accepted[i].Standing = max(standing, q.accepted[i].Standing)
	q.trigger = triggerPodResized
}

// judgeResizes answers the resizes that wait, for as long as one that is
// granted makes room for others.
func (q *Queue) judgeResizes(node *v1.Node, logger klog.Logger) {
	for {
		q.mu.Lock()
		trigger := q.trigger
		q.trigger = ""
		if len(q.resizes) == 0 {
			trigger = ""
		}
		if trigger == "" || !q.ready || node == nil {
			q.trigger = trigger
			q.mu.Unlock()
			return
		}
		var answers []func()
		for _, r := range q.resizeOrder() {
			at, ok := q.find(r.Pod.UID)
			if !ok {
				continue // not judged itself yet
			}
			held := slices.Delete(slices.Clone(q.accepted), at, at+1)
			verdict := JudgeResize(q.config.Resizes, Input{Pod: r.Pod, Node: node, Held: held}, r.Allocated)
			deferred := r.said.Decision == Deferred || !r.Since.IsZero()
			switch verdict.Decision {
			case Granted:
				q.rehold(at, r.Pod)
				delete(q.resizes, r.Pod.UID)
				if deferred {
					q.deferredGranted.WithLabelValues(trigger).Inc()
				}
			case Infeasible:
				delete(q.resizes, r.Pod.UID)
				q.infeasible.WithLabelValues(verdict.Detail).Inc()
			}
			if verdict == r.said {
				continue
			}
			r.said = verdict
			logger.V(2).Info("Resize of pod judged", "pod", klog.KObj(r.Pod), "podUID", r.Pod.UID, "reason", verdict.Reason, "message", verdict.Message, "granted", verdict.Decision == Granted)
			answers = append(answers, func() { r.Answer(verdict) })
		}
		q.mu.Unlock()
		for _, answer := range answers {
			answer()
		}
	}
}

// resizeOrder lists the resizes as they are judged, as upstream: those first
// that ask for no more, then by priority, quality of service and age.
func (q *Queue) resizeOrder() []*resize {
	list := make([]*resize, 0, len(q.resizes))
	for _, r := range q.resizes {
		list = append(list, r)
	}
	slices.SortFunc(list, func(a, b *resize) int {
		guaranteed := func(r *resize) bool { return podspec.QoS(r.Pod) == v1.PodQOSGuaranteed }
		return cmp.Or(
			first(!a.grows(), !b.grows()),
			cmp.Compare(priorityOf(b.Pod), priorityOf(a.Pod)),
			first(guaranteed(a), guaranteed(b)),
			-first(a.Since.IsZero(), b.Since.IsZero()),
			a.Since.Compare(b.Since),
			cmp.Compare(a.Pod.UID, b.Pod.UID),
		)
	})
	return list
}

// grows says whether more is requested than allocated.
func (r *resize) grows() bool {
	wants, has := podspec.PodAmounts(r.Pod, false), podspec.PodAmounts(r.Allocated, false)
	return wants.CPURequest > has.CPURequest || wants.MemoryRequest > has.MemoryRequest
}

func (q *Queue) anyResize() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.resizes) > 0
}

// PriorityBucket is a pod's priority as metrics of resizes name it.
func PriorityBucket(pod *v1.Pod) string {
	switch p := priorityOf(pod); {
	case p >= 2_000_000_000:
		return "system-critical"
	case p >= 100_000:
		return "high"
	case p > 0:
		return "medium"
	case p == 0:
		return "normal"
	case p > -1000:
		return "low"
	}
	return "very-low"
}

func priorityOf(pod *v1.Pod) int32 {
	if pod.Spec.Priority == nil {
		return 0
	}
	return *pod.Spec.Priority
}
