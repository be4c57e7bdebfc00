package probe

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// TestChurn lets pods and containers come, go, end and change their addresses
// at random while probes take any time and answer anything, and holds what
// must always be true: no probe runs twice at once, nobody is asked who is not
// followed or is to end, every followed container has a result and no other
// has one, and nothing is left behind.
func TestChurn(t *testing.T) {
	for seed := range uint64(30) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { churn(t, rand.New(rand.NewPCG(seed, 1))) })
		})
	}
}

func churn(t *testing.T, random *rand.Rand) {
	type key struct {
		id   string
		kind Kind
	}
	var mu sync.Mutex
	asking := map[key]int{}
	p, err := New(Config{Exec: noExec{}, Events: noEvents{}, Wake: func(types.UID) {}, Cores: 1})
	if err != nil {
		t.Fatal(err)
	}
	// Answers have a source of their own: when they are asked for depends on
	// what they were before.
	answers := rand.New(rand.NewPCG(random.Uint64(), 2))
	p.ask = func(ctx context.Context, q question) outcome {
		k := key{q.id, q.kind}
		mu.Lock()
		asking[k]++
		if asking[k] > 1 {
			t.Errorf("%s probe of %s runs twice", q.kind, q.id)
		}
		takes := time.Duration(answers.IntN(5000)) * time.Millisecond
		out := outcome{verdict: verdict(answers.IntN(4)), settled: answers.IntN(2) == 0}
		out.stalled = out.verdict == failed && answers.IntN(3) == 0
		mu.Unlock()
		if q.ip == "" && q.probe.Exec == nil {
			t.Errorf("%s is asked without an address", q.id)
		}
		select {
		case <-time.After(takes):
		case <-ctx.Done():
		}
		mu.Lock()
		asking[k]--
		mu.Unlock()
		return out
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = p.Run(ctx) }()

	exec := v1.ProbeHandler{Exec: &v1.ExecAction{}}
	net := v1.ProbeHandler{TCPSocket: &v1.TCPSocketAction{}}
	probe := func() *v1.Probe {
		if random.IntN(3) == 0 {
			return nil
		}
		handler := exec
		if random.IntN(2) == 0 {
			handler = net
		}
		return &v1.Probe{ProbeHandler: handler, PeriodSeconds: int32(1 + random.IntN(4)),
			InitialDelaySeconds: int32(random.IntN(3)), FailureThreshold: int32(1 + random.IntN(2))}
	}
	pods := make([]*v1.Pod, 4)
	targets := make([][]Target, len(pods))
	for i := range pods {
		pods[i] = &v1.Pod{}
		pods[i].UID = types.UID(fmt.Sprint("u", i))
	}
	next := 0
	for range 300 {
		i := random.IntN(len(pods))
		list := append([]Target(nil), targets[i]...)
		switch n := random.IntN(6); {
		case n < 2 || len(list) == 0:
			next++
			list = append(list, Target{ID: fmt.Sprint("c", next), IP: "10.0.0.1",
				StartedAt: time.Now().Add(-time.Duration(random.IntN(20)) * time.Second),
				Was:       State{Started: random.IntN(2) == 0, Ready: random.IntN(2) == 0},
				Container: &v1.Container{Name: "c", StartupProbe: probe(), LivenessProbe: probe(), ReadinessProbe: probe()}})
		case n == 2:
			list = list[1:]
		case n == 3:
			list[0].Terminating = true
		case n == 4:
			list[0].IP = []string{"", "10.0.0.2"}[random.IntN(2)]
		case n == 5 && random.IntN(4) == 0:
			list = nil
			p.Forget(pods[i].UID)
		}
		targets[i] = list
		p.Follow(pods[i], list)
		results := p.Results(pods[i].UID)
		if len(results) != len(list) {
			t.Fatalf("%d results for %d containers", len(results), len(list))
		}
		for _, target := range list {
			r, ok := results[target.ID]
			if !ok || r.Ready && !r.Started {
				t.Fatalf("result of %s: %+v, %v", target.ID, r, ok)
			}
		}
		time.Sleep(time.Duration(random.IntN(900)) * time.Millisecond)
		synctest.Wait()
		p.check(t)
	}
	for _, pod := range pods {
		p.Forget(pod.UID)
	}
	synctest.Wait()
	p.check(t)
	for k, n := range asking {
		if n != 0 {
			t.Errorf("%s probe of %s still runs", k.kind, k.id)
		}
	}
	if len(p.schedule) != 0 || len(p.pods) != 0 {
		t.Errorf("%d scheduled, %d pods are left", len(p.schedule), len(p.pods))
	}
	for i := range p.pools {
		if len(p.pools[i].runs)+len(p.pools[i].turns) != 0 {
			t.Errorf("pool %s is not empty", poolNames[i])
		}
	}
	cancel()
	<-ended
}

// check holds that each task is where it says it is, and is there because it
// is wanted.
func (p *Prober) check(t *testing.T) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	inSchedule := map[*task]bool{}
	for i, task := range p.schedule {
		inSchedule[task] = true
		if task.index != i {
			t.Errorf("a task's index is %d at %d", task.index, i)
		}
	}
	known := 0
	for _, f := range p.pods {
		for _, l := range f.lives {
			for _, task := range l.tasks {
				if task == nil {
					continue
				}
				if (task.at == scheduled) != inSchedule[task] {
					t.Errorf("%s of %s is at %d, scheduled %v", task.kind, l.target.ID, task.at, inSchedule[task])
				}
				if task.at == scheduled {
					known++
				}
				if task.wanted() != (task.at != parked) && !(task.at == running) {
					t.Errorf("%s of %s is at %d, wanted %v", task.kind, l.target.ID, task.at, task.wanted())
				}
			}
		}
		for i, lane := range f.lanes {
			busy := 0
			for _, task := range p.pools[i].runs {
				if task.life.pod == f {
					busy++
				}
			}
			if busy != lane.busy {
				t.Errorf("%d runs of a pod, counted as %d", busy, lane.busy)
			}
		}
	}
	if known != len(p.schedule) {
		t.Errorf("%d of %d scheduled tasks belong to nobody", len(p.schedule)-known, len(p.schedule))
	}
}
