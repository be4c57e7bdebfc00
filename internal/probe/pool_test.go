package probe

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// podTasks are n probes of one pod.
func podTasks(n int) []*task {
	f := &followed{pod: &v1.Pod{}}
	var tasks []*task
	for range n {
		tasks = append(tasks, &task{life: &life{pod: f}, kind: Liveness, index: -1})
	}
	return tasks
}

// TestPoolTurns: pods take turns, whatever came first.
func TestPoolTurns(t *testing.T) {
	now := time.Unix(0, 0)
	p := &pool{places: 4, young: time.Second, total: 100, perPod: 3}
	greedy, other, third := podTasks(10), podTasks(1), podTasks(2)
	names := map[*followed]string{greedy[0].life.pod: "greedy", other[0].life.pod: "other", third[0].life.pod: "third"}
	for _, task := range slices.Concat(greedy, other, third) {
		p.put(task, now)
	}
	take := func() (got []string) {
		for task := p.take(now); task != nil; task = p.take(now) {
			got = append(got, names[task.life.pod])
		}
		return got
	}
	if got, want := take(), []string{"greedy", "other", "third", "greedy"}; !slices.Equal(got, want) {
		t.Errorf("took %v, want %v", got, want)
	}
	if at := p.opens(now.Add(300 * time.Millisecond)); !at.Equal(now.Add(time.Second)) {
		t.Errorf("opens at %v", at)
	}
	// What has been running for a while leaves its place to others; a pod has
	// no more than its share.
	now = now.Add(time.Second)
	if got, want := take(), []string{"third", "greedy"}; !slices.Equal(got, want) {
		t.Errorf("then took %v, want %v", got, want)
	}
	p.leave(greedy[0])
	if got, want := take(), []string{"greedy"}; !slices.Equal(got, want) {
		t.Errorf("at last took %v, want %v", got, want)
	}
	p.withdraw(greedy[9])
	for _, task := range greedy[4:9] {
		p.withdraw(task)
	}
	if len(p.turns) != 0 {
		t.Errorf("%d pods wait", len(p.turns))
	}
}

type noEvents struct{}

func (noEvents) Event(*v1.Pod, string, string, string, string) {}

// thousand follows 1,000 probes of 500 containers, each asked each second.
func thousand(tb testing.TB, ask func(context.Context, question) outcome) *Prober {
	p, err := New(Config{Exec: noExec{}, Events: noEvents{}, Wake: func(types.UID) {}})
	if err != nil {
		tb.Fatal(err)
	}
	p.ask = ask
	probe := &v1.Probe{PeriodSeconds: 1, ProbeHandler: v1.ProbeHandler{TCPSocket: &v1.TCPSocketAction{}}}
	for i := range 100 {
		pod := &v1.Pod{}
		pod.UID = types.UID(fmt.Sprint("uid-", i))
		var targets []Target
		for j := range 5 {
			targets = append(targets, Target{
				Container: &v1.Container{Name: fmt.Sprint("c", j), LivenessProbe: probe, ReadinessProbe: probe},
				ID:        fmt.Sprint(i, "-", j), StartedAt: time.Now().Add(-time.Hour), IP: "127.0.0.1",
				Was: State{Started: true, Ready: true},
			})
		}
		p.Follow(pod, targets)
	}
	return p
}

// BenchmarkThousandProbes is what it costs to run 1,000 probes once, beside the
// asking itself: scheduling, queueing, judging, counting.
func BenchmarkThousandProbes(b *testing.B) {
	asked := 0
	p := thousand(b, func(context.Context, question) outcome {
		asked++
		return outcome{verdict: passed}
	})
	b.ReportAllocs()
	var ready []run
	now := time.Now()
	for b.Loop() {
		now = now.Add(time.Second)
		for ready, _ = p.begin(b.Context(), ready[:0], now); len(ready) > 0; ready, _ = p.begin(b.Context(), ready[:0], now) {
			for _, r := range ready {
				p.run(r)
			}
		}
	}
	b.ReportMetric(float64(asked)/float64(b.N), "probes/op")
}

// BenchmarkFollowUnchanged is what each turn of a pod's worker pays.
func BenchmarkFollowUnchanged(b *testing.B) {
	p := thousand(b, nil)
	pod := &v1.Pod{}
	pod.UID = "uid-0"
	f := p.pods[pod.UID]
	var targets []Target
	for _, l := range f.lives {
		targets = append(targets, l.target)
	}
	b.ReportAllocs()
	for b.Loop() {
		p.Follow(pod, targets)
		p.Results(pod.UID)
	}
}

// TestThousandProbes: a thousand probes that wait cost no goroutine of their
// own, and following them again costs no memory.
func TestThousandProbes(t *testing.T) {
	before := runtime.NumGoroutine()
	p := thousand(t, func(context.Context, question) outcome { return outcome{verdict: passed} })
	if n := runtime.NumGoroutine() - before; n > 0 {
		t.Errorf("%d goroutines before Run", n)
	}
	if len(p.schedule) != 1000 {
		t.Fatalf("%d probes scheduled", len(p.schedule))
	}
	// The phases fill the period evenly.
	var tenths [10]int
	now := time.Now()
	for _, task := range p.schedule {
		tenths[min(max(int(task.due.Sub(now)/(100*time.Millisecond)), 0), 9)]++
	}
	for i, n := range tenths {
		if n < 60 || n > 150 {
			t.Errorf("%d of 1000 probes in tenth %d of the period", n, i)
		}
	}
	pod := &v1.Pod{}
	pod.UID = "uid-7"
	var targets []Target
	for _, l := range p.pods[pod.UID].lives {
		targets = append(targets, l.target)
	}
	p.Results(pod.UID)
	if n := testing.AllocsPerRun(100, func() { p.Follow(pod, targets); p.Results(pod.UID) }); n != 0 {
		t.Errorf("following the same again allocates %v times", n)
	}
}
