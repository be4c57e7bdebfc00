package harness

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/yaml"
)

// WaitPod watches a pod until the condition holds. The condition is asked with
// nil when the pod is gone. The last pod seen is returned in any case.
func (c *Cluster) WaitPod(ctx context.Context, namespace, name, what string, timeout time.Duration, holds func(*v1.Pod) bool) (*v1.Pod, error) {
	pods := c.Client.CoreV1().Pods(namespace)
	selector := fields.OneTermEqualSelector("metadata.name", name).String()
	var last *v1.Pod
	err := follow(ctx, timeout, func(ctx context.Context) (bool, string, error) {
		list, err := pods.List(ctx, metav1.ListOptions{FieldSelector: selector})
		if err != nil {
			return false, "", err
		}
		if len(list.Items) == 0 {
			return holds(nil), list.ResourceVersion, nil
		}
		last = &list.Items[0]
		return holds(last), list.ResourceVersion, nil
	}, func(ctx context.Context, version string) (watch.Interface, error) {
		return pods.Watch(ctx, metav1.ListOptions{FieldSelector: selector, ResourceVersion: version})
	}, func(e watch.Event) bool {
		pod, ok := e.Object.(*v1.Pod)
		if !ok {
			return false
		}
		last = pod
		if e.Type == watch.Deleted {
			return holds(nil)
		}
		return holds(pod)
	})
	if err != nil {
		return last, fmt.Errorf("pod %s/%s: waiting for %s: %w; last seen: %s", namespace, name, what, err, PodSummary(last))
	}
	return last, nil
}

// WaitNode watches the node object until the condition holds.
func (c *Cluster) WaitNode(ctx context.Context, name, what string, timeout time.Duration, holds func(*v1.Node) bool) error {
	nodes := c.Client.CoreV1().Nodes()
	selector := fields.OneTermEqualSelector("metadata.name", name).String()
	var last *v1.Node
	err := follow(ctx, timeout, func(ctx context.Context) (bool, string, error) {
		list, err := nodes.List(ctx, metav1.ListOptions{FieldSelector: selector})
		if err != nil {
			return false, "", err
		}
		for i := range list.Items {
			last = &list.Items[i]
			if holds(last) {
				return true, "", nil
			}
		}
		return false, list.ResourceVersion, nil
	}, func(ctx context.Context, version string) (watch.Interface, error) {
		return nodes.Watch(ctx, metav1.ListOptions{FieldSelector: selector, ResourceVersion: version})
	}, func(e watch.Event) bool {
		node, ok := e.Object.(*v1.Node)
		if ok && e.Type != watch.Deleted {
			last = node
			return holds(node)
		}
		return false
	})
	if err != nil {
		conditions := "never seen"
		if last != nil {
			text, _ := yaml.Marshal(last.Status.Conditions)
			conditions = string(text)
		}
		return fmt.Errorf("node %s: waiting for %s: %w; last seen:\n%s", name, what, err, conditions)
	}
	return nil
}

// follow lists and watches until one of them says that it is done. A watch
// that ends is begun anew, and an API server that is away is waited for.
func follow(ctx context.Context, timeout time.Duration,
	list func(context.Context) (done bool, version string, err error),
	start func(ctx context.Context, version string) (watch.Interface, error),
	event func(watch.Event) bool,
) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		done, version, err := list(ctx)
		if done {
			return nil
		}
		var w watch.Interface
		if err == nil {
			w, err = start(ctx, version)
		}
		if err != nil {
			select {
			case <-ctx.Done():
				return fmt.Errorf("time is up after %s: %w", timeout, err)
			case <-time.After(100 * time.Millisecond):
				continue
			}
		}
		done, err = drain(ctx, w, event)
		w.Stop()
		if done {
			return nil
		}
		if err != nil {
			return fmt.Errorf("time is up after %s", timeout)
		}
	}
}

// drain reads events until one is the wanted one or the watch ends.
func drain(ctx context.Context, w watch.Interface, event func(watch.Event) bool) (bool, error) {
	for {
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case e, ok := <-w.ResultChan():
			if !ok || e.Type == watch.Error {
				return false, nil
			}
			if event(e) {
				return true, nil
			}
		}
	}
}

// Recorder keeps every version of every pod of a namespace that a watch shows.
type Recorder struct {
	mu       sync.Mutex
	versions map[types.UID][]*v1.Pod
	stop     context.CancelFunc
	done     chan struct{}
}

// Record starts to record a namespace. It survives the API server's absence;
// versions in between are then not seen.
func (c *Cluster) Record(ctx context.Context, namespace string) *Recorder {
	ctx, cancel := context.WithCancel(ctx)
	r := &Recorder{versions: map[types.UID][]*v1.Pod{}, stop: cancel, done: make(chan struct{})}
	pods := c.Client.CoreV1().Pods(namespace)
	started := make(chan struct{})
	var once sync.Once
	go func() {
		defer close(r.done)
		_ = follow(ctx, 24*time.Hour, func(ctx context.Context) (bool, string, error) {
			list, err := pods.List(ctx, metav1.ListOptions{})
			if err != nil {
				return false, "", err
			}
			for i := range list.Items {
				r.add(&list.Items[i])
			}
			once.Do(func() { close(started) })
			return false, list.ResourceVersion, nil
		}, func(ctx context.Context, version string) (watch.Interface, error) {
			return pods.Watch(ctx, metav1.ListOptions{ResourceVersion: version})
		}, func(e watch.Event) bool {
			if pod, ok := e.Object.(*v1.Pod); ok {
				r.add(pod)
			}
			return false
		})
	}()
	select {
	case <-started:
	case <-ctx.Done():
	}
	return r
}

func (r *Recorder) add(pod *v1.Pod) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.versions[pod.UID] = append(r.versions[pod.UID], pod)
}

// Stop ends the recording.
func (r *Recorder) Stop() {
	r.stop()
	<-r.done
}

// Pods returns the versions of each pod, oldest first.
func (r *Recorder) Pods() map[types.UID][]*v1.Pod {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make(map[types.UID][]*v1.Pod, len(r.versions))
	for uid, versions := range r.versions {
		out[uid] = slices.Clone(versions)
	}
	return out
}

// Disturbances lists what must not happen to pods that nobody disturbed: a
// restarted container, a pod that was ready and is not although it is wanted,
// a phase that goes backwards.
func (r *Recorder) Disturbances() []string {
	var found []string
	for _, versions := range r.Pods() {
		var previous *v1.Pod
		for _, pod := range versions {
			for _, s := range append(slices.Clone(pod.Status.InitContainerStatuses), pod.Status.ContainerStatuses...) {
				if s.RestartCount > 0 {
					found = append(found, fmt.Sprintf("%s/%s was restarted", pod.Name, s.Name))
				}
			}
			if previous != nil && pod.DeletionTimestamp == nil {
				if ready(previous) && !ready(pod) {
					found = append(found, fmt.Sprintf("%s was ready and then not: %s", pod.Name, PodSummary(pod)))
				}
				if phaseRank[pod.Status.Phase] < phaseRank[previous.Status.Phase] {
					found = append(found, fmt.Sprintf("%s went from %s to %s", pod.Name, previous.Status.Phase, pod.Status.Phase))
				}
			}
			previous = pod
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

var phaseRank = map[v1.PodPhase]int{v1.PodPending: 1, v1.PodRunning: 2, v1.PodSucceeded: 3, v1.PodFailed: 3}

// Ready says whether the pod's Ready condition is true.
func Ready(pod *v1.Pod) bool { return pod != nil && ready(pod) }

func ready(pod *v1.Pod) bool {
	c := PodCondition(pod, v1.PodReady)
	return c != nil && c.Status == v1.ConditionTrue
}

// PodCondition of that type, or nil.
func PodCondition(pod *v1.Pod, kind v1.PodConditionType) *v1.PodCondition {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == kind {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}

func nodeCondition(node *v1.Node, kind v1.NodeConditionType) v1.ConditionStatus {
	for _, c := range node.Status.Conditions {
		if c.Type == kind {
			return c.Status
		}
	}
	return v1.ConditionUnknown
}

// ContainerStatus of that name among all kinds of container, or an empty one.
func ContainerStatus(pod *v1.Pod, name string) v1.ContainerStatus {
	all := slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses)
	for _, s := range all {
		if s.Name == name {
			return s
		}
	}
	return v1.ContainerStatus{}
}

// PodSummary is the pod's state in one line, for messages.
func PodSummary(pod *v1.Pod) string {
	if pod == nil {
		return "no pod"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "phase %s", pod.Status.Phase)
	if pod.DeletionTimestamp != nil {
		b.WriteString(", being deleted")
	}
	if pod.Status.Reason != "" {
		fmt.Fprintf(&b, ", %s: %s", pod.Status.Reason, pod.Status.Message)
	}
	for _, c := range pod.Status.Conditions {
		if c.Status != v1.ConditionTrue {
			fmt.Fprintf(&b, ", %s=%s (%s %s)", c.Type, c.Status, c.Reason, c.Message)
		}
	}
	for _, s := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		fmt.Fprintf(&b, ", %s restarts %d", s.Name, s.RestartCount)
		switch {
		case s.State.Waiting != nil:
			fmt.Fprintf(&b, " waiting %s %q", s.State.Waiting.Reason, s.State.Waiting.Message)
		case s.State.Running != nil:
			b.WriteString(" running")
		case s.State.Terminated != nil:
			fmt.Fprintf(&b, " terminated %d %s", s.State.Terminated.ExitCode, s.State.Terminated.Reason)
		}
	}
	return b.String()
}

// WaitEvent waits for an event of that reason about a pod.
func (c *Cluster) WaitEvent(ctx context.Context, namespace, pod, reason string, timeout time.Duration) (*v1.Event, error) {
	events := c.Client.CoreV1().Events(namespace)
	selector := fields.Set{"involvedObject.name": pod, "reason": reason}.String()
	var found *v1.Event
	err := follow(ctx, timeout, func(ctx context.Context) (bool, string, error) {
		list, err := events.List(ctx, metav1.ListOptions{FieldSelector: selector})
		if err != nil {
			return false, "", err
		}
		if len(list.Items) > 0 {
			found = &list.Items[0]
		}
		return found != nil, list.ResourceVersion, nil
	}, func(ctx context.Context, version string) (watch.Interface, error) {
		return events.Watch(ctx, metav1.ListOptions{FieldSelector: selector, ResourceVersion: version})
	}, func(e watch.Event) bool {
		event, ok := e.Object.(*v1.Event)
		if ok {
			found = event
		}
		return ok
	})
	if err != nil {
		return nil, fmt.Errorf("event %s of pod %s/%s: %w", reason, namespace, pod, err)
	}
	return found, nil
}

// DeletePods deletes all pods of a namespace and waits until they are gone.
// It returns their UIDs.
func (c *Cluster) DeletePods(ctx context.Context, namespace string, timeout time.Duration) ([]types.UID, error) {
	pods := c.Client.CoreV1().Pods(namespace)
	list, err := pods.List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	var uids []types.UID
	for _, p := range list.Items {
		uids = append(uids, p.UID)
	}
	if err := pods.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		return uids, fmt.Errorf("delete pods: %w", err)
	}
	for _, p := range list.Items {
		if _, err := c.WaitPod(ctx, namespace, p.Name, "its end", timeout, func(pod *v1.Pod) bool { return pod == nil || pod.UID != p.UID }); err != nil {
			return uids, err
		}
	}
	return uids, nil
}

// Describe is what a person would look at first when pods of a namespace are
// not as they should be.
func (c *Cluster) Describe(ctx context.Context, namespace string) string {
	var b strings.Builder
	pods, err := c.Client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err.Error()
	}
	for i := range pods.Items {
		fmt.Fprintf(&b, "pod %s (%s): %s\n", pods.Items[i].Name, pods.Items[i].UID, PodSummary(&pods.Items[i]))
	}
	events, err := c.Client.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return b.String() + err.Error()
	}
	if err == nil {
		slices.SortFunc(events.Items, func(a, b v1.Event) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
		for _, e := range events.Items[max(0, len(events.Items)-40):] {
			fmt.Fprintf(&b, "event %s %s x%d: %s\n", e.InvolvedObject.Name, e.Reason, e.Count, e.Message)
		}
	}
	return b.String()
}
