package simulation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apimachinery/pkg/watch"

	"kubelet/internal/podspec"
)

var podResource = schema.GroupResource{Resource: "pods"}

// apiServer holds the pods of this node. Each stored pod is a version of its
// own that is never changed.
type apiServer struct {
	w *world

	mu      sync.Mutex
	state   apiState
	pods    map[string]*v1.Pod // by namespace/name
	version int
	uids    int
	// history is what watches are told; oldest is the last version that is
	// forgotten.
	history []change
	oldest  int
	watches map[*podWatch]bool
	// lagging watches are told nothing for now.
	lagging bool
	calls   map[string]int
	patches map[types.UID]int
}

type apiState int

const (
	up       apiState = iota
	refusing          // no server is there
	hanging           // one is there and does not answer
)

type change struct {
	version int
	event   watch.Event
}

func newAPIServer(w *world) *apiServer {
	return &apiServer{w: w, pods: map[string]*v1.Pod{}, watches: map[*podWatch]bool{},
		calls: map[string]int{}, patches: map[types.UID]int{}}
}

// What users and controllers do. None of it fails.

func (s *apiServer) create(pod *v1.Pod) *v1.Pod {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.createLocked(pod)
}

func (s *apiServer) createLocked(pod *v1.Pod) *v1.Pod {
	pod = pod.DeepCopy()
	if pod.Namespace == "" {
		pod.Namespace = "default"
	}
	s.uids++
	pod.UID = types.UID(fmt.Sprintf("uid-%d", s.uids))
	pod.CreationTimestamp = metav1.NewTime(time.Now().Truncate(time.Second))
	pod.Generation = 1
	pod.Status = v1.PodStatus{Phase: v1.PodPending}
	return s.store(watch.Added, pod)
}

func (s *apiServer) store(kind watch.EventType, pod *v1.Pod) *v1.Pod {
	s.version++
	pod.ResourceVersion = strconv.Itoa(s.version)
	key := pod.Namespace + "/" + pod.Name
	if kind == watch.Deleted {
		delete(s.pods, key)
	} else {
		s.pods[key] = pod
	}
	s.history = append(s.history, change{s.version, watch.Event{Type: kind, Object: pod}})
	if !s.lagging {
		s.tell()
	}
	return pod
}

// tell brings all watches up to date.
func (s *apiServer) tell() {
	for x := range s.watches {
		for _, c := range s.history {
			if c.version <= x.told {
				continue
			}
			select {
			case x.events <- watch.Event{Type: c.event.Type, Object: c.event.Object.DeepCopyObject()}:
				x.told = c.version
			default: // as servers do with a client that is too slow
				s.end(x)
			}
		}
	}
}

func (s *apiServer) end(x *podWatch) {
	if s.watches[x] {
		delete(s.watches, x)
		close(x.events)
	}
}

// delete asks for the deletion of a pod; nil is its own grace period, 0 is by
// force.
func (s *apiServer) delete(name string, grace *int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	pod := s.pods["default/"+name]
	if pod == nil {
		return
	}
	seconds := int64(30)
	if pod.Spec.TerminationGracePeriodSeconds != nil {
		seconds = *pod.Spec.TerminationGracePeriodSeconds
	}
	if grace != nil {
		seconds = *grace
	}
	next := pod.DeepCopy()
	switch {
	case seconds == 0 || podspec.IsTerminalPhase(pod.Status.Phase) || podspec.IsMirror(pod):
		s.w.say("user: delete %s (%s) by force", name, pod.UID)
		s.w.doom(pod.UID)
		// As servers do: first the object's period is 0, then it is gone.
		now := metav1.NewTime(time.Now().Truncate(time.Second))
		next.DeletionTimestamp, next.DeletionGracePeriodSeconds = &now, new(int64)
		s.store(watch.Modified, next)
		s.store(watch.Deleted, next.DeepCopy())
		return
	case pod.DeletionTimestamp != nil && *pod.DeletionGracePeriodSeconds <= seconds:
		return
	}
	s.w.say("user: delete %s (%s) with %ds", name, pod.UID, seconds)
	when := metav1.NewTime(time.Now().Add(time.Duration(seconds) * time.Second).Truncate(time.Second))
	next.DeletionTimestamp, next.DeletionGracePeriodSeconds = &when, &seconds
	next.Generation++
	s.store(watch.Modified, next)
}

// edit changes a pod as its owner does.
func (s *apiServer) edit(name string, f func(*v1.Pod)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if pod := s.pods["default/"+name]; pod != nil {
		next := pod.DeepCopy()
		f(next)
		next.Generation++
		s.store(watch.Modified, next)
	}
}

func (s *apiServer) get(name string) *v1.Pod {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pods["default/"+name]
}

// list returns the pods by age.
func (s *apiServer) list() []*v1.Pod {
	s.mu.Lock()
	defer s.mu.Unlock()
	var pods []*v1.Pod
	for _, p := range s.pods {
		pods = append(pods, p)
	}
	slices.SortFunc(pods, func(a, b *v1.Pod) int {
		x, _ := strconv.Atoi(string(a.UID[4:]))
		y, _ := strconv.Atoi(string(b.UID[4:]))
		return x - y
	})
	return pods
}

func (s *apiServer) byUID(uid types.UID) *v1.Pod {
	for _, p := range s.list() {
		if p.UID == uid {
			return p
		}
	}
	return nil
}

func (s *apiServer) set(state apiState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = state
	if state != up {
		for x := range s.watches {
			if state == refusing {
				s.end(x)
			}
		}
	}
	s.lagging = state == hanging
	if state == up {
		s.tell()
	}
}

func (s *apiServer) lag(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lagging = on || s.state == hanging
	if !s.lagging {
		s.tell()
	}
}

// dropWatches ends all watches; with compaction, what they missed can only be
// had by a list.
func (s *apiServer) dropWatches(compact bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for x := range s.watches {
		s.end(x)
	}
	if compact {
		s.oldest, s.history = s.version, nil
	}
}

// counted is how often clients called.
func (s *apiServer) counted(call string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[call]
}

func (s *apiServer) patched(uid types.UID) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.patches[uid]
}

// apiClient is the server as one agent reaches it: the clients of the status
// writer, of mirror pods and of events, and the list and watch of pods.
type apiClient struct {
	*wire
	s *apiServer
}

var errRefused = errors.New("dial tcp: connection refused")

// do makes one call.
func (c apiClient) do(ctx context.Context, call, object string, effect func() error) error {
	fate := c.w.fate(call, object)
	there, back := time.Duration(1+fate.IntN(8))*time.Millisecond, time.Duration(1+fate.IntN(4))*time.Millisecond
	// The product's client bounds each request.
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	ctx, release := c.tie(ctx)
	defer release()
	if err := c.travel(ctx, there); err != nil {
		return err
	}
	c.s.mu.Lock()
	c.s.calls[call]++
	state := c.s.state
	c.s.mu.Unlock()
	switch state {
	case refusing:
		return errRefused
	case hanging:
		<-ctx.Done()
		return ctx.Err()
	}
	lost := false
	if c.w.faulty() && call != "event" {
		switch n := fate.IntN(100); {
		case n < 2:
			return apierrors.NewInternalError(errInjected)
		case n < 3:
			return apierrors.NewTooManyRequests("slow down", 1)
		case n < 5:
			lost = true
		}
	}
	c.s.mu.Lock()
	err := effect()
	c.s.mu.Unlock()
	if lost {
		c.w.say("api: the answer to %s %s is lost", call, object)
		return errors.New("connection reset by peer")
	}
	if e := c.travel(ctx, back); e != nil {
		return e
	}
	return err
}

func (c apiClient) GetPod(ctx context.Context, namespace, name string) (pod *v1.Pod, err error) {
	err = c.do(ctx, "get", name, func() error {
		p := c.s.pods[namespace+"/"+name]
		if p == nil {
			return apierrors.NewNotFound(podResource, name)
		}
		pod = p.DeepCopy()
		return nil
	})
	return pod, err
}

func (c apiClient) PatchPodStatus(ctx context.Context, namespace, name string, uid types.UID, patch []byte) (pod *v1.Pod, err error) {
	err = c.do(ctx, "patch", name, func() error {
		p := c.s.pods[namespace+"/"+name]
		if p == nil {
			return apierrors.NewNotFound(podResource, name)
		}
		if p.UID != uid {
			return apierrors.NewConflict(podResource, name, errors.New("uid mismatch"))
		}
		old, err := json.Marshal(p)
		if err != nil {
			return apierrors.NewInternalError(err)
		}
		body, err := strategicpatch.StrategicMergePatch(old, patch, &v1.Pod{})
		if err != nil {
			return apierrors.NewBadRequest(err.Error())
		}
		next := &v1.Pod{}
		if err := json.Unmarshal(body, next); err != nil {
			return apierrors.NewBadRequest(err.Error())
		}
		c.s.patches[uid]++
		c.w.judgeStatus(p, next)
		pod = c.s.store(watch.Modified, next).DeepCopy()
		return nil
	})
	return pod, err
}

func (c apiClient) CreatePod(ctx context.Context, p *v1.Pod) (pod *v1.Pod, err error) {
	err = c.do(ctx, "create", p.Name, func() error {
		if c.s.pods[p.Namespace+"/"+p.Name] != nil {
			return apierrors.NewAlreadyExists(podResource, p.Name)
		}
		pod = c.s.createLocked(p).DeepCopy()
		return nil
	})
	return pod, err
}

func (c apiClient) DeletePod(ctx context.Context, namespace, name string, o metav1.DeleteOptions) error {
	return c.do(ctx, "delete", name, func() error {
		p := c.s.pods[namespace+"/"+name]
		if p == nil {
			return apierrors.NewNotFound(podResource, name)
		}
		if o.Preconditions != nil && *o.Preconditions.UID != p.UID {
			return apierrors.NewConflict(podResource, name, errors.New("uid mismatch"))
		}
		c.w.judgeDeletion(p)
		c.w.say("api: %s (%s) is deleted", name, p.UID)
		c.s.store(watch.Deleted, p.DeepCopy())
		return nil
	})
}

func (c apiClient) CreateEvent(ctx context.Context, e *v1.Event) (*v1.Event, error) {
	return e, c.do(ctx, "event", e.Name, func() error { return nil })
}

func (c apiClient) PatchEvent(ctx context.Context, _, name string, _ []byte) (*v1.Event, error) {
	return &v1.Event{ObjectMeta: metav1.ObjectMeta{Name: name}}, c.do(ctx, "event", name, func() error { return nil })
}

// IsWatchListSemanticsUnSupported keeps the reflector to list and watch.
func (c apiClient) IsWatchListSemanticsUnSupported() bool { return true }

// List implements cache.ListerWatcher.
func (c apiClient) List(o metav1.ListOptions) (runtime.Object, error) {
	return c.ListWithContext(context.Background(), o)
}

// ListWithContext implements cache.ListerWatcherWithContext.
func (c apiClient) ListWithContext(ctx context.Context, _ metav1.ListOptions) (runtime.Object, error) {
	list := &v1.PodList{}
	err := c.do(ctx, "list", "", func() error {
		for _, p := range c.s.pods {
			list.Items = append(list.Items, *p.DeepCopy())
		}
		list.ResourceVersion = strconv.Itoa(c.s.version)
		return nil
	})
	return list, err
}

// Watch implements cache.ListerWatcher.
func (c apiClient) Watch(o metav1.ListOptions) (watch.Interface, error) {
	return c.WatchWithContext(context.Background(), o)
}

// WatchWithContext implements cache.ListerWatcherWithContext.
func (c apiClient) WatchWithContext(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	var x *podWatch
	err := c.do(ctx, "watch", "", func() error {
		from, err := strconv.Atoi(o.ResourceVersion)
		if err != nil || from < c.s.oldest {
			return apierrors.NewResourceExpired("too old resource version")
		}
		x = &podWatch{s: c.s, told: from, events: make(chan watch.Event, 1000)}
		c.s.watches[x] = true
		if !c.s.lagging {
			c.s.tell()
		}
		return nil
	})
	if err != nil {
		if x != nil {
			x.Stop()
		}
		return nil, err
	}
	return x, nil
}

type podWatch struct {
	s      *apiServer
	told   int
	events chan watch.Event
}

func (x *podWatch) ResultChan() <-chan watch.Event { return x.events }

func (x *podWatch) Stop() {
	x.s.mu.Lock()
	defer x.s.mu.Unlock()
	x.s.end(x)
}
