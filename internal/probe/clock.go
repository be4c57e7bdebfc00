package probe

import (
	"context"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"
)

// errTimeout is the cause of a context whose clock ran out; the text is the
// one that HTTP probes have always shown.
var errTimeout = errors.New("context deadline exceeded (Client.Timeout exceeded while awaiting headers)")

// clock is the time that a probe gives its container. It begins when the
// connection does: what comes before, this node takes, not the container.
// What the node takes later on cannot be given back, but it is known: a timer
// that fires late, a request that is sent late.
type clock struct {
	timeout time.Duration
	cancel  context.CancelCauseFunc

	mu    sync.Mutex
	timer *time.Timer
	end   time.Time
	ready time.Time
	lost  time.Duration
}

// withClock returns a context that ends with errTimeout when the clock, once
// begun, runs out. The clock must be stopped.
func withClock(ctx context.Context, timeout time.Duration) (context.Context, *clock) {
	ctx, cancel := context.WithCancelCause(ctx)
	return ctx, &clock{timeout: timeout, cancel: cancel}
}

// begin starts the clock, unless it runs, and returns when it runs out.
func (c *clock) begin() (end time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timer == nil {
		c.end = time.Now().Add(c.timeout)
		c.timer = time.AfterFunc(c.timeout, func() { c.cancel(errTimeout) })
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
	c.mu.Unlock()
	c.cancel(context.Canceled)
}

// stalled says whether the clock has run out and the node took more than a
// tenth of its time, so that the container cannot be blamed. It is to be asked
// as soon as the answer, or that there is none, is known.
func (c *clock) stalled() bool {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.timer != nil && !now.Before(c.end) && c.lost+now.Sub(c.end) > c.timeout/10
}

// dial opens a TCP connection within the clock, which begins here. Each
// connection is a new one, and a port of this node is free again soon after it
// was closed: a probed port may be asked more often than ports last.
func (c *clock) dial(ctx context.Context, address string) (net.Conn, error) {
	d := net.Dialer{Deadline: c.begin(), KeepAlive: -1, Control: lingerBriefly}
	return d.DialContext(ctx, "tcp", address)
}

// lingerBriefly lets close(2) wait up to a second for the other end; none at
// all would cut off what is under way with a reset.
func lingerBriefly(_, _ string, c syscall.RawConn) error {
	var serr error
	err := c.Control(func(fd uintptr) {
		serr = syscall.SetsockoptLinger(int(fd), syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{Onoff: 1, Linger: 1})
	})
	return errors.Join(err, serr)
}

type clockKey struct{}
