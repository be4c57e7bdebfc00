package status

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kubelet/internal/podspec"
)

func apiPod(name, uid string) *v1.Pod {
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID(uid)},
		Status:     v1.PodStatus{Phase: v1.PodPending},
	}
}

func staticPod(name, hash string) *v1.Pod {
	p := apiPod(name, hash)
	p.Status = v1.PodStatus{}
	p.Annotations = map[string]string{podspec.SourceAnnotation: podspec.SourceFile, podspec.HashAnnotation: hash}
	return p
}

func running(restarts int32) v1.PodStatus {
	return v1.PodStatus{
		Phase: v1.PodRunning,
		Conditions: []v1.PodCondition{
			{Type: v1.PodReady, Status: v1.ConditionTrue},
		},
		ContainerStatuses: []v1.ContainerStatus{{
			Name: "app", ContainerID: fmt.Sprintf("containerd://c%d", restarts), RestartCount: restarts, Ready: true,
			State: v1.ContainerState{Running: &v1.ContainerStateRunning{StartedAt: metav1.Unix(1000+int64(restarts), 0)}},
		}},
	}
}

func ended(phase v1.PodPhase, code int32) v1.PodStatus {
	s := running(0)
	s.Phase = phase
	s.Conditions[0].Status = v1.ConditionFalse
	s.ContainerStatuses[0].Ready = false
	s.ContainerStatuses[0].State = v1.ContainerState{Terminated: &v1.ContainerStateTerminated{ExitCode: code, ContainerID: "containerd://c0"}}
	return s
}

func newTestWriter(t *testing.T, a *api, mirrors map[podspec.Name]*v1.Pod) *Writer {
	t.Helper()
	w, err := NewWriter(WriterConfig{Client: a, Mirror: func(n podspec.Name) *v1.Pod {
		a.mu.Lock()
		defer a.mu.Unlock()
		return mirrors[n]
	}})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func wantCalls(t *testing.T, a *api, prefixes ...string) {
	t.Helper()
	calls := a.took()
	ok := len(calls) == len(prefixes)
	for i := 0; ok && i < len(calls); i++ {
		ok = strings.HasPrefix(calls[i], prefixes[i])
	}
	if !ok {
		t.Errorf("calls:\n%s\nwant:\n%s", strings.Join(calls, "\n"), strings.Join(prefixes, "\n"))
	}
}

func TestAStatusIsOneSmallPatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI(apiPod("web", "u1"))
		pod := a.edit("default", "web", func(p *v1.Pod) {
			p.Status.Conditions = []v1.PodCondition{{Type: "example.com/gate", Status: v1.ConditionTrue}}
		})
		w := newTestWriter(t, a, nil)
		run(t, w.Run)
		w.Publish(pod, running(0))
		if err := w.Accepted(t.Context(), "u1"); err != nil {
			t.Fatal(err)
		}
		wantCalls(t, a, "patch web")
		got := a.get("default", "web").Status
		if got.Phase != v1.PodRunning || len(got.Conditions) != 2 || !got.ContainerStatuses[0].Ready {
			t.Errorf("the object has %+v", got)
		}
		// The same again, and the copy that the watch brings back.
		w.Publish(pod, running(0))
		w.Observe(a.get("default", "web"))
		w.Publish(a.get("default", "web"), running(0))
		synctest.Wait()
		wantCalls(t, a)
		// Only what changed is sent.
		w.Publish(pod, running(1))
		synctest.Wait()
		calls := a.took()
		if len(calls) != 1 || strings.Contains(calls[0], "phase") || !strings.Contains(calls[0], `"restartCount":1`) {
			t.Errorf("calls %q", calls)
		}
	})
}

func TestStatusesAreCoalesced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI(apiPod("web", "u1"))
		a.latency = time.Second
		pod := a.get("default", "web")
		w := newTestWriter(t, a, nil)
		run(t, w.Run)
		for i := range int32(100) {
			w.Publish(pod, running(i))
			time.Sleep(30 * time.Millisecond)
		}
		if err := w.Accepted(t.Context(), "u1"); err != nil {
			t.Fatal(err)
		}
		if n := len(a.took()); n > 5 {
			t.Errorf("%d writes in 4 s of a server that takes 1 s", n)
		}
		if got := a.get("default", "web").Status.ContainerStatuses[0].RestartCount; got != 99 {
			t.Errorf("the object has restart count %d", got)
		}
	})
}

func TestWritesAreBoundedAndOnePerPod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI()
		w := newTestWriter(t, a, nil)
		a.latency = time.Second
		for i := range 50 {
			p := a.put(apiPod(fmt.Sprintf("p%d", i), fmt.Sprintf("u%d", i)))
			w.Publish(p, running(0))
			w.Publish(p, running(1))
		}
		run(t, w.Run)
		for i := range 50 {
			if err := w.Accepted(t.Context(), types.UID(fmt.Sprintf("u%d", i))); err != nil {
				t.Fatal(err)
			}
		}
		a.set(func() {
			if a.maxFlight != 8 {
				t.Errorf("%d writes at once", a.maxFlight)
			}
		})
		if n := len(a.took()); n != 50 {
			t.Errorf("%d writes for 50 pods", n)
		}
	})
}

// The server is away for an hour. The status arrives when it is back, and all
// pods' at once rather than each at the end of its own delay.
func TestServerAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI(apiPod("a", "ua"), apiPod("b", "ub"))
		a.fail = func(string) error { return errAway }
		w := newTestWriter(t, a, nil)
		run(t, w.Run)
		w.Publish(a.get("default", "a"), running(0))
		w.Publish(a.get("default", "b"), running(0))
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if err := w.Accepted(ctx, "ua"); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("accepted by nobody: %v", err)
		}
		if n := len(a.took()); n < 100 || n > 1000 {
			t.Errorf("%d attempts in an hour", n)
		}
		w.Publish(a.get("default", "a"), ended(v1.PodFailed, 1))
		a.set(func() { a.fail = nil })
		back := time.Now()
		for _, uid := range []types.UID{"ua", "ub"} {
			if err := w.Accepted(t.Context(), uid); err != nil {
				t.Fatal(err)
			}
		}
		if d := time.Since(back); d > 45*time.Second {
			t.Errorf("accepted after %v", d)
		}
		if got := a.get("default", "a").Status.Phase; got != v1.PodFailed {
			t.Errorf("the object has phase %s", got)
		}
		// With a hint it takes no time at all.
		a.set(func() { a.fail = func(string) error { return errAway } })
		w.Publish(a.get("default", "b"), running(1))
		time.Sleep(time.Hour)
		a.set(func() { a.fail = nil })
		w.Retry()
		back = time.Now()
		if err := w.Accepted(t.Context(), "ub"); err != nil || time.Since(back) > 0 {
			t.Errorf("%v after %v", err, time.Since(back))
		}
	})
}

// The patch arrives and its answer gets lost: the object is read before
// anything is patched again.
func TestLostAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI(apiPod("web", "u1"))
		lost := false
		a.late = func(string) error {
			if lost {
				return nil
			}
			lost = true
			return errAway
		}
		w := newTestWriter(t, a, nil)
		run(t, w.Run)
		w.Publish(a.get("default", "web"), running(0))
		if err := w.Accepted(t.Context(), "u1"); err != nil {
			t.Fatal(err)
		}
		wantCalls(t, a, "patch web", "get web")
	})
}

func TestGone(t *testing.T) {
	for _, c := range []struct {
		name  string
		after func(a *api, w *Writer)
		calls []string
	}{
		{"deleted", func(a *api, _ *Writer) { a.set(func() { delete(a.pods, "default/web") }) }, []string{"patch web"}},
		{"made again", func(a *api, _ *Writer) { a.put(apiPod("web", "u2")) }, []string{"patch web", "get web"}},
		{"the watch says so", func(a *api, w *Writer) {
			a.set(func() { a.fail = func(string) error { return errAway } })
			time.AfterFunc(time.Minute, func() { w.ObserveDeleted(apiPod("web", "u1")) })
		}, nil},
		{"forgotten", func(a *api, w *Writer) {
			a.set(func() { a.fail = func(string) error { return errAway } })
			time.AfterFunc(time.Minute, func() { w.Forget("u1") })
		}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newAPI(apiPod("web", "u1"))
				w := newTestWriter(t, a, nil)
				run(t, w.Run)
				pod := a.get("default", "web")
				c.after(a, w)
				w.Publish(pod, running(0))
				if err := w.Accepted(t.Context(), "u1"); err != nil {
					t.Fatal(err)
				}
				if c.calls != nil {
					wantCalls(t, a, c.calls...)
					w.Publish(pod, running(1))
					if err := w.Accepted(t.Context(), "u1"); err != nil {
						t.Fatal(err)
					}
					wantCalls(t, a)
				}
				if p := a.get("default", "web"); p != nil && p.UID == "u2" && p.Status.Phase != v1.PodPending {
					t.Error("another pod's status was written")
				}
			})
		})
	}
}

// Somebody overwrites the status: it is put right, and what belongs to others
// is left alone.
func TestForeignWritesArePutRight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI(apiPod("web", "u1"))
		w := newTestWriter(t, a, nil)
		run(t, w.Run)
		w.Publish(a.get("default", "web"), running(0))
		synctest.Wait()
		a.took()
		w.Observe(a.edit("default", "web", func(p *v1.Pod) {
			p.Status.Message = "hacked"
			p.Status.Conditions = append(p.Status.Conditions, v1.PodCondition{Type: "example.com/x", Status: v1.ConditionTrue})
			p.Status.ResourceClaimStatuses = []v1.PodResourceClaimStatus{{Name: "gpu"}}
		}))
		synctest.Wait()
		wantCalls(t, a, `patch web {"status":{"message":null}}`)
		got := a.get("default", "web").Status
		if len(got.Conditions) != 2 || len(got.ResourceClaimStatuses) != 1 {
			t.Errorf("the object has %+v", got)
		}
		// Labels are nobody's business here.
		w.Observe(a.edit("default", "web", func(p *v1.Pod) { p.Labels = map[string]string{"a": "b"} }))
		synctest.Wait()
		wantCalls(t, a)
	})
}

func TestStatusesNeverGoBackwards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI(apiPod("web", "u1"))
		w := newTestWriter(t, a, nil)
		run(t, w.Run)
		pod := a.get("default", "web")
		w.Publish(pod, running(3))
		w.Publish(pod, running(2))
		if s, _ := w.Get("u1"); s.ContainerStatuses[0].RestartCount != 3 {
			t.Errorf("restart count %d", s.ContainerStatuses[0].RestartCount)
		}
		final := ended(v1.PodSucceeded, 0)
		final.ContainerStatuses[0].RestartCount = 3
		w.Publish(pod, final)
		back := running(0)
		back.ContainerStatuses[0].RestartCount = 3
		w.Publish(pod, back)
		if err := w.Accepted(t.Context(), "u1"); err != nil {
			t.Fatal(err)
		}
		got := a.get("default", "web").Status
		if got.Phase != v1.PodSucceeded || got.ContainerStatuses[0].State.Terminated == nil {
			t.Errorf("the object has %+v", got)
		}
	})
}

// A kubelet that was started again publishes less than the object has.
func TestObjectAheadOfTheStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pod := apiPod("web", "u1")
		pod.Status = ended(v1.PodFailed, 1)
		pod.Status.Reason = "Evicted"
		a := newAPI(pod)
		w := newTestWriter(t, a, nil)
		run(t, w.Run)
		w.Publish(a.get("default", "web"), running(0))
		if err := w.Accepted(t.Context(), "u1"); err != nil {
			t.Fatal(err)
		}
		got := a.get("default", "web").Status
		if got.Phase != v1.PodFailed || got.Reason != "Evicted" {
			t.Errorf("the object has %s %s", got.Phase, got.Reason)
		}
	})
}

func TestWaitingAfterTheEndIsNoStepBack(t *testing.T) {
	before := ended(v1.PodRunning, 1)
	after := ended(v1.PodRunning, 1)
	c := &after.ContainerStatuses[0]
	c.LastTerminationState, c.State = c.State, v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}
	if _, violations := forward(before, after); violations != nil {
		t.Errorf("crash loop: %q", violations)
	}
	if _, violations := forward(before, running(1)); violations != nil {
		t.Errorf("restart: %q", violations)
	}
	lost := after
	lost.ContainerStatuses = slices.Clone(after.ContainerStatuses)
	lost.ContainerStatuses[0].LastTerminationState = v1.ContainerState{}
	if fixed, violations := forward(before, lost); len(violations) != 1 || fixed.ContainerStatuses[0].State.Terminated == nil {
		t.Errorf("the end was lost: %q", violations)
	}
	if lost.ContainerStatuses[0].State.Terminated != nil {
		t.Error("the input was changed")
	}
}

func TestStaticPodsWriteToTheirMirror(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI()
		mirrors := map[podspec.Name]*v1.Pod{}
		w := newTestWriter(t, a, mirrors)
		run(t, w.Run)
		pod := staticPod("etcd", "h1")
		w.Publish(pod, running(0))
		if err := w.Accepted(t.Context(), "h1"); err != nil { // at once, whatever the API server does
			t.Fatal(err)
		}
		synctest.Wait()
		wantCalls(t, a)

		mirror := func(uid string) *v1.Pod {
			m := pod.DeepCopy()
			m.UID = types.UID(uid)
			m.Annotations[podspec.MirrorAnnotation] = "h1"
			m.Status = ended(v1.PodFailed, 1) // of an earlier life
			m = a.put(m)
			a.mu.Lock()
			defer a.mu.Unlock()
			mirrors["etcd_default"] = m
			return m
		}
		w.Observe(mirror("m1"))
		synctest.Wait()
		wantCalls(t, a, "patch etcd")
		old := staticPod("etcd", "h0") // is being ended, and has no mirror any more
		w.Publish(old, ended(v1.PodFailed, 1))
		w.Forget("h0")
		w.Publish(pod, running(0))
		synctest.Wait()
		wantCalls(t, a)
		if got := a.get("default", "etcd").Status.Phase; got != v1.PodRunning {
			t.Errorf("the mirror has phase %s", got)
		}
		// It is made again: the new one gets the status too.
		w.ObserveDeleted(mirrors["etcd_default"])
		w.Observe(mirror("m2"))
		synctest.Wait()
		wantCalls(t, a, "patch etcd")
		if err := w.DeleteObject(t.Context(), pod); err != nil {
			t.Fatal(err)
		}
		wantCalls(t, a)
	})
}

func TestStandalone(t *testing.T) {
	w, err := NewWriter(WriterConfig{})
	if err != nil {
		t.Fatal(err)
	}
	pod := staticPod("web", "h1")
	w.Publish(pod, running(0))
	if err := w.Accepted(t.Context(), "h1"); err != nil {
		t.Fatal(err)
	}
	if s, ok := w.Get("h1"); !ok || s.Phase != v1.PodRunning {
		t.Error("the status is not kept")
	}
	if err := w.DeleteObject(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	w.Forget("h1")
	if _, ok := w.Get("h1"); ok {
		t.Error("the status is not forgotten")
	}
}

func TestDeleteObject(t *testing.T) {
	a := newAPI(apiPod("web", "u1"))
	w := newTestWriter(t, a, nil)
	if err := w.DeleteObject(t.Context(), apiPod("web", "other")); err != nil || a.get("default", "web") == nil {
		t.Errorf("another pod's object: %v", err)
	}
	for range 2 {
		if err := w.DeleteObject(t.Context(), apiPod("web", "u1")); err != nil {
			t.Error(err)
		}
	}
	wantCalls(t, a, "delete web grace=0", "delete web grace=0", "delete web grace=0")
	a.fail = func(string) error { return errAway }
	if err := w.DeleteObject(t.Context(), apiPod("web", "u1")); err == nil {
		t.Error("deleted at a server that is away")
	}
}

// A server that hangs holds up its own pods only for the call's deadline.
func TestHangingServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI(apiPod("web", "u1"))
		a.latency = time.Hour
		w := newTestWriter(t, a, nil)
		stop := run(t, w.Run)
		w.Publish(a.get("default", "web"), running(0))
		time.Sleep(5 * time.Second)
		a.set(func() { a.latency = 0 })
		begin := time.Now()
		if err := w.Accepted(t.Context(), "u1"); err != nil || time.Since(begin) > 6*time.Second {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		a.set(func() { a.latency = time.Hour })
		w.Publish(a.get("default", "web"), running(1))
		synctest.Wait()
		begin = time.Now()
		stop()
		if time.Since(begin) > 0 {
			t.Errorf("stopped after %v", time.Since(begin))
		}
	})
}

func TestThrottledServerIsGivenItsTime(t *testing.T) {
	if d := backoff(1, apierrors.NewTooManyRequests("busy", 20)); d < 10*time.Second {
		t.Errorf("tried again after %v", d)
	}
	for failures := 1; failures < 100; failures++ {
		if d := backoff(failures, errAway); d <= 0 || d > 45*time.Second {
			t.Fatalf("after %d failures: %v", failures, d)
		}
	}
}

func BenchmarkPublishUnchanged(b *testing.B) {
	a := newAPI(apiPod("web", "u1"))
	w, _ := NewWriter(WriterConfig{Client: a, Mirror: func(podspec.Name) *v1.Pod { return nil }})
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	go w.Run(ctx)
	pod := a.get("default", "web")
	w.Publish(pod, running(0))
	_ = w.Accepted(ctx, "u1")
	status := running(0)
	b.ReportAllocs()
	for b.Loop() {
		w.Publish(pod, status)
	}
}

func TestPrevious(t *testing.T) {
	pod := staticPod("etcd", "h1")
	mirror := pod.DeepCopy()
	mirror.Annotations[podspec.MirrorAnnotation] = "h1"
	mirror.Status = running(2)
	if got := Previous(pod, mirror); got.Phase != v1.PodRunning {
		t.Errorf("phase %q", got.Phase)
	}
	if got := Previous(apiPod("web", "u"), nil); got.Phase != v1.PodPending {
		t.Errorf("phase %q", got.Phase)
	}
	other := mirror.DeepCopy()
	other.Annotations[podspec.MirrorAnnotation] = "h0"
	final := mirror.DeepCopy()
	final.Status.Phase = v1.PodFailed
	for name, m := range map[string]*v1.Pod{"of another manifest": other, "final": final, "none": nil} {
		if got := Previous(pod, m); got.Phase != "" {
			t.Errorf("%s: phase %q", name, got.Phase)
		}
	}
}
