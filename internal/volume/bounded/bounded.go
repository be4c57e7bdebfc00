// Package bounded runs system calls that can hang in the kernel for good, such
// as stat on a dead NFS server. A goroutine that hangs so cannot be killed; so
// there is one per key at most, however often it is asked for, and nobody
// waits for it beyond his context. It owns the table of the calls under way.
package bounded

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Calls is a set of calls under way. The zero value is ready to use.
type Calls struct {
	mu      sync.Mutex
	running map[string]*call
}

type call struct {
	begun time.Time
	done  chan struct{}
	err   error
}

// Do runs f and returns its error. If an earlier call under the same key has
// not returned yet it joins that one instead. When ctx ends first, the error
// says what (a phrase like "stat /mnt/x") has hung for how long, and wraps
// ctx's.
func (c *Calls) Do(ctx context.Context, key, what string, f func() error) error {
	c.mu.Lock()
	k := c.running[key]
	if k == nil {
		k = &call{begun: time.Now(), done: make(chan struct{})}
		if c.running == nil {
			c.running = map[string]*call{}
		}
		c.running[key] = k
		go func() {
			k.err = f()
			c.mu.Lock()
			delete(c.running, key)
			c.mu.Unlock()
			close(k.done)
		}()
	}
	c.mu.Unlock()

	select {
	case <-k.done:
		return k.err
	case <-ctx.Done():
		return fmt.Errorf("%s hangs, for %s now: %w", what, time.Since(k.begun).Round(time.Millisecond), context.Cause(ctx))
	}
}
