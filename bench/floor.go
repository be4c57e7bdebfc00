package main

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"kubelet/test/harness"
)

// floor is the least that has to happen for a pod to be started, told about
// and removed: the runtime's calls one after another, and what any kubelet
// writes to the API server, by a client that knows no error, no restart and no
// policy. It watches the pods of its node with a node's credentials, so that
// the API server does the same work for it as for a kubelet.
//
// On the way to Ready are: the watch event, RunPodSandbox (volumes are made
// meanwhile), CreateContainer and StartContainer of each container in turn,
// PodSandboxStatus for the address, and one patch of the status. On the way to
// gone: StopContainer, StopPodSandbox, one patch, the deletion. The first,
// Pending status, the events and RemovePodSandbox are beside the way.
type floor struct {
	node   *harness.Node
	client kubernetes.Interface
	cancel context.CancelFunc
	work   sync.WaitGroup
	events chan *v1.Event

	mu   sync.Mutex
	pods map[types.UID]*floorPod
	// objects are read once for all pods that are there.
	objects map[string]func() (map[string][]byte, error)
	width   chan struct{} // places for pods that are being started
}

// floorPod is what the client remembers of a pod.
type floorPod struct {
	pod        *v1.Pod
	started    chan struct{} // closed when the start is over
	ending     bool
	sandbox    string
	ip         string
	containers []*floorContainer
	dir        string // of its volumes
	calls      time.Duration
}

type floorContainer struct {
	spec    *v1.Container
	init    bool
	id      string
	attempt uint32
}

func newFloor(ctx context.Context, node *harness.Node) (*floor, error) {
	config, err := node.ClientConfig()
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(fast(config))
	if err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	f := &floor{node: node, client: client, cancel: cancel, pods: map[types.UID]*floorPod{},
		objects: map[string]func() (map[string][]byte, error){}, events: make(chan *v1.Event, 10000)}
	f.allow(4)
	if err := f.register(ctx); err != nil {
		cancel()
		return nil, err
	}
	w, err := f.watch(ctx, "0")
	if err != nil {
		cancel()
		return nil, err
	}
	f.work.Go(func() { f.follow(ctx, w) })
	f.work.Go(func() { f.heartbeat(ctx) })
	f.work.Go(func() { f.sendEvents(ctx) })
	return f, nil
}

// allow sets how many pods are started at once from now on.
func (f *floor) allow(width int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.width = make(chan struct{}, width)
}

func (f *floor) close() {
	f.cancel()
	f.work.Wait()
}

func (f *floor) watch(ctx context.Context, version string) (watch.Interface, error) {
	w, err := f.client.CoreV1().Pods(metav1.NamespaceAll).Watch(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("spec.nodeName", f.node.Name).String(), ResourceVersion: version,
	})
	if err != nil {
		return nil, fmt.Errorf("watch pods: %w", err)
	}
	return w, nil
}

func (f *floor) follow(ctx context.Context, w watch.Interface) {
	for {
		for e := range w.ResultChan() {
			if pod, ok := e.Object.(*v1.Pod); ok {
				f.see(ctx, e.Type, pod)
			} else {
				say("the floor's watch: %v", apierrors.FromObject(e.Object))
			}
		}
		w.Stop()
		// From any version: it begins with what is there.
		var err error
		for w, err = f.watch(ctx, "0"); err != nil; w, err = f.watch(ctx, "0") {
			if ctx.Err() != nil {
				return
			}
			say("the floor's client: %v", err)
			time.Sleep(100 * time.Millisecond)
		}
	}
}

func (f *floor) see(ctx context.Context, kind watch.EventType, pod *v1.Pod) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.pods[pod.UID]
	switch {
	case kind == watch.Deleted:
		delete(f.pods, pod.UID)
		if len(f.pods) == 0 {
			f.objects = map[string]func() (map[string][]byte, error){}
		}
	case p == nil && pod.DeletionTimestamp == nil:
		p = &floorPod{pod: pod, started: make(chan struct{})}
		f.pods[pod.UID] = p
		width := f.width
		f.work.Go(func() {
			defer close(p.started)
			width <- struct{}{}
			defer func() { <-width }()
			f.report("start", p, f.start(ctx, p))
		})
	case p != nil && pod.DeletionTimestamp != nil && !p.ending:
		p.ending = true
		f.work.Go(func() {
			<-p.started
			f.report("end", p, f.end(ctx, p))
		})
	}
}

// get returns a pod that the client has.
func (f *floor) get(uid types.UID) *floorPod {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.pods[uid]
}

func (f *floor) report(what string, p *floorPod, err error) {
	if err != nil {
		say("the floor's client: %s of %s: %v", what, p.pod.Name, err)
	}
}

// register makes the node's object, without which its pods would be taken for
// orphans.
func (f *floor) register(ctx context.Context) error {
	now := metav1.Now()
	node := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: f.node.Name}}
	if _, err := f.client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("make node: %w", err)
	}
	status, err := json.Marshal(map[string]any{"status": map[string]any{"conditions": []v1.NodeCondition{{
		Type: v1.NodeReady, Status: v1.ConditionTrue, Reason: "Bench", LastHeartbeatTime: now, LastTransitionTime: now,
	}}}})
	if err != nil {
		return fmt.Errorf("encode node status: %w", err)
	}
	if _, err := f.client.CoreV1().Nodes().PatchStatus(ctx, f.node.Name, status); err != nil {
		return fmt.Errorf("patch node status: %w", err)
	}
	return nil
}

// heartbeat keeps the node Ready.
func (f *floor) heartbeat(ctx context.Context) {
	for {
		now := metav1.Now()
		status, _ := json.Marshal(map[string]any{"status": map[string]any{"conditions": []v1.NodeCondition{{
			Type: v1.NodeReady, Status: v1.ConditionTrue, Reason: "Bench", LastHeartbeatTime: now,
		}}}})
		_, _ = f.client.CoreV1().Nodes().PatchStatus(ctx, f.node.Name, status)
		select {
		case <-ctx.Done():
			return
		case <-time.After(10 * time.Second):
		}
	}
}

// event says that something happened, beside the way as in any kubelet.
func (f *floor) event(p *floorPod, container, reason, message string) {
	now := metav1.Now()
	e := &v1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s.%x", p.pod.Name, now.UnixNano()), Namespace: p.pod.Namespace},
		InvolvedObject: v1.ObjectReference{Kind: "Pod", Namespace: p.pod.Namespace, Name: p.pod.Name, UID: p.pod.UID, APIVersion: "v1",
			FieldPath: "spec.containers{" + container + "}"},
		Reason: reason, Message: message, Type: v1.EventTypeNormal, Count: 1,
		FirstTimestamp: now, LastTimestamp: now, Source: v1.EventSource{Component: "kubelet", Host: f.node.Name},
	}
	select {
	case f.events <- e:
	default:
	}
}

func (f *floor) sendEvents(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-f.events:
			_, _ = f.client.CoreV1().Events(e.Namespace).Create(ctx, e, metav1.CreateOptions{})
		}
	}
}

// patch writes a pod's status.
func (f *floor) patch(ctx context.Context, pod *v1.Pod, status v1.PodStatus) error {
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": status})
	if err != nil {
		return fmt.Errorf("encode status: %w", err)
	}
	_, err = f.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, body, metav1.PatchOptions{}, "status")
	if err != nil {
		return fmt.Errorf("patch status: %w", err)
	}
	return nil
}
