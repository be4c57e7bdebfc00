package simulation

import (
	"fmt"
	"testing"
	"time"

	"kubelet/internal/cri/critest"
)

// One container whose status never comes: the other 109 pods of the node
// start, crash, are restarted, stop and are reported as if nothing were, and
// the node is well.
func TestOneHungContainerStatus(t *testing.T) {
	inWorld(t, func(w *world) {
		hung := w.runtime.Inject(critest.Match{Method: "ContainerStatus", Pod: "sick-000"}, critest.Fault{Hang: true})
		all := names("well", 109)
		w.api.create(newPod("sick-000"))
		for _, name := range all {
			w.api.create(newPod(name))
		}
		took := elapsed(func() { w.must(time.Minute, w.podRuns(all...)) })
		if took > 20*time.Second {
			w.t.Errorf("109 pods took %v to run", took)
		}
		if hung.Hits() == 0 {
			w.t.Error("nothing hung")
		}

		w.runtime.Exit("well-007", "main", 1, "")
		if took := elapsed(func() { w.must(time.Minute, w.podRuns("well-007")) }); took > time.Second {
			w.t.Errorf("a container that crashed took %v to run again", took)
		}
		if c := w.api.get("well-007").Status.ContainerStatuses[0]; c.RestartCount != 1 {
			w.t.Errorf("its restart count is told to be %d", c.RestartCount)
		}

		stopped := all[50:]
		for _, name := range stopped {
			w.api.delete(name, nil)
		}
		if took := elapsed(func() { w.must(time.Minute, w.podGone(stopped...)) }); took > 10*time.Second {
			w.t.Errorf("59 pods took %v to go", took)
		}
		for range 20 {
			time.Sleep(time.Minute)
			if err := w.current().pleg.Healthy(); err != nil {
				w.t.Fatal(err)
			}
		}

		hung.Release()
		w.must(2*time.Minute, w.podRuns("sick-000"))
		w.must(time.Minute, w.settled)
	})
}

// A pod whose every call hangs is told about, and can be deleted by force once
// the runtime answers again; the others do not notice.
func TestOneHungPod(t *testing.T) {
	for _, method := range []string{"RunPodSandbox", "CreateContainer", "StartContainer", "PodSandboxStatus", "ListContainers", "ListPodSandbox", "StopContainer", "StopPodSandbox"} {
		t.Run(method, func(t *testing.T) {
			inWorld(t, func(w *world) {
				uid := string(w.api.create(newPod("sick-000")).UID)
				hung := w.runtime.Inject(critest.Match{Method: method, Pod: uid}, critest.Fault{Hang: true})
				all := names("well", 30)
				for _, name := range all {
					w.api.create(newPod(name))
				}
				w.must(20*time.Second, w.podRuns(all...))
				w.api.delete("sick-000", nil)
				time.Sleep(10 * time.Minute)
				for _, name := range all[:10] {
					w.api.delete(name, nil)
				}
				w.must(10*time.Second, w.podGone(all[:10]...))
				if err := w.current().pleg.Healthy(); err != nil {
					w.t.Error(err)
				}
				hung.Release()
				w.must(5*time.Minute, w.podGone("sick-000"))
				w.must(time.Minute, w.settled)
			})
		})
	}
}

// A runtime that answers nothing at all is the node's business.
func TestHungRuntime(t *testing.T) {
	inWorld(t, func(w *world) {
		w.api.create(newPod("pod"))
		w.must(time.Minute, w.podRuns("pod"))
		hung := w.runtime.Inject(critest.Match{}, critest.Fault{Hang: true})
		time.Sleep(4 * time.Minute)
		if w.current().pleg.Healthy() == nil {
			w.t.Error("the node is said to be well")
		}
		hung.Release()
		w.must(time.Minute, func() error { return w.current().pleg.Healthy() })
		w.must(time.Minute, w.settled)
	})
}

// Fifty pods wait for a network that a pod of the host's network has yet to
// set up. It comes last, and does not stand in line behind them.
func TestNetworkAgentBehindPodsThatNeedIt(t *testing.T) {
	inWorld(t, func(w *world) {
		waiting := names("ordinary", 50)
		var hung []*critest.Injection
		for _, name := range waiting {
			hung = append(hung, w.runtime.Inject(critest.Match{Method: "RunPodSandbox", Pod: name}, critest.Fault{Hang: true}))
			w.api.create(newPod(name))
		}
		time.Sleep(time.Minute)
		w.api.create(hostNetwork(newPod("cni")))
		took := elapsed(func() { w.must(time.Minute, w.podRuns("cni")) })
		if took > 2*time.Second {
			w.t.Errorf("the network's pod took %v to run", took)
		}
		for _, in := range hung {
			in.Release()
		}
		if took := elapsed(func() { w.must(10*time.Minute, w.podRuns(waiting...)) }); took > 30*time.Second {
			w.t.Errorf("the others took %v to run once there was a network", took)
		}
		w.must(time.Minute, w.settled)
	})
}

// Calls that hang leave the gate to others after two seconds.
func TestSlowSandboxesDoNotFillTheGate(t *testing.T) {
	inWorld(t, func(w *world) {
		slow, quick := names("slow", 12), names("quick", 12)
		for _, name := range slow {
			w.runtime.Inject(critest.Match{Method: "RunPodSandbox", Pod: name}, critest.Fault{Delay: time.Minute})
			w.api.create(newPod(name))
		}
		time.Sleep(time.Second)
		for _, name := range quick {
			w.api.create(newPod(name))
		}
		if took := elapsed(func() { w.must(time.Minute, w.podRuns(quick...)) }); took > 15*time.Second {
			w.t.Errorf("12 pods behind 12 slow ones took %v", took)
		}
		w.must(2*time.Minute, w.podRuns(slow...))
		w.must(time.Minute, w.settled)
	})
}

// What answers after its deadline is adopted, and made once.
func TestLateAnswers(t *testing.T) {
	for _, c := range []struct {
		method string
		late   time.Duration // the deadlines are 4 and 2 minutes
	}{
		{"RunPodSandbox", 5 * time.Minute},
		{"RunPodSandbox", 8 * time.Minute},
		{"CreateContainer", 3 * time.Minute},
		{"CreateContainer", 6 * time.Minute},
	} {
		for _, restart := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s after %v, agent killed: %v", c.method, c.late, restart), func(t *testing.T) {
				inWorld(t, func(w *world) {
					w.runtime.Inject(critest.Match{Method: c.method, Nth: 1}, critest.Fault{Hang: true, Effect: critest.EffectLate, Late: c.late})
					w.api.create(newPod("pod"))
					if restart {
						time.Sleep(c.late / 2)
						w.kill()
						w.boot()
					}
					w.must(c.late+10*time.Second, w.podRuns("pod"))
					w.must(time.Minute, w.settled)
					if s, c := w.runtime.Sandboxes("pod"), w.runtime.Containers("pod"); len(s) != 1 || s[0].Attempt != 0 || len(c) != 1 || c[0].Attempt != 0 {
						w.t.Errorf("sandboxes %+v, containers %+v", s, c)
					}
				})
			})
		}
	}
}
