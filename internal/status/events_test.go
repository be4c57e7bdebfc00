package status

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
)

func newTestRecorder(t *testing.T, a *api) *Recorder {
	t.Helper()
	config := RecorderConfig{NodeName: "n1", Queue: 20, Remember: 5}
	if a != nil {
		config.Client = a
	}
	r, err := NewRecorder(config)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func eventPod() *v1.Pod {
	p := apiPod("web", "u1")
	p.Spec.Containers = []v1.Container{{Name: "app"}}
	p.Spec.InitContainers = []v1.Container{{Name: "init"}}
	return p
}

func (a *api) theEvent(t *testing.T) *v1.Event {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.events) != 1 {
		t.Fatalf("%d events", len(a.events))
	}
	for _, e := range a.events {
		return e
	}
	return nil
}

func TestEventsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI()
		r := newTestRecorder(t, a)
		run(t, r.Run)
		for range 3 {
			r.Event(eventPod(), "app", v1.EventTypeWarning, "BackOff", "Back-off restarting")
			time.Sleep(time.Second)
		}
		e := a.theEvent(t)
		if e.Count != 3 || e.LastTimestamp.Sub(e.FirstTimestamp.Time) != 2*time.Second {
			t.Errorf("count %d, from %v to %v", e.Count, e.FirstTimestamp, e.LastTimestamp)
		}
		o := e.InvolvedObject
		if o.Kind != "Pod" || o.UID != "u1" || o.FieldPath != "spec.containers{app}" || o.APIVersion != "v1" {
			t.Errorf("about %+v", o)
		}
		if e.Source.Component != "kubelet" || e.Source.Host != "n1" || e.ReportingController != "kubelet" || e.Namespace != "default" {
			t.Errorf("from %+v", e.Source)
		}
		wantCalls(t, a, "event BackOff", "count web.", "count web.")
		// The object expires on the server.
		a.set(func() { clear(a.events) })
		r.Event(eventPod(), "app", v1.EventTypeWarning, "BackOff", "Back-off restarting")
		synctest.Wait()
		if got := a.theEvent(t).Count; got != 4 {
			t.Errorf("count %d", got)
		}
	})
}

func TestEventFloodIsHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI()
		r := newTestRecorder(t, a)
		run(t, r.Run)
		for i := range 200 {
			r.Event(eventPod(), "app", v1.EventTypeWarning, "Failed", fmt.Sprintf("failure %d", i))
			time.Sleep(time.Second)
		}
		if n := len(a.took()); n > 30 {
			t.Errorf("%d requests for one pod", n)
		}
		combined := false
		a.set(func() {
			for _, e := range a.events {
				combined = combined || strings.HasPrefix(e.Message, "(combined from similar events)")
			}
		})
		if !combined {
			t.Error("similar events are not combined")
		}
	})
}

// While the server is away events wait, as many as there is room for; nobody
// who records one waits.
func TestEventsWhileTheServerIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI()
		a.fail = func(string) error { return errAway }
		r := newTestRecorder(t, a)
		run(t, r.Run)
		for i := range 100 {
			r.Event(apiPod(fmt.Sprintf("p%d", i), fmt.Sprintf("u%d", i)), "", v1.EventTypeNormal, "Pulled", "x")
		}
		time.Sleep(2 * time.Second)
		a.set(func() { a.fail = nil; a.calls = nil })
		time.Sleep(time.Minute)
		if n := len(a.took()); n < 20 || n > 22 {
			t.Errorf("%d events arrived", n)
		}
	})
}

func TestHangingServerDropsEventsInTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI()
		a.latency = time.Hour
		r := newTestRecorder(t, a)
		stop := run(t, r.Run)
		r.Event(eventPod(), "", v1.EventTypeNormal, "Pulled", "first")
		time.Sleep(20 * time.Minute)
		if n := len(a.took()); n != maxEventTries {
			t.Errorf("%d tries", n)
		}
		a.set(func() { a.latency = 0 })
		r.Event(eventPod(), "", v1.EventTypeNormal, "Pulled", "second")
		synctest.Wait()
		if got := a.theEvent(t).Message; got != "second" {
			t.Errorf("recorded %q", got)
		}
		stop()
	})
}

func TestStandaloneRemembersEvents(t *testing.T) {
	r := newTestRecorder(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Run(ctx); err != nil {
		t.Fatal(err)
	}
	for i := range 7 {
		r.Event(eventPod(), "init", v1.EventTypeNormal, "Created", fmt.Sprint(i))
	}
	r.NodeEvent(v1.EventTypeNormal, "Starting", "hello")
	got := r.Recent("u1")
	if len(got) != 4 || got[0].Message != "3" || got[3].Message != "6" || got[0].Container != "init" {
		t.Errorf("remembered %+v", got)
	}
	if got := r.Recent(""); len(got) != 1 || got[0].Reason != "Starting" {
		t.Errorf("remembered of the node %+v", got)
	}
}

func TestEventParts(t *testing.T) {
	pod := eventPod()
	for container, want := range map[string]string{
		"": "", "app": "spec.containers{app}", "init": "spec.initContainers{init}", "unknown": "spec.containers{unknown}",
	} {
		if got := fieldPath(pod, container); got != want {
			t.Errorf("%q: %q", container, got)
		}
	}
	long := strings.Repeat("é", 1000)
	if got := cut(long, maxEventMessage); len(got) != 1024 || !strings.HasPrefix(long, got) {
		t.Errorf("%d bytes", len(got))
	}
	if got := cut("x"+long, maxEventMessage); len(got) != 1023 {
		t.Errorf("%d bytes", len(got))
	}
}
