package lifecycle

import (
	"sync"
	"time"
)

// Budget bounds how many containers of the node are restarted in a time, so
// that a hundred pods in a crash loop do not starve the others. It hands out
// turns at an even pace, after a burst that is free.
type Budget struct {
	mu sync.Mutex
	// pace is the time between two turns, burst how far ahead of it turns may
	// be taken.
	pace, burst time.Duration
	next        time.Time
}

// NewBudget returns a budget of that many restarts a minute, a quarter of
// them at once; nil, which is no bound, for zero or less.
func NewBudget(perMinute int) *Budget {
	if perMinute <= 0 {
		return nil
	}
	pace := time.Minute / time.Duration(perMinute)
	return &Budget{pace: pace, burst: pace * time.Duration(perMinute/4)}
}

// Reserve takes the next turn and returns when it comes: now, or later.
func (b *Budget) Reserve(now time.Time) time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	if earliest := now.Add(-b.burst); b.next.Before(earliest) {
		b.next = earliest
	}
	at := b.next
	b.next = b.next.Add(b.pace)
	if at.Before(now) {
		return now
	}
	return at
}
