package stats

import (
	"context"
	"sync"
	"time"
)

const (
	// measuring bounds how many measurements run at once, so that walks over
	// directories leave the disk to the pods.
	measuring = 2
	// measurePatience is how long a measurement holds its place. One that
	// takes longer, or hangs in a dead mount for good, goes on beside them.
	measurePatience = 5 * time.Second
	// measureHanging bounds those beside. Each may hold a thread.
	measureHanging = 16
	// measureShare is the part of the time that measuring one thing may take:
	// one that took a second is not measured again for twenty.
	measureShare = 20
	// measureForget is how long a value is kept that nobody asked for.
	measureForget = 15 * time.Minute
)

// measurements are values that take long to get or may never come: sizes of
// directories, file systems, answers of the runtime. Each is got by at most
// one goroutine at a time, only when somebody asks, and kept.
type measurements[T any] struct {
	mu      sync.Mutex
	entries map[string]*measurement[T]
	queue   []*measurement[T]
	running int // hold a place
	beside  int // took too long and gave it up
}

type measurement[T any] struct {
	f     func() (T, error)
	done  chan struct{} // closed when the one under way is done; nil if there is none
	value T
	err   error
	at    time.Time // when value was asked for; zero if there is none
	took  time.Duration
	asked time.Time
}

// ask begins to measure unless there is a value younger than age, and returns
// what to wait for: nil if the value is good as it is, or not so old that it
// is worth waiting for a new one.
func (m *measurements[T]) ask(key string, age time.Duration, f func() (T, error)) <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	e := m.entries[key]
	if e == nil {
		if m.entries == nil {
			m.entries = map[string]*measurement[T]{}
		}
		e = &measurement[T]{}
		m.entries[key] = e
	}
	e.asked = now
	since := now.Sub(e.at)
	known := !e.at.IsZero()
	if known && since <= max(age, measureShare*e.took) {
		return nil
	}
	if e.done == nil {
		e.f, e.done = f, make(chan struct{})
		m.queue = append(m.queue, e)
		m.beginLocked()
	}
	if known && since <= 2*max(age, measureShare*e.took) {
		return nil
	}
	return e.done
}

// beginLocked gives places to those who wait.
func (m *measurements[T]) beginLocked() {
	for len(m.queue) > 0 && m.running < measuring && m.beside < measureHanging {
		e := m.queue[0]
		m.queue = m.queue[1:]
		m.running++
		go m.measure(e)
	}
}

func (m *measurements[T]) measure(e *measurement[T]) {
	begun, beside := time.Now(), false
	slow := time.AfterFunc(measurePatience, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if e.done == nil || beside {
			return
		}
		beside = true
		m.running--
		m.beside++
		m.beginLocked()
	})
	value, err := e.f()
	m.mu.Lock()
	defer m.mu.Unlock()
	slow.Stop()
	if beside {
		m.beside--
	} else {
		m.running--
	}
	beside = true
	e.value, e.err, e.at, e.took = value, err, begun, time.Since(begun)
	close(e.done)
	e.done, e.f = nil, nil
	m.beginLocked()
}

// get returns the newest value and when it was measured; ok false if there is
// none, the last measurement failed, or the value is too old to be shown while
// the next one hangs.
func (m *measurements[T]) get(key string) (value T, at time.Time, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.entries[key]
	if e == nil || e.at.IsZero() || e.err != nil || time.Since(e.at) > max(measureForget, 2*measureShare*e.took) {
		return value, time.Time{}, false
	}
	return e.value, e.at, true
}

// measured asks and waits until ctx ends at most.
func (m *measurements[T]) measured(ctx context.Context, key string, age time.Duration, f func() (T, error)) (value T, at time.Time, ok bool) {
	await(ctx, m.ask(key, age, f))
	return m.get(key)
}

// forget drops values that nobody asked for lately.
func (m *measurements[T]) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for key, e := range m.entries {
		if e.done == nil && time.Since(e.asked) > measureForget {
			delete(m.entries, key)
		}
	}
}

// await waits for what ask returned.
func await(ctx context.Context, done <-chan struct{}) {
	if done == nil {
		return
	}
	select {
	case <-done:
	case <-ctx.Done():
	}
}
