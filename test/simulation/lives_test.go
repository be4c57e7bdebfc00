package simulation

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"kubelet/internal/cri/critest"
	"kubelet/internal/explain"
)

// The end of a pod is told, however long the API server is away and however
// often the agent dies meanwhile.
func TestFinalStatusIsNotLost(t *testing.T) {
	for _, away := range []apiState{refusing, hanging} {
		t.Run(fmt.Sprint(away), func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.runtime.Script("job/main", critest.ExitAfter(time.Minute, 7))
				pod := newPod("job")
				pod.Spec.RestartPolicy = v1.RestartPolicyNever
				w.api.create(pod)
				w.must(time.Minute, w.podRuns("job"))
				w.api.set(away)
				time.Sleep(5 * time.Minute)
				for range 3 {
					w.kill()
					w.boot()
					time.Sleep(time.Minute)
				}
				if n := len(w.runtime.Containers("job")); n != 1 {
					w.t.Errorf("%d containers are kept of what nobody was told about", n)
				}
				w.api.set(up)
				w.must(time.Minute, w.podEnded("job"))
				got := w.api.get("job").Status
				if s := got.ContainerStatuses[0].State.Terminated; got.Phase != v1.PodFailed || s == nil || s.ExitCode != 7 {
					w.t.Errorf("told is %s, %+v", got.Phase, got.ContainerStatuses[0].State)
				}
				w.api.delete("job", nil)
				w.must(time.Minute, w.settled)
			})
		})
	}
}

// A pod is deleted while the API server is away again: the object goes only
// after it has the final status (judgeDeletion looks at that).
func TestDeletionThroughOutage(t *testing.T) {
	inWorld(t, func(w *world) {
		w.runtime.Script("pod/main", critest.Behavior{TermAfter: 5 * time.Second, TermCode: 143})
		w.api.create(newPod("pod"))
		w.must(time.Minute, w.podRuns("pod"))
		w.api.delete("pod", nil)
		time.Sleep(time.Second)
		w.api.set(refusing)
		time.Sleep(time.Minute)
		if err := w.released(w.api.get("pod").UID); err != nil {
			w.t.Errorf("the node waited for the API server: %v", err)
		}
		w.kill()
		w.boot()
		time.Sleep(time.Minute)
		w.api.set(up)
		w.must(time.Minute, w.podGone("pod"))
		w.must(time.Minute, w.settled)
	})
}

// While the API server is away, pods are kept, and restarted by policy; by an
// agent that was started meanwhile they are left alone.
func TestAPIServerIsAway(t *testing.T) {
	inWorld(t, func(w *world) {
		w.setManifest("static", static(newPod("static"), "static-1"))
		w.api.create(newPod("pod"))
		w.must(time.Minute, w.podRuns("pod", "static"))
		w.api.set(refusing)
		w.runtime.Exit("pod", "main", 1, "")
		w.must(time.Minute, func() error {
			if c := w.runtime.Containers("pod"); !c[len(c)-1].Running || c[len(c)-1].Attempt != 1 {
				return errors.New("the container was not restarted")
			}
			return nil
		})
		w.kill()
		w.boot()
		time.Sleep(time.Hour)
		if c := w.runtime.Containers("pod"); !c[len(c)-1].Running {
			w.t.Error("a pod was stopped because its source is away")
		}
		w.runtime.Exit("static", "main", 1, "")
		w.must(time.Minute, func() error {
			if c := w.runtime.Containers("static"); !c[len(c)-1].Running {
				return errors.New("the static pod's container was not restarted")
			}
			return nil
		})
		w.api.set(up)
		w.must(time.Minute, w.settled)
	})
}

// Of a pod that is being stopped, the grace period is made shorter: the
// container is told again, and the first word does not stand.
func TestShorterGracePeriod(t *testing.T) {
	for _, c := range []struct{ grace, within time.Duration }{
		{5 * time.Second, 6 * time.Second},
		{0, 3 * time.Second},
	} {
		t.Run(fmt.Sprint(c.grace), func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.runtime.Script("pod/main", critest.Stubborn())
				pod := newPod("pod")
				grace := int64(600)
				pod.Spec.TerminationGracePeriodSeconds = &grace
				w.api.create(pod)
				w.must(time.Minute, w.podRuns("pod"))
				w.api.delete("pod", nil)
				time.Sleep(20 * time.Second)
				if c := w.runtime.Containers("pod")[0]; !c.Running {
					w.t.Fatal("the container did not get its grace period")
				}
				shorter := int64(c.grace / time.Second)
				w.api.delete("pod", &shorter)
				took := elapsed(func() { w.must(20*time.Minute, w.podGone("pod")) })
				if took > c.within {
					w.t.Errorf("the pod took %v to go", took)
				}
				if n := w.runtime.Calls("StopContainer"); n != 2 {
					w.t.Errorf("the container was stopped %d times", n)
				}
				w.must(time.Minute, w.settled)
			})
		})
	}
}

// A pod that takes the name of one that ends waits for it, also if it came
// while no agent ran.
func TestSameNameNeverOverlaps(t *testing.T) {
	for _, killed := range []bool{false, true} {
		t.Run(fmt.Sprintf("agent killed: %v", killed), func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.runtime.Script("pod/main", critest.Stubborn())
				first := w.api.create(newPod("pod"))
				w.must(time.Minute, w.podRuns("pod"))
				if killed {
					w.kill()
				}
				w.api.delete("pod", new(int64))
				second := w.api.create(newPod("pod"))
				if killed {
					w.boot()
				}
				explained := false
				w.must(2*time.Minute, func() error {
					old, now := w.runtime.Sandboxes(string(first.UID)), w.runtime.Sandboxes(string(second.UID))
					if len(old) > 0 && len(now) > 0 {
						w.t.Fatal("both pods have a sandbox")
					}
					if e, _ := w.current().explain.Get(second.UID); e.Stage == explain.Previous && e.Object == string(first.UID) {
						explained = true
					}
					return w.podRuns("pod")()
				})
				if !explained {
					w.t.Error("nobody said what the second pod waited for")
				}
				w.must(time.Minute, w.settled)
			})
		})
	}
}

// An agent may die and come back at any time: running pods do not notice, and
// nobody is told anything.
func TestRestartsAreInvisible(t *testing.T) {
	inWorld(t, func(w *world) {
		all := names("pod", 20)
		for i, name := range all {
			pod := newPod(name, "a", "b")
			if i%2 == 0 {
				pod.Spec.InitContainers = []v1.Container{{Name: "init", Image: "app", ImagePullPolicy: v1.PullIfNotPresent}}
				w.runtime.Script(name+"/init", critest.ExitAfter(time.Second, 0))
			}
			w.api.create(pod)
		}
		w.setManifest("static", static(newPod("static"), "static-1"))
		w.must(time.Minute, w.podRuns(append(all, "static")...))
		w.must(time.Minute, w.settled)
		time.Sleep(time.Minute)
		changes, writes := w.changes(), w.writes()
		r := rand.New(rand.NewPCG(7, 7))
		for i := range 200 {
			if i%4 == 3 {
				w.stop()
			} else {
				w.kill()
			}
			time.Sleep(time.Duration(r.IntN(500)) * time.Millisecond)
			w.boot()
			time.Sleep(time.Duration(r.IntN(200_000)) * time.Microsecond)
		}
		w.must(time.Minute, w.settled)
		if n := w.changes() - changes; n != 0 {
			w.t.Errorf("%d calls changed something in the runtime", n)
		}
		if n := w.writes() - writes; n != 0 {
			w.t.Errorf("%d writes to the API server", n)
		}
	})
}
