package simulation

import (
	"maps"
	"testing"
	"time"

	"kubelet/internal/cri/critest"
)

// What a pod costs: each call to the runtime and each request to the API
// server between its creation and its end is one that somebody waits for.
func TestCostOfAPod(t *testing.T) {
	inWorld(t, func(w *world) {
		w.runtime.Script("pod/main", critest.Behavior{TermAfter: 500 * time.Millisecond})
		time.Sleep(31 * time.Second) // the first list is over
		base := w.runtime.Counts()
		cost := func() map[string]int {
			now := w.runtime.Counts()
			d := map[string]int{}
			for call, n := range now {
				if n != base[call] {
					d[call] = n - base[call]
				}
			}
			base = now
			return d
		}
		// within holds that changes are as many as wanted, and reads not more.
		within := func(what string, want map[string]int) {
			w.t.Helper()
			for call, n := range cost() {
				switch call {
				case "ListPodSandbox", "ListContainers", "PodSandboxStatus", "ContainerStatus":
					if n > want[call] {
						w.t.Errorf("%s takes %d calls of %s, want at most %d", what, n, call, want[call])
					}
				default:
					if n != want[call] {
						w.t.Errorf("%s takes %d calls of %s, want %d", what, n, call, want[call])
					}
				}
			}
		}
		pod := w.api.create(newPod("pod"))
		w.must(time.Minute, w.podRuns("pod"))
		time.Sleep(10 * time.Second)
		within("the start", map[string]int{
			"RunPodSandbox": 1, "CreateContainer": 1, "StartContainer": 1, "ImageStatus": 1,
			// After each of the two steps, what it made is read.
			"PodSandboxStatus": 1, "ContainerStatus": 1,
		})
		if n := w.api.patched(pod.UID); n > 2 {
			w.t.Errorf("the start takes %d writes of the status, want at most 2", n)
		}
		if n := w.api.counted("get"); n != 0 {
			w.t.Errorf("the start reads the object %d times", n)
		}
		// Scheduled is the scheduler's; Pulled, Created, Started are ours.
		if n := w.api.counted("event"); n != 3 {
			w.t.Errorf("the start takes %d events, want 3", n)
		}

		w.api.delete("pod", nil)
		w.must(time.Minute, w.podGone("pod"))
		time.Sleep(5 * time.Second)
		within("the end", map[string]int{
			"StopContainer": 1, "StopPodSandbox": 1, "RemovePodSandbox": 1,
			// That the sandbox stopped is read; that everything is gone, listed.
			// The runtime is asked about each process that ended until it knows.
			"ListPodSandbox": 3, "ListContainers": 3, "PodSandboxStatus": 2, "ContainerStatus": 1,
		})
		if n := w.api.patched(pod.UID); n > 3 {
			w.t.Errorf("a pod's life takes %d writes of the status, want at most 3", n)
		}
		if n := w.writes(); n != w.api.patched(pod.UID)+1 {
			w.t.Errorf("%d writes of the status and %d in all, want one more, the deletion", w.api.patched(pod.UID), n)
		}
		if n := w.api.counted("event"); n != 4 {
			w.t.Errorf("a pod's life takes %d events, want 4", n)
		}
	})
}

// Of a hundred pods that start at once, the API server hears little enough
// that the default limit of 50 requests a second is never what they wait for.
func TestCostOfABatch(t *testing.T) {
	inWorld(t, func(w *world) {
		all := names("pod", 100)
		for _, name := range all {
			w.api.create(newPod(name, "a", "b"))
		}
		took := elapsed(func() { w.must(time.Minute, w.podRuns(all...)) })
		if n := w.writes(); float64(n)/took.Seconds() > 50 || n > 400 {
			w.t.Errorf("%d writes to the API server in %v", n, took)
		}
		w.must(time.Minute, w.settled)
	})
}

// At rest a node asks the runtime for one list every 30 seconds, and the API
// server for nothing.
func TestCostOfRest(t *testing.T) {
	inWorld(t, func(w *world) {
		all := names("pod", 50)
		for _, name := range all {
			w.api.create(newPod(name))
		}
		w.must(time.Minute, w.podRuns(all...))
		w.must(time.Minute, w.settled)
		time.Sleep(time.Minute)
		before, calls := w.runtime.Counts(), maps.Clone(w.api.calls)
		time.Sleep(10 * time.Minute)
		for call, n := range w.runtime.Counts() {
			n -= before[call]
			want := 0
			if call == "ListPodSandbox" || call == "ListContainers" {
				want = 20
			}
			if n != want {
				w.t.Errorf("%s was called %d times in 10 minutes, want %d", call, n, want)
			}
		}
		for call := range w.api.calls {
			if n := w.api.counted(call) - calls[call]; n != 0 && call != "watch" {
				w.t.Errorf("the API server got %d requests to %s", n, call)
			}
		}
	})
}
