package probe

import (
	"slices"
	"time"
)

// poolKind tells the pools apart: a command in a container costs the node
// processes and the runtime's time, a connection next to nothing.
type poolKind int

const (
	netPool poolKind = iota
	execPool
	poolKinds
)

var poolNames = [poolKinds]string{netPool: "network", execPool: "exec"}

// pool bounds how many probes run at once. What is due and finds no place
// waits, and pods take turns, so that one with many probes, or with ones that
// hang, delays itself before others.
//
// A run that has lasted for a while costs nothing any more, it only waits for
// an answer; so only young runs hold one of the places, and all runs together
// have a far higher bound. Slow containers do not make the others wait.
type pool struct {
	kind   poolKind
	places int           // for young runs
	young  time.Duration // how long a run is young
	total  int           // runs at once
	perPod int           // of one pod
	// runs under way, longest first.
	runs []*task
	// turns are the pods that have tasks waiting here, in turn.
	turns []*followed
}

// lane is what a pod has in a pool.
type lane struct {
	waiting []*task
	busy    int
}

func (l *pool) lane(t *task) *lane { return &t.life.pod.lanes[l.kind] }

// put makes a task wait for a place.
func (l *pool) put(t *task, now time.Time) {
	lane := l.lane(t)
	if len(lane.waiting) == 0 {
		l.turns = append(l.turns, t.life.pod)
	}
	lane.waiting = append(lane.waiting, t)
	t.at, t.queued = waiting, now
}

// withdraw takes a waiting task back.
func (l *pool) withdraw(t *task) {
	lane := l.lane(t)
	lane.waiting = slices.DeleteFunc(lane.waiting, func(o *task) bool { return o == t })
	if len(lane.waiting) == 0 {
		l.turns = slices.DeleteFunc(l.turns, func(f *followed) bool { return f == t.life.pod })
	}
	t.at = parked
}

// take gives a place to the next task in turn, nil if there is no place or
// nobody who may have it.
func (l *pool) take(now time.Time) *task {
	if len(l.runs) >= l.total || l.youngAt(now) >= l.places {
		return nil
	}
	for i, pod := range l.turns {
		lane := &pod.lanes[l.kind]
		if lane.busy >= l.perPod {
			continue
		}
		t := lane.waiting[0]
		lane.waiting = slices.Delete(lane.waiting, 0, 1)
		lane.busy++
		l.turns = slices.Delete(l.turns, i, i+1)
		if len(lane.waiting) > 0 {
			l.turns = append(l.turns, pod)
		}
		l.runs = append(l.runs, t)
		t.at, t.began, t.old = running, now, false
		return t
	}
	return nil
}

// leave gives the place of a run that has ended back.
func (l *pool) leave(t *task) {
	l.runs = slices.DeleteFunc(l.runs, func(o *task) bool { return o == t })
	l.lane(t).busy--
	t.at = parked
}

// isYoung says whether a run still costs something.
func (l *pool) isYoung(t *task, now time.Time) bool { return !t.old && now.Sub(t.began) < l.young }

// youngAt counts the young runs.
func (l *pool) youngAt(now time.Time) (n int) {
	for _, t := range l.runs {
		if l.isYoung(t, now) {
			n++
		}
	}
	return n
}

// opens is when a place comes free by itself, because a run grows old; zero if
// nobody waits for that.
func (l *pool) opens(now time.Time) time.Time {
	if len(l.turns) == 0 || len(l.runs) >= l.total {
		return time.Time{}
	}
	for _, t := range l.runs { // longest first
		if l.isYoung(t, now) {
			return t.began.Add(l.young)
		}
	}
	return time.Time{}
}
