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
// gate. How many ordinary places there are follows the pressure on the
// processors, which is read when a call comes or goes.
type Gate struct {
	pressure func() Pressure

	mu       sync.Mutex
	ordinary set
	critical set
	slow     int
	slowMax  int
	// overdue calls hold a place and would have moved to the slow set, had
	// there been room; longest first.
	overdue []*stay
}

// set of places, of which there are limit now and at most most.
type set struct {
	most, limit, taken int
	waiting            []*ticket
}

type ticket struct {
	Class
	in chan struct{}
}

// stay is a call that was let in.
type stay struct {
	set    *set
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

// NewGate returns a gate with at most that many ordinary and critical places,
// and room for slowMax calls that take long. pressure may be nil.
func NewGate(ordinary, critical, slowMax int, pressure func() Pressure) *Gate {
	if pressure == nil {
		pressure = func() Pressure { return Pressure{} }
	}
	ordinary, critical = max(ordinary, 1), max(critical, 1)
	return &Gate{
		pressure: pressure,
		ordinary: set{most: ordinary, limit: ordinary},
		critical: set{most: critical, limit: critical},
		slowMax:  slowMax,
	}
}

// Enter waits for a place. The caller must call leave exactly once when its
// call has ended. It fails only if ctx ends first.
func (g *Gate) Enter(ctx context.Context, class Class) (leave func(), err error) {
	places := &g.ordinary
	if class.Critical {
		places = &g.critical
	}
	t := &ticket{Class: class, in: make(chan struct{})}
	now := g.pressure()
	g.mu.Lock()
	g.adapt(now)
	i, _ := slices.BinarySearchFunc(places.waiting, t, func(a, b *ticket) int {
		// Behind its equals: who came first is served first.
		return cmp.Or(cmp.Compare(b.Priority, a.Priority), a.Since.Compare(b.Since), -1)
	})
	places.waiting = slices.Insert(places.waiting, i, t)
	places.admit()
	g.mu.Unlock()

	select {
	case <-t.in:
		return g.hold(places), nil
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-t.in: // admitted meanwhile: hand the place on
		places.leave()
	default:
		places.waiting = slices.DeleteFunc(places.waiting, func(w *ticket) bool { return w == t })
	}
	return nil, ctx.Err()
}

// adapt takes over the pressure of now. The lock is held.
func (g *Gate) adapt(now Pressure) {
	g.ordinary.limit = startsAtOnce(now, g.ordinary.most)
	g.ordinary.admit()
}

func (s *set) leave() {
	s.taken--
	s.admit()
}

func (s *set) admit() {
	for s.taken < s.limit && len(s.waiting) > 0 {
		s.taken++
		close(s.waiting[0].in)
		s.waiting = slices.Delete(s.waiting, 0, 1)
	}
}

// hold returns the function that gives the place back, wherever the call has
// moved by then.
func (g *Gate) hold(places *set) (leave func()) {
	call := &stay{set: places}
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
		now := g.pressure()
		g.mu.Lock()
		defer g.mu.Unlock()
		g.adapt(now)
		call.left = true
		if call.isSlow {
			g.slow--
			g.slowDown()
			return
		}
		g.overdue = slices.DeleteFunc(g.overdue, func(o *stay) bool { return o == call })
		places.leave()
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
		call.set.leave()
	}
}
