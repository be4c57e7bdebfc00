package apiclient

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

// source is an API server of ConfigMaps in memory. Its watch cache may lag
// behind its store.
type source struct {
	mu       sync.Mutex
	version  int
	store    map[string]*v1.ConfigMap
	cache    map[string]*v1.ConfigMap
	lag      bool
	fail     error
	hang     bool
	streams  map[string][]*stream
	requests []string
}

type stream struct {
	events chan watch.Event
	once   sync.Once
	done   chan struct{}
}

func (s *stream) Stop()                          { s.once.Do(func() { close(s.done) }) }
func (s *stream) ResultChan() <-chan watch.Event { return s.events }
func (s *stream) send(event watch.Event)         { s.events <- event }

func newSource() *source {
	return &source{store: map[string]*v1.ConfigMap{}, cache: map[string]*v1.ConfigMap{}, streams: map[string][]*stream{}}
}

func (s *source) get(ctx context.Context, key objectKey) (apiObject, error) {
	s.mu.Lock()
	s.requests = append(s.requests, "get "+key.name)
	fail, hang, value := s.fail, s.hang, s.store[key.name]
	s.mu.Unlock()
	switch {
	case hang:
		<-ctx.Done()
		return nil, ctx.Err()
	case fail != nil:
		return nil, fail
	case value == nil:
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "configmaps"}, key.name)
	}
	return value.DeepCopy(), nil
}

func (s *source) watch(_ context.Context, key objectKey) (watch.Interface, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, "watch "+key.name)
	if s.fail != nil {
		return nil, s.fail
	}
	w := &stream{events: make(chan watch.Event, 100), done: make(chan struct{})}
	if value := s.cache[key.name]; value != nil {
		w.send(watch.Event{Type: watch.Added, Object: value.DeepCopy()})
	}
	s.streams[key.name] = append(s.streams[key.name], w)
	return w, nil
}

// put writes an object; with lag, the watch cache learns nothing of it.
func (s *source) put(name, content string, change ...func(*v1.ConfigMap)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	value := &v1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns", UID: "u-" + types.UID(name), ResourceVersion: strconv.Itoa(s.version)},
		Data:       map[string]string{"k": content},
	}
	for _, f := range change {
		f(value)
	}
	s.store[name] = value
	if s.lag {
		return
	}
	s.cache[name] = value
	for _, w := range s.streams[name] {
		w.send(watch.Event{Type: watch.Modified, Object: value.DeepCopy()})
	}
}

func (s *source) remove(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	value := s.store[name].DeepCopy()
	value.ResourceVersion = strconv.Itoa(s.version)
	delete(s.store, name)
	delete(s.cache, name)
	for _, w := range s.streams[name] {
		w.send(watch.Event{Type: watch.Deleted, Object: value})
	}
}

// cut ends all watches.
func (s *source) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, list := range s.streams {
		for _, w := range list {
			close(w.events)
		}
		delete(s.streams, name)
	}
}

func (s *source) setFail(err error) { s.do(func() { s.fail = err }) }

func (s *source) do(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func (s *source) sent() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

func podWith(uid string, configMaps ...string) *v1.Pod {
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: uid, Namespace: "ns", UID: types.UID(uid)}}
	for _, name := range configMaps {
		pod.Spec.Volumes = append(pod.Spec.Volumes, v1.Volume{Name: name, VolumeSource: v1.VolumeSource{
			ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: name}},
		}})
	}
	return pod
}

// wakes collects what Changed was called with.
type wakes struct {
	mu   sync.Mutex
	pods []string
}

func (w *wakes) changed(uids []types.UID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, uid := range uids {
		w.pods = append(w.pods, string(uid))
	}
}

func (w *wakes) take() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := w.pods
	w.pods = nil
	slices.Sort(out)
	return out
}

// inBubble runs f with a running cache in a synctest bubble.
func inBubble(t *testing.T, f func(t *testing.T, s *source, o *Objects, w *wakes)) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newSource(), &wakes{}
		o := newObjects(s, w.changed)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- o.Run(ctx) }()
		f(t, s, o, w)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// watched waits until objects that were read are watched.
func watched() {
	time.Sleep(2 * restBeforeWatch)
	synctest.Wait()
}

func content(t *testing.T, o *Objects, name string) string {
	t.Helper()
	value, err := o.ConfigMap(t.Context(), "ns", name)
	if apierrors.IsNotFound(err) {
		return "(not found)"
	}
	if err != nil {
		t.Fatalf("ConfigMap %s: %v", name, err)
	}
	return value.Data["k"]
}

func expect[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func TestPodsThatShareAnObjectCostOneReadAndOneWatch(t *testing.T) {
	inBubble(t, func(t *testing.T, s *source, o *Objects, w *wakes) {
		s.put("kube-root-ca.crt", "ca")
		for i := range 110 {
			o.Register(podWith(fmt.Sprintf("p%d", i), "kube-root-ca.crt"))
		}
		expect(t, "content", content(t, o, "kube-root-ca.crt"), "ca")
		watched()
		expect(t, "requests", s.sent(), []string{"get kube-root-ca.crt", "watch kube-root-ca.crt"})
		time.Sleep(10 * time.Minute)
		expect(t, "requests after ten minutes", len(s.sent()), 2)
	})
}

// The watch waits until the pod has been started: one that is over by then
// never costs one, and a change meanwhile is not lost.
func TestTheWatchFollowsTheStart(t *testing.T) {
	inBubble(t, func(t *testing.T, s *source, o *Objects, w *wakes) {
		s.put("a", "1")
		o.Register(podWith("short", "a"))
		time.Sleep(restBeforeWatch / 3)
		o.Unregister("short")
		watched()
		expect(t, "requests", s.sent(), []string{"get a"})
		w.take()

		o.Register(podWith("p", "a"))
		synctest.Wait()
		w.take()
		s.put("a", "2")
		watched()
		expect(t, "woken", w.take(), []string{"p"})
		expect(t, "content", content(t, o, "a"), "2")
	})
	// What a pod waits for is watched at once.
	inBubble(t, func(t *testing.T, s *source, o *Objects, w *wakes) {
		o.Register(podWith("p", "late"))
		synctest.Wait()
		expect(t, "requests", s.sent(), []string{"get late", "watch late"})
	})
}

func TestChangesReachOnlyThePodsThatRefer(t *testing.T) {
	inBubble(t, func(t *testing.T, s *source, o *Objects, w *wakes) {
		s.put("a", "1")
		s.put("b", "1")
		o.Register(podWith("pa", "a"))
		o.Register(podWith("pb", "b"))
		o.Register(podWith("pab", "a", "b"))
		watched()
		w.take()
		s.put("a", "2")
		synctest.Wait()
		expect(t, "woken", w.take(), []string{"pa", "pab"})
		expect(t, "content", content(t, o, "a"), "2")

		s.remove("a")
		synctest.Wait()
		expect(t, "woken by removal", w.take(), []string{"pa", "pab"})
		expect(t, "content", content(t, o, "a"), "(not found)")

		o.Unregister("pa")
		o.Unregister("pab")
		s.put("a", "3")
		synctest.Wait()
		expect(t, "woken after unregistering", len(w.take()), 0)
		expect(t, "objects held", len(o.objects), 1)
	})
}

func TestAPodsNewSpecChangesWhatIsHeld(t *testing.T) {
	inBubble(t, func(t *testing.T, s *source, o *Objects, w *wakes) {
		s.put("old", "1")
		s.put("new", "1")
		o.Register(podWith("p", "old"))
		synctest.Wait()
		o.Register(podWith("p", "new"))
		synctest.Wait()
		expect(t, "objects held", len(o.objects), 1)
		expect(t, "cached", o.Cached(podWith("p", "new")), true)
		o.Unregister("p")
		expect(t, "objects held at the end", len(o.objects), 0)
	})
}

func TestAnObjectThatComesLaterWakesItsPod(t *testing.T) {
	inBubble(t, func(t *testing.T, s *source, o *Objects, w *wakes) {
		pod := podWith("p", "late")
		o.Register(pod)
		synctest.Wait()
		expect(t, "cached", o.Cached(pod), false)
		expect(t, "content", content(t, o, "late"), "(not found)")
		w.take()
		time.Sleep(time.Hour)
		s.put("late", "here")
		synctest.Wait()
		expect(t, "woken", w.take(), []string{"p"})
		expect(t, "cached", o.Cached(pod), true)
	})
}

func TestAnImmutableObjectIsNotWatched(t *testing.T) {
	inBubble(t, func(t *testing.T, s *source, o *Objects, w *wakes) {
		immutable := func(c *v1.ConfigMap) { yes := true; c.Immutable = &yes }
		s.put("fixed", "1", immutable)
		s.put("later-fixed", "1")
		o.Register(podWith("p", "fixed", "later-fixed"))
		watched()
		expect(t, "fixed is watched", slices.Contains(s.sent(), "watch fixed"), false)
		s.put("later-fixed", "2", immutable)
		synctest.Wait()
		before := len(s.sent())
		s.cut()
		time.Sleep(time.Hour)
		expect(t, "requests after it became immutable", len(s.sent()), before)
		expect(t, "content", content(t, o, "later-fixed"), "2")
	})
}

func TestLastKnownIsServedWhileTheServerIsAway(t *testing.T) {
	inBubble(t, func(t *testing.T, s *source, o *Objects, w *wakes) {
		s.put("a", "1")
		o.Register(podWith("p", "a"))
		synctest.Wait()
		w.take()
		s.setFail(errors.New("connection refused"))
		s.cut()
		time.Sleep(time.Hour)
		expect(t, "content", content(t, o, "a"), "1")
		expect(t, "cached", o.Cached(podWith("p", "a")), true)
		if n := len(s.sent()); n > 250 {
			t.Errorf("%d requests in an hour without a server: no back-off", n)
		}
		s.put("a", "2") // written while no watch was open
		s.setFail(nil)
		time.Sleep(time.Minute)
		synctest.Wait()
		expect(t, "content afterwards", content(t, o, "a"), "2")
		expect(t, "woken", w.take(), []string{"p"})
	})
}

func TestErrorsReachThoseWhoWait(t *testing.T) {
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "configmaps"}, "a", errors.New("no relationship found"))
	inBubble(t, func(t *testing.T, s *source, o *Objects, w *wakes) {
		s.put("a", "1")
		s.setFail(forbidden)
		o.Register(podWith("p", "a"))
		if !o.Pending(podWith("p", "a")) {
			t.Error("an object that is being read is not pending")
		}
		// A moment after the binding: the pod must not notice.
		go func() { time.Sleep(60 * time.Millisecond); s.setFail(nil) }()
		expect(t, "content", content(t, o, "a"), "1")
		if o.Pending(podWith("p", "a")) {
			t.Error("an object that was read is pending")
		}
	})
	inBubble(t, func(t *testing.T, s *source, o *Objects, w *wakes) {
		s.setFail(forbidden)
		o.Register(podWith("p", "a"))
		defer func() {
			if synctest.Wait(); o.Pending(podWith("p", "a")) || len(w.pods) == 0 {
				t.Errorf("an object that cannot be read is pending, or nobody was woken: %v", w.pods)
			}
		}()
		start := time.Now()
		_, err := o.ConfigMap(t.Context(), "ns", "a")
		if !apierrors.IsForbidden(err) {
			t.Errorf("error is %v, want the server's", err)
		}
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("told after %v", took)
		}
	})
	inBubble(t, func(t *testing.T, s *source, o *Objects, w *wakes) {
		s.do(func() { s.hang = true })
		o.Register(podWith("p", "a"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := o.ConfigMap(ctx, "ns", "a"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error is %v, want the deadline", err)
		}
	})
}

func TestAStaleWatchCacheDoesNotTurnTimeBack(t *testing.T) {
	inBubble(t, func(t *testing.T, s *source, o *Objects, w *wakes) {
		s.put("a", "old")
		s.do(func() { s.lag = true })
		s.put("a", "new") // the watch cache still has "old"
		o.Register(podWith("p", "a"))
		time.Sleep(2 * time.Second)
		synctest.Wait()
		expect(t, "content", content(t, o, "a"), "new")
		expect(t, "wakes", w.take(), []string{"p"})
	})
	inBubble(t, func(t *testing.T, s *source, o *Objects, w *wakes) {
		// Deleted between reading and watching: no event tells of it.
		s.put("a", "1")
		s.do(func() { delete(s.cache, "a") })
		o.Register(podWith("p", "a"))
		synctest.Wait()
		expect(t, "content", content(t, o, "a"), "1")
		s.do(func() { delete(s.store, "a") })
		watched()
		time.Sleep(firstEventWait)
		synctest.Wait()
		expect(t, "content a second after the watch was opened", content(t, o, "a"), "(not found)")
	})
	inBubble(t, func(t *testing.T, s *source, o *Objects, w *wakes) {
		// etcd restored from a backup: versions begin anew.
		s.do(func() { s.version = 1000 })
		s.put("a", "before")
		o.Register(podWith("p", "a"))
		watched()
		s.do(func() { s.version = 10 })
		s.put("a", "restored")
		synctest.Wait()
		expect(t, "content", content(t, o, "a"), "restored")
	})
}

func TestWhatNobodyRegisteredIsReadDirectly(t *testing.T) {
	inBubble(t, func(t *testing.T, s *source, o *Objects, w *wakes) {
		s.put("a", "1")
		expect(t, "content", content(t, o, "a"), "1")
		expect(t, "requests", s.sent(), []string{"get a"})
		expect(t, "cached without references", o.Cached(podWith("p")), true)
		expect(t, "cached, not registered", o.Cached(podWith("p", "a")), false)
	})
}

// BenchmarkObjectMemory reports what a watched object costs beside its data
// and the connection's buffers.
func BenchmarkObjectMemory(b *testing.B) {
	s := newSource()
	o := newObjects(s, nil)
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error)
	go func() { done <- o.Run(ctx) }()
	b.ReportAllocs()
	for i := range b.N {
		name := strconv.Itoa(i)
		s.put(name, "x")
		o.Register(podWith(name, name))
		if _, err := o.ConfigMap(ctx, "ns", name); err != nil {
			b.Fatal(err)
		}
	}
	cancel()
	<-done
}
