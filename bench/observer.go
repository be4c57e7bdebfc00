package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"kubelet/test/harness"
)

// observer watches all pods of the benchmark and keeps when it saw what.
type observer struct {
	cancel context.CancelFunc
	done   chan struct{}

	mu      sync.Mutex
	waiting map[string][]*waiter // by pod name
	err     error
}

// waiter waits for a condition of a pod; nil is asked about when it is gone.
type waiter struct {
	name  string
	holds func(*v1.Pod) bool
	seen  chan sighting
}

// sighting is when a pod was first seen so.
type sighting struct {
	at  time.Time
	pod *v1.Pod
}

func newObserver(ctx context.Context, client kubernetes.Interface) (*observer, error) {
	w, err := client.CoreV1().Pods(metav1.NamespaceAll).Watch(ctx, metav1.ListOptions{LabelSelector: "column"})
	if err != nil {
		return nil, fmt.Errorf("watch pods: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	o := &observer{cancel: cancel, done: make(chan struct{}), waiting: map[string][]*waiter{}}
	go func() {
		defer close(o.done)
		defer func() { w.Stop() }()
		version := ""
		for ctx.Err() == nil {
			for e := range w.ResultChan() {
				if pod, ok := e.Object.(*v1.Pod); ok {
					version = pod.ResourceVersion
					o.see(e.Type, pod, time.Now())
				} else {
					say("the observer's watch: %v", apierrors.FromObject(e.Object))
				}
				if ctx.Err() != nil {
					return
				}
			}
			// The server ends each watch after some minutes.
			if w, err = client.CoreV1().Pods(metav1.NamespaceAll).Watch(ctx, metav1.ListOptions{LabelSelector: "column", ResourceVersion: version}); err != nil {
				o.mu.Lock()
				o.err = err
				o.mu.Unlock()
				return
			}
		}
	}()
	return o, nil
}

func (o *observer) see(kind watch.EventType, pod *v1.Pod, at time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	waiting := o.waiting[pod.Name]
	if len(waiting) == 0 {
		return
	}
	asked := pod
	if kind == watch.Deleted {
		asked = nil
	}
	left := waiting[:0]
	for _, w := range waiting {
		if w.holds(asked) {
			w.seen <- sighting{at, pod}
		} else {
			left = append(left, w)
		}
	}
	if len(left) == 0 {
		delete(o.waiting, pod.Name)
	} else {
		o.waiting[pod.Name] = left
	}
}

// expect begins to wait; it is to be called before what it waits for is
// brought about. holds is called for each version of the pod, in order.
func (o *observer) expect(name string, holds func(*v1.Pod) bool) *waiter {
	w := &waiter{name: name, holds: holds, seen: make(chan sighting, 1)}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.waiting[name] = append(o.waiting[name], w)
	return w
}

// patience is how long anything may take.
const patience = 3 * time.Minute

func (w *waiter) wait(ctx context.Context, what string) (sighting, error) {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case s := <-w.seen:
		return s, nil
	case <-timer.C:
		return sighting{}, fmt.Errorf("pod %s: waited %s for %s", w.name, patience, what)
	case <-ctx.Done():
		return sighting{}, ctx.Err()
	}
}

func (o *observer) stop() {
	o.cancel()
	<-o.done
}

func gone(p *v1.Pod) bool  { return p == nil }
func ready(p *v1.Pod) bool { return p != nil && harness.Ready(p) }
