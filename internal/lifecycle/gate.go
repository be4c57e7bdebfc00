package lifecycle

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"
)

// Gate bounds how many heavy runtime calls (sandbox, create, start) run at
// once, so that of a batch of pods the first are ready early instead of all
// late. It is ordered by priority, then age. Pods on which others may depend
// (host network, static, system-critical) have places of their own. A call
// that takes longer than slowAfter gives its place up to the next and goes on
// in a separately bounded slow set, so that calls that hang cannot fill the
// gate.
type Gate struct {
	mu       sync.Mutex
	ordinary places
	critical places
	slow     int
	slowMax  int
	// overdue calls hold a place and would have moved to the slow set, had
	// there been room; longest first.
	overdue []*stay
}

type places struct {
	free    int
	waiting []*ticket
}

type ticket struct {
	Class
	in chan struct{}
}

// stay is a call that was let in.
type stay struct {
	set    *places
	isSlow bool
	left   bool
}

// slowAfter is how long a call may hold an ordinary place.
const slowAfter = 2 * time.Second

// Class orders a pod at the gate.
type Class struct {
	Critical bool
	Priority int32
	Since    time.Time
}

// NewGate returns a gate with that many ordinary and critical places, and
// room for slowMax calls that take long.
func NewGate(ordinary, critical, slowMax int) *Gate {
	return &Gate{
		ordinary: places{free: max(ordinary, 1)},
		critical: places{free: max(critical, 1)},
		slowMax:  slowMax,
	}
}

// Enter waits for a place. The caller must call leave exactly once when its
// call has ended. It fails only if ctx ends first.
func (g *Gate) Enter(ctx context.Context, class Class) (leave func(), err error) {
	set := &g.ordinary
	if class.Critical {
		set = &g.critical
	}
	t := &ticket{Class: class, in: make(chan struct{})}
	g.mu.Lock()
	i, _ := slices.BinarySearchFunc(set.waiting, t, func(a, b *ticket) int {
		// Behind its equals: who came first is served first.
		return cmp.Or(cmp.Compare(b.Priority, a.Priority), a.Since.Compare(b.Since), -1)
	})
	set.waiting = slices.Insert(set.waiting, i, t)
	set.admit()
	g.mu.Unlock()

	select {
	case <-t.in:
		return g.hold(set), nil
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-t.in: // admitted meanwhile: hand the place on
		set.free++
		set.admit()
	default:
		set.waiting = slices.DeleteFunc(set.waiting, func(w *ticket) bool { return w == t })
	}
	return nil, ctx.Err()
}

func (s *places) admit() {
	for s.free > 0 && len(s.waiting) > 0 {
		s.free--
		close(s.waiting[0].in)
		s.waiting = slices.Delete(s.waiting, 0, 1)
	}
}

// hold returns the function that gives the place back, wherever the call has
// moved by then.
func (g *Gate) hold(set *places) (leave func()) {
	call := &stay{set: set}
	timer := time.AfterFunc(slowAfter, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if !call.left {
			g.overdue = append(g.overdue, call)
			g.slowDown()
		}
	})
	return func() {
		timer.Stop()
		g.mu.Lock()
		defer g.mu.Unlock()
		call.left = true
		if call.isSlow {
			g.slow--
			g.slowDown()
			return
		}
		g.overdue = slices.DeleteFunc(g.overdue, func(o *stay) bool { return o == call })
		set.free++
		set.admit()
	}
}

// slowDown moves overdue calls into the slow set while there is room. The
// lock is held.
func (g *Gate) slowDown() {
	for g.slow < g.slowMax && len(g.overdue) > 0 {
		call := g.overdue[0]
		g.overdue = slices.Delete(g.overdue, 0, 1)
		call.isSlow = true
		g.slow++
		call.set.free++
		call.set.admit()
	}
}
