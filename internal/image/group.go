package image

import (
	"context"
	"sync"
	"time"
)

// group runs one call per key at a time and gives its outcome to all who ask
// meanwhile. Unlike in x/sync/singleflight, somebody who stops waiting does
// not end the call for the others, and the last to leave cancels it. The zero
// value is ready.
type group[T any] struct {
	mu    sync.Mutex
	calls map[string]*call[T]
}

type call[T any] struct {
	since   time.Time
	waiters int
	cancel  context.CancelFunc
	done    chan struct{}
	value   T // valid once done
	err     error
}

func (g *group[T]) do(ctx context.Context, key string, f func(context.Context) (T, error)) (T, error) {
	g.mu.Lock()
	c, ok := g.calls[key]
	if !ok {
		// The call keeps the values of the first context (its logger), but
		// not its end.
		callCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		c = &call[T]{since: time.Now(), cancel: cancel, done: make(chan struct{})}
		if g.calls == nil {
			g.calls = map[string]*call[T]{}
		}
		g.calls[key] = c
		go func() {
			c.value, c.err = f(callCtx)
			g.mu.Lock()
			g.drop(key, c)
			g.mu.Unlock()
			cancel()
			close(c.done)
		}()
	}
	c.waiters++
	g.mu.Unlock()

	select {
	case <-c.done:
		return c.value, c.err
	case <-ctx.Done():
		g.mu.Lock()
		if c.waiters--; c.waiters == 0 {
			c.cancel()
			g.drop(key, c) // whoever asks from now on gets a call of their own
		}
		g.mu.Unlock()
		var zero T
		return zero, context.Cause(ctx)
	}
}

func (g *group[T]) drop(key string, c *call[T]) {
	if g.calls[key] == c {
		delete(g.calls, key)
	}
}

func (g *group[T]) each(f func(key string, since time.Time, waiters int)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for key, c := range g.calls {
		f(key, c.since, c.waiters)
	}
}

// slots bounds how many run at once. Who waits is served in order of arrival,
// the critical before all others.
type slots struct {
	mu      sync.Mutex
	free    int
	bounded bool
	queue   []slotWaiter
}

type slotWaiter struct {
	critical bool
	ready    chan struct{}
}

// newSlots takes the number of slots, 0 for no bound.
func newSlots(n int) *slots { return &slots{free: n, bounded: n > 0} }

func (s *slots) take(ctx context.Context, critical bool) error {
	if !s.bounded {
		return nil
	}
	s.mu.Lock()
	if s.free > 0 {
		s.free--
		s.mu.Unlock()
		return nil
	}
	w := slotWaiter{critical, make(chan struct{})}
	at := len(s.queue)
	if critical {
		for at = 0; at < len(s.queue) && s.queue[at].critical; at++ {
		}
	}
	s.queue = append(s.queue, slotWaiter{})
	copy(s.queue[at+1:], s.queue[at:])
	s.queue[at] = w
	s.mu.Unlock()

	select {
	case <-w.ready:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.queue {
		if s.queue[i].ready == w.ready {
			s.queue = append(s.queue[:i], s.queue[i+1:]...)
			return context.Cause(ctx)
		}
	}
	// It was handed over in the same moment: pass it on.
	s.pass()
	return context.Cause(ctx)
}

func (s *slots) give() {
	if !s.bounded {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pass()
}

func (s *slots) pass() {
	if len(s.queue) == 0 {
		s.free++
		return
	}
	close(s.queue[0].ready)
	s.queue = s.queue[1:]
}
