package probe

import (
	"context"
	"hash/fnv"
	"time"

	v1 "k8s.io/api/core/v1"
)

// task is one probe of one life of a container.
//
//	        armed                due              a place is free
//	parked ───────► scheduled ───────► waiting ─────────────────► running
//	   ▲                ▲                 ▲   the node stalled       │
//	   │                │                 └──────────────────────────┤
//	   │                └─────────────── counted, or unknown ────────┤
//	   └──────────── over, not to be asked now, or failed for good ──┘
type task struct {
	life  *life
	kind  Kind
	probe *v1.Probe
	pool  poolKind // for good: who has a place there gives it back there
	at    place
	// due, while scheduled, is when it is to run; afterwards, when it was to.
	due   time.Time
	index int // in the schedule
	// queued and began: when it came to wait and to run.
	queued, began time.Time
	old           bool               // runs, and costs nothing any more
	cancel        context.CancelFunc // while running

	// from is when the container may be asked for the first time, while it is
	// young: until it passes, or its first period is over. Zero otherwise.
	from time.Time

	streak int // how many times in a row the verdict was last
	last   verdict
	stalls int // runs in a row that timed out because the node stalled
}

// place is where a task is.
type place int8

const (
	parked place = iota
	scheduled
	waiting
	running
)

// life is one container ID that is followed.
type life struct {
	pod    *followed
	target Target
	tasks  [kinds]*task // nil where the container has no such probe
	// started and ready are what the probes say; ready counts once started.
	started, ready bool
	failed         *Failure
	obstacle       *Obstacle
	in             *runtimeContainer
}

func newLife(pod *followed, t Target, pid func(context.Context, string) (int, error)) *life {
	l := &life{pod: pod, target: t, in: &runtimeContainer{id: t.ID, pid: pid}}
	r := initial(&t)
	l.started = r.Started
	l.ready = t.Container.ReadinessProbe == nil || t.Was.Ready
	for k := range kinds {
		if p := k.Of(t.Container); p != nil {
			l.tasks[k] = &task{life: l, kind: k, probe: p, index: -1}
			if p.Exec != nil {
				l.tasks[k].pool = execPool
			}
		}
	}
	return l
}

func (l *life) result() Result {
	return Result{State: State{Started: l.started, Ready: l.started && l.ready}, Failed: l.failed, Obstacle: l.obstacle}
}

// hinder notes what a run said if it keeps the container from being started or
// ready, and returns whether that is another obstacle than before.
func (t *task) hinder(out outcome) (changed bool) {
	l := t.life
	had := l.obstacle
	switch {
	case l.started && (l.ready || t.kind == Startup):
		l.obstacle = nil
	case t.kind == Liveness || out.verdict == passed || out.verdict == warned:
	case out.err != nil:
		l.obstacle = &Obstacle{Kind: t.kind, Message: out.err.Error()}
	default:
		l.obstacle = &Obstacle{Kind: t.kind, Message: out.output}
	}
	if had == nil || l.obstacle == nil {
		return had != l.obstacle
	}
	return *had != *l.obstacle
}

// wanted says whether the task is to be asked as things stand.
func (t *task) wanted() bool {
	l := t.life
	switch {
	case l.target.IP == "" && t.needsIP():
		return false
	case t.kind == Startup:
		return !l.started && l.failed == nil && !l.target.Terminating
	case t.kind == Liveness:
		return l.started && l.failed == nil && !l.target.Terminating
	default:
		return l.started
	}
}

func (t *task) needsIP() bool {
	switch p := t.probe; {
	case p.HTTPGet != nil:
		return p.HTTPGet.Host == ""
	case p.TCPSocket != nil:
		return p.TCPSocket.Host == ""
	default:
		return p.GRPC != nil
	}
}

// first is when the task is to be asked for the first time: as soon as its
// initial delay has passed. Containers that have been running for a while are
// followed all together when the kubelet starts; spread distributes them over
// the period, or over a second where somebody waits for the answer. It does so
// always in the same way: two starts behave alike.
func (t *task) first(now time.Time, spread bool) time.Time {
	delay := seconds(t.probe.InitialDelaySeconds, 0)
	if delay == 0 && t.kind == Liveness && t.life.tasks[Startup] == nil {
		// Nothing says how long it takes to start, and nobody waits to hear
		// that it lives.
		delay = t.period()
	}
	// The clock may have been set since the container started.
	elapsed := max(now.Sub(t.life.target.StartedAt), 0)
	old := spread && elapsed-delay >= time.Second
	at := now.Add(max(delay-elapsed, 0))
	if !old {
		if t.kind != Liveness {
			t.from = at
		}
		return at
	}
	phases := t.period()
	if t.kind == Startup || t.kind == Readiness && !t.life.ready {
		phases = min(phases, time.Second)
	}
	h := fnv.New64a()
	h.Write([]byte(t.life.target.ID))
	h.Write([]byte{byte(t.kind)})
	return at.Add(time.Duration(h.Sum64() % uint64(phases)))
}

// young says whether the container is in its first period and has not passed
// yet. Then it is asked more often, for somebody waits for it to be ready; and
// that it fails counts for nothing, so that it really has as many periods to
// start in as its failure threshold says (API reference, startup probes).
func (t *task) young(now time.Time) bool {
	return !t.from.IsZero() && now.Before(t.from.Add(t.period()))
}

// next is when the task is to be asked again: on the grid of its period, past
// turns left out; and while it is young, at times that grow apart.
func (t *task) next(now time.Time) time.Time {
	p := t.period()
	if !t.from.IsZero() {
		step, factor := 250*time.Millisecond, time.Duration(2)
		if t.probe.Exec != nil { // a command costs a hundred times as much
			step, factor = time.Second, 4
		}
		for step < p && !t.from.Add(step).After(now) {
			step *= factor
		}
		if step < p {
			return t.from.Add(step)
		}
		t.due, t.from = t.from, time.Time{}
	}
	if late := now.Sub(t.due); late >= p {
		return t.due.Add(late.Truncate(p) + p)
	}
	return t.due.Add(p)
}

// count takes a verdict that is not unknown, and says whether it has come as
// often in a row as its threshold asks.
func (t *task) count(v verdict) bool {
	if v == warned {
		v = passed
	}
	if v != t.last || t.streak == 0 {
		t.last, t.streak = v, 0
	}
	t.streak++
	t.from = time.Time{} // from now on, the grid of its period
	if v == failed {
		return t.streak >= int(positive(t.probe.FailureThreshold, 3))
	}
	return t.streak >= int(positive(t.probe.SuccessThreshold, 1))
}

// settle makes a counted verdict a fact of the container's life. It returns
// whether what is known changed.
func (t *task) settle(v verdict, message string, now time.Time) (changed bool) {
	l := t.life
	started, ready, failure := l.started, l.ready, l.failed
	switch {
	case v != failed && t.kind == Startup:
		l.started = true
	case t.kind == Readiness:
		l.ready = v != failed
	case v == failed:
		l.failed = &Failure{Kind: t.kind, Message: message, At: now, Grace: t.probe.TerminationGracePeriodSeconds}
	}
	return l.started != started || l.ready != ready || l.failed != failure
}

// Defaults of fields that are not set (API reference, Probe). The API server
// sets them; this is for whoever did not.
func (t *task) period() time.Duration  { return seconds(t.probe.PeriodSeconds, 10) }
func (t *task) timeout() time.Duration { return seconds(t.probe.TimeoutSeconds, 1) }

func seconds(n, instead int32) time.Duration {
	return time.Duration(positive(n, instead)) * time.Second
}

func positive(n, instead int32) int32 {
	if n > 0 {
		return n
	}
	return instead
}
