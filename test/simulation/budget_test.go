package simulation

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"kubelet/internal/cri/critest"
	"kubelet/internal/lifecycle"
)

// 110 pods crash as soon as they start, on a node whose back-off ends at one
// second. With a budget it restarts as many as that has, everybody in turn,
// and a pod that is well does not wait for them; without one, which is the
// default, nothing but the back-off holds them.
func TestRestartBudget(t *testing.T) {
	const perMinute, minutes = 12, 10
	crashing := names("crash", 110)
	// life is what happens on the node; it returns how often containers were
	// started in that time, once all have crashed for the first time.
	life := func(w *world, crashing []string, d time.Duration) int {
		for _, name := range crashing {
			w.runtime.Script(name+"/main", critest.ExitAfter(100*time.Millisecond, 1))
			w.api.create(newPod(name))
		}
		time.Sleep(20 * time.Second)
		before := w.runtime.Calls("StartContainer")
		time.Sleep(d)
		return w.runtime.Calls("StartContainer") - before
	}
	t.Run("of the node", func(t *testing.T) {
		inWorld(t, func(w *world) {
			n := life(w, crashing, minutes*time.Minute)
			if most := perMinute * (minutes + 1); n > most || n < most/2 {
				w.t.Errorf("%d restarts in %d minutes with a budget of %d a minute", n, minutes, perMinute)
			}
			var counts []int32
			turns := 0
			for _, name := range crashing {
				c := w.api.get(name).Status.ContainerStatuses[0]
				counts = append(counts, c.RestartCount)
				if c.State.Waiting != nil && strings.Contains(c.State.Waiting.Message, "its turn in the node's restart budget") {
					turns++
				}
			}
			if least, most := slices.Min(counts), slices.Max(counts); least < 1 || most > least+3 {
				w.t.Errorf("some pods were restarted %d times and others %d times", least, most)
			}
			if turns < 100 {
				w.t.Errorf("%d pods say that they wait for their turn", turns)
			}
			w.api.create(newPod("well"))
			if took := elapsed(func() { w.must(time.Minute, w.podRuns("well")) }); took > 2*time.Second {
				w.t.Errorf("a pod that is well took %v to run", took)
			}
			w.runtime.Exit("well", "main", 1, "") // its first crash
			w.must(time.Minute, w.restarted("well", 1))
			if took := elapsed(func() { w.must(time.Minute, w.podRuns("well")) }); took > 2*time.Second {
				w.t.Errorf("its first restart took %v", took)
			}
		}, withBudget(perMinute))
	})
	t.Run("off by default", func(t *testing.T) {
		inWorld(t, func(w *world) {
			if n := life(w, crashing[:10], 30*time.Second); n < 10*perMinute {
				w.t.Errorf("%d restarts in 30 seconds of 10 pods without a budget", n)
			}
		}, withBudget(0))
	})
}

func withBudget(perMinute int) option {
	return func(w *world, _ *critest.Config) {
		w.budget = perMinute
		w.crash = lifecycle.CrashPolicy{Initial: time.Second, Max: time.Second}
	}
}

// restarted says that the pod's container was told to have been.
func (w *world) restarted(name string, times int32) func() error {
	return func() error {
		pod := w.api.get(name)
		if pod == nil || len(pod.Status.ContainerStatuses) == 0 {
			return errors.New("no status of " + name)
		}
		if n := pod.Status.ContainerStatuses[0].RestartCount; n != times {
			return fmt.Errorf("%s was restarted %d times", name, n)
		}
		return nil
	}
}
