package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
)

var podResource = schema.GroupResource{Resource: "pods"}

// api is an API server with pods and events, which is slow and fails on
// demand. What it does is written down in calls.
type api struct {
	mu      sync.Mutex
	pods    map[string]*v1.Pod
	events  map[string]*v1.Event
	version int
	uids    int
	calls   []string
	latency time.Duration
	// fail is asked before each call is carried out, late after it: an error
	// of late is an answer that got lost.
	fail, late func(call string) error
	inFlight   int
	maxFlight  int
	// changed is told what a watch would bring.
	changed func(pod *v1.Pod, deleted bool)
}

func newAPI(pods ...*v1.Pod) *api {
	a := &api{pods: map[string]*v1.Pod{}, events: map[string]*v1.Event{}}
	for _, p := range pods {
		a.put(p)
	}
	return a
}

var errAway = errors.New("connection refused")

func (a *api) put(p *v1.Pod) *v1.Pod {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.putLocked(p)
}

func (a *api) putLocked(p *v1.Pod) *v1.Pod {
	a.version++
	p = p.DeepCopy()
	p.ResourceVersion = strconv.Itoa(a.version)
	a.pods[p.Namespace+"/"+p.Name] = p
	return p
}

func (a *api) get(namespace, name string) *v1.Pod {
	a.mu.Lock()
	defer a.mu.Unlock()
	if p := a.pods[namespace+"/"+name]; p != nil {
		return p.DeepCopy()
	}
	return nil
}

// edit changes a pod as some other client does.
func (a *api) edit(namespace, name string, f func(*v1.Pod)) *v1.Pod {
	a.mu.Lock()
	p := a.pods[namespace+"/"+name].DeepCopy()
	f(p)
	p = a.putLocked(p)
	a.mu.Unlock()
	return p.DeepCopy()
}

func (a *api) do(ctx context.Context, call string, f func() error) error {
	a.mu.Lock()
	a.calls = append(a.calls, call)
	a.inFlight++
	a.maxFlight = max(a.maxFlight, a.inFlight)
	latency, fail, late := a.latency, a.fail, a.late
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		a.inFlight--
		a.mu.Unlock()
	}()
	if latency > 0 {
		select {
		case <-time.After(latency):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if fail != nil {
		if err := fail(call); err != nil {
			return err
		}
	}
	a.mu.Lock()
	err := f()
	a.mu.Unlock()
	if err == nil && late != nil {
		err = late(call)
	}
	return err
}

func (a *api) GetPod(ctx context.Context, namespace, name string) (pod *v1.Pod, err error) {
	err = a.do(ctx, "get "+name, func() error {
		p := a.pods[namespace+"/"+name]
		if p == nil {
			return apierrors.NewNotFound(podResource, name)
		}
		pod = p.DeepCopy()
		return nil
	})
	return pod, err
}

func (a *api) PatchPodStatus(ctx context.Context, namespace, name string, uid types.UID, patch []byte) (pod *v1.Pod, err error) {
	err = a.do(ctx, fmt.Sprintf("patch %s %s", name, patch), func() error {
		p := a.pods[namespace+"/"+name]
		if p == nil {
			return apierrors.NewNotFound(podResource, name)
		}
		if p.UID != uid {
			return apierrors.NewConflict(podResource, name, errors.New("uid mismatch"))
		}
		old, _ := json.Marshal(p)
		body, err := strategicpatch.StrategicMergePatch(old, patch, &v1.Pod{})
		if err != nil {
			return apierrors.NewBadRequest(err.Error())
		}
		next := &v1.Pod{}
		if err := json.Unmarshal(body, next); err != nil {
			return apierrors.NewBadRequest(err.Error())
		}
		pod = a.putLocked(next).DeepCopy()
		return nil
	})
	return pod, err
}

func (a *api) CreatePod(ctx context.Context, p *v1.Pod) (pod *v1.Pod, err error) {
	err = a.do(ctx, "create "+p.Name, func() error {
		if a.pods[p.Namespace+"/"+p.Name] != nil {
			return apierrors.NewAlreadyExists(podResource, p.Name)
		}
		next := p.DeepCopy()
		a.uids++
		next.UID = types.UID("api-" + strconv.Itoa(a.uids))
		next.Status = v1.PodStatus{Phase: v1.PodPending}
		pod = a.putLocked(next).DeepCopy()
		return nil
	})
	if err == nil && a.changed != nil {
		a.changed(pod, false)
	}
	return pod, err
}

func (a *api) DeletePod(ctx context.Context, namespace, name string, o metav1.DeleteOptions) error {
	var gone *v1.Pod
	err := a.do(ctx, fmt.Sprintf("delete %s grace=%d", name, *o.GracePeriodSeconds), func() error {
		p := a.pods[namespace+"/"+name]
		if p == nil {
			return apierrors.NewNotFound(podResource, name)
		}
		if o.Preconditions != nil && *o.Preconditions.UID != p.UID {
			return apierrors.NewConflict(podResource, name, errors.New("precondition failed"))
		}
		gone = p
		delete(a.pods, namespace+"/"+name)
		return nil
	})
	if gone != nil && a.changed != nil {
		a.changed(gone, true)
	}
	return err
}

func (a *api) CreateEvent(ctx context.Context, e *v1.Event) (event *v1.Event, err error) {
	err = a.do(ctx, "event "+e.Reason, func() error {
		a.version++
		event = e.DeepCopy()
		event.ResourceVersion = strconv.Itoa(a.version)
		a.events[e.Name] = event
		return nil
	})
	return event, err
}

func (a *api) PatchEvent(ctx context.Context, _, name string, patch []byte) (event *v1.Event, err error) {
	err = a.do(ctx, "count "+name, func() error {
		e := a.events[name]
		if e == nil {
			return apierrors.NewNotFound(schema.GroupResource{Resource: "events"}, name)
		}
		old, _ := json.Marshal(e)
		body, err := strategicpatch.StrategicMergePatch(old, patch, &v1.Event{})
		if err != nil {
			return apierrors.NewBadRequest(err.Error())
		}
		event = &v1.Event{}
		_ = json.Unmarshal(body, event)
		a.events[name] = event
		return nil
	})
	return event, err
}

func (a *api) took() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	calls := a.calls
	a.calls = nil
	return calls
}

func (a *api) set(f func()) {
	a.mu.Lock()
	f()
	a.mu.Unlock()
}

// run runs a loop until the test ends.
func run(t *testing.T, loop func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- loop(ctx) }()
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(stop)
	return stop
}
