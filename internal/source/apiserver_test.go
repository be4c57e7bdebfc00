package source

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"kubelet/internal/podspec"
)

// api is an API server's list and watch of pods, in memory.
type api struct {
	mu      sync.Mutex
	version int
	pods    map[string]*v1.Pod
	watch   *watch.FakeWatcher
	down    error
}

// IsWatchListSemanticsUnSupported keeps the reflector to list and watch.
func (a *api) IsWatchListSemanticsUnSupported() bool { return true }

func (a *api) List(metav1.ListOptions) (runtime.Object, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.down != nil {
		return nil, a.down
	}
	list := &v1.PodList{ListMeta: metav1.ListMeta{ResourceVersion: fmt.Sprint(a.version)}}
	for _, p := range a.pods {
		list.Items = append(list.Items, *p.DeepCopy())
	}
	return list, nil
}

func (a *api) Watch(metav1.ListOptions) (watch.Interface, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.down != nil {
		return nil, a.down
	}
	a.watch = watch.NewFake()
	return a.watch, nil
}

func (a *api) put(name, image string) *v1.Pod {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.version++
	p := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("uid-" + name), ResourceVersion: fmt.Sprint(a.version), ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "x"}}},
		Spec:       v1.PodSpec{Containers: []v1.Container{{Name: "c", Image: image}}},
	}
	if a.pods == nil {
		a.pods = map[string]*v1.Pod{}
	}
	a.pods[name] = p
	return p.DeepCopy()
}

func (a *api) drop(name string) *v1.Pod {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.pods[name]
	delete(a.pods, name)
	a.version++
	return p
}

func (a *api) watcher() *watch.FakeWatcher {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.watch
}

// fall ends the watch and refuses everything until it is up again.
func (a *api) fall(down error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.down = down
	if down != nil {
		a.watch.Stop()
	}
}

func TestAPIPodsAreListedAndWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &api{}
		server.put("a", "img:1")
		server.put("b", "img:1")
		s := newSink()
		gate := make(chan struct{})
		source, err := NewAPI(APIConfig{ListWatch: server, Sink: s, Gate: func(ctx context.Context) error {
			select {
			case <-gate:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- source.Run(ctx) }()
		time.Sleep(time.Hour)
		if s.count() != 0 {
			t.Error("pods were taken before the node was known")
		}
		close(gate)
		synctest.Wait()
		expectPods(t, s, "a img:1, b img:1")
		if s.count() != 1 || s.get("uid-a").ManagedFields != nil {
			t.Errorf("%d full sets, managed fields %v", s.count(), s.get("uid-a").ManagedFields)
		}
		server.watcher().Add(server.put("c", "img:1"))
		server.watcher().Modify(server.put("a", "img:2"))
		server.watcher().Delete(server.drop("b"))
		synctest.Wait()
		expectPods(t, s, "a img:2, c img:1")

		server.fall(errors.New("no route to host"))
		time.Sleep(10 * time.Minute)
		expectPods(t, s, "a img:2, c img:1") // while it is away
		server.put("d", "img:1")
		server.drop("a")
		server.fall(nil)
		time.Sleep(2 * longestPause) // with its jitter
		synctest.Wait()
		expectPods(t, s, "c img:1, d img:1")

		time.Sleep(time.Hour)
		server.fall(syscall.ECONNREFUSED)
		time.Sleep(10 * time.Minute)
		server.fall(nil)
		time.Sleep(2 * longestPause)
		synctest.Wait()
		server.watcher().Add(server.put("e", "img:1"))
		synctest.Wait()
		expectPods(t, s, "c img:1, d img:1, e img:1")
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestAPIEndsWhileItWaitsForTheNode(t *testing.T) {
	for _, fails := range []bool{false, true} {
		source, err := NewAPI(APIConfig{ListWatch: &api{}, Sink: newSink(), Gate: func(ctx context.Context) error {
			if fails {
				return errors.New("no node")
			}
			<-ctx.Done()
			return ctx.Err()
		}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		if !fails {
			cancel()
		}
		if err := source.Run(ctx); (err != nil) != fails {
			t.Errorf("fails %v: %v", fails, err)
		}
		cancel()
	}
}

// Static pods may be allowed more: nobody becomes one by an annotation.
func TestAPIPodsAreNotBelievedToBeStatic(t *testing.T) {
	for _, c := range []struct {
		annotations map[string]string
		static      bool
		source      string
	}{
		{map[string]string{podspec.SourceAnnotation: "file"}, false, "api"},
		{map[string]string{podspec.SourceAnnotation: "http", "other": "x"}, false, "api"},
		{map[string]string{podspec.SourceAnnotation: "file", podspec.MirrorAnnotation: "hash"}, false, "file"}, // a mirror stays one
		{nil, false, ""},
	} {
		pod, ok := strip(&v1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: c.annotations}})
		if !ok || podspec.IsStatic(pod) != c.static || pod.Annotations[podspec.SourceAnnotation] != c.source {
			t.Errorf("%v: static %t, annotations %v", c.annotations, podspec.IsStatic(pod), pod.Annotations)
		}
	}
}

func TestNodeSelector(t *testing.T) {
	if s := NodeSelector("n").String(); s != "spec.nodeName=n" {
		t.Error(s)
	}
}
