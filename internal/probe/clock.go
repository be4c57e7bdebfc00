package probe

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// errTimeout is the cause of a context whose clock ran out; the text is the
// one that HTTP probes have always shown.
var errTimeout = errors.New("context deadline exceeded (Client.Timeout exceeded while awaiting headers)")

// clock is the time that a probe gives its container. It begins when the
// connection does: what comes before, this node takes, not the container.
// What the node takes later on cannot be given back, but it is known: a timer
// that fires late, a request that is sent late, a container that waits for a
// CPU.
type clock struct {
	q      question
	cancel context.CancelCauseFunc
	// parent ends when nobody wants to know any more.
	parent context.Context

	mu    sync.Mutex
	timer *time.Timer
	half  *time.Timer
	end   time.Time
	ready time.Time
	lost  time.Duration
	// middle is the container's threads at half-time.
	middle census
}

// withClock returns a context that ends with errTimeout when the clock, once
// begun, runs out. The clock must be stopped.
func withClock(ctx context.Context, q question) (context.Context, *clock) {
	timed, cancel := context.WithCancelCause(ctx)
	return timed, &clock{q: q, cancel: cancel, parent: ctx}
}

// begin starts the clock, unless it runs, and returns when it runs out.
func (c *clock) begin() (end time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timer != nil {
		return c.end
	}
	c.end = time.Now().Add(c.q.timeout)
	c.timer = time.AfterFunc(c.q.timeout, func() { c.cancel(errTimeout) })
	if c.q.excuses() {
		c.half = time.AfterFunc(c.q.timeout/2, func() {
			if middle, err := c.q.in.census(c.parent); err == nil {
				c.mu.Lock()
				c.middle = middle
				c.mu.Unlock()
			}
		})
	}
	return c.end
}

// sending says that the container waits for the request from now on, and sent
// that it has it: what passes in between is lost on this node's side.
func (c *clock) sending() {
	c.mu.Lock()
	c.ready = time.Now()
	c.mu.Unlock()
}

func (c *clock) sent() {
	c.mu.Lock()
	c.lost += time.Since(c.ready)
	c.mu.Unlock()
}

func (c *clock) stop() {
	c.mu.Lock()
	if c.timer != nil {
		c.timer.Stop()
	}
	if c.half != nil {
		c.half.Stop()
	}
	c.mu.Unlock()
	c.cancel(context.Canceled)
}

// failure is the outcome of a probe to which there was no answer, and has to
// be made as soon as that is known: it may not be the container's fault.
func (c *clock) failure(output string) outcome {
	now := time.Now()
	c.mu.Lock()
	ranOut := c.timer != nil && !now.Before(c.end)
	lost, middle := c.lost+now.Sub(c.end), c.middle
	c.mu.Unlock()
	if c.starved(ranOut, middle) {
		return excused(output)
	}
	// A tenth of its time a container must be able to do without.
	return outcome{verdict: failed, output: output, stalled: ranOut && lost > c.q.timeout/10}
}

// starved says whether the container waits for a CPU: since half-time, or now,
// where it was not looked at then or is not even connected to, as while it
// starts.
func (c *clock) starved(ranOut bool, before census) bool {
	if !c.q.excuses() {
		return false
	}
	if !ranOut || before.threads == nil {
		var err error
		if before, err = c.q.in.census(c.parent); err != nil {
			return false
		}
		timer := time.NewTimer(min(c.q.timeout/4, maxWindow))
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-c.parent.Done():
		}
	}
	after, err := c.q.in.census(c.parent)
	return err == nil && starved(before, after)
}

// maxWindow is long enough to see a container wait.
const maxWindow = 250 * time.Millisecond

// dial opens a TCP connection within the clock, which begins here. Each
// connection is a new one, and none is kept.
func (c *clock) dial(ctx context.Context, address string) (net.Conn, error) {
	d := net.Dialer{Deadline: c.begin(), KeepAlive: -1}
	return d.DialContext(ctx, "tcp", address)
}

// clockKey is where a request's context has its clock.
type clockKey struct{}
