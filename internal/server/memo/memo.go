// Package memo remembers the answers of slow questions for a while: who a
// token belongs to, what somebody may do. It owns a bounded table of answers
// in memory; it reads and writes nothing else.
package memo

import (
	"container/list"
	"context"
	"errors"
	"sync"
	"time"
)

// ErrBusy is the answer while too many other questions are open.
var ErrBusy = errors.New("too many questions are open")

// Config bounds a Memo.
type Config struct {
	// Entries is how many answers are kept; the least recently used go first.
	Entries int
	// InFlight is how many questions may be open at once.
	InFlight int
	// Timeout ends a question, whoever waits for it.
	Timeout time.Duration
}

// Memo remembers answers by key. It is safe for concurrent use.
type Memo[K comparable, V any] struct {
	cfg Config

	mu      sync.Mutex
	entries map[K]*list.Element // of *entry[K, V]
	recent  *list.List          // most recently used first
	open    map[K]*question[V]
}

type entry[K comparable, V any] struct {
	key     K
	value   V
	expires time.Time
}

// question is one that is being asked; answered is closed at its end.
type question[V any] struct {
	answered chan struct{}
	value    V
	err      error
}

// New makes an empty Memo.
func New[K comparable, V any](cfg Config) *Memo[K, V] {
	return &Memo[K, V]{cfg: cfg, entries: map[K]*list.Element{}, recent: list.New(), open: map[K]*question[V]{}}
}

// Get returns the answer that is remembered and still fresh.
func (m *Memo[K, V]) Get(key K) (V, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.getLocked(key)
}

func (m *Memo[K, V]) getLocked(key K) (value V, ok bool) {
	element := m.entries[key]
	if element == nil {
		return value, false
	}
	e := element.Value.(*entry[K, V])
	if !time.Now().Before(e.expires) {
		m.recent.Remove(element)
		delete(m.entries, key)
		return value, false
	}
	m.recent.MoveToFront(element)
	return e.value, true
}

// Do returns the answer to key, by memory or by asking; ask says for how long
// its answer holds. Those who want the same answer share one question, which
// goes on when some of them no longer wait. Errors are not remembered.
func (m *Memo[K, V]) Do(ctx context.Context, key K, ask func(context.Context) (V, time.Duration, error)) (V, error) {
	m.mu.Lock()
	if value, ok := m.getLocked(key); ok {
		m.mu.Unlock()
		return value, nil
	}
	q := m.open[key]
	if q == nil {
		if len(m.open) >= m.cfg.InFlight {
			m.mu.Unlock()
			var none V
			return none, ErrBusy
		}
		q = &question[V]{answered: make(chan struct{})}
		m.open[key] = q
		go m.ask(context.WithoutCancel(ctx), key, q, ask)
	}
	m.mu.Unlock()
	select {
	case <-q.answered:
		return q.value, q.err
	case <-ctx.Done():
		var none V
		return none, ctx.Err()
	}
}

func (m *Memo[K, V]) ask(ctx context.Context, key K, q *question[V], ask func(context.Context) (V, time.Duration, error)) {
	ctx, cancel := context.WithTimeout(ctx, m.cfg.Timeout)
	defer cancel()
	var life time.Duration
	q.value, life, q.err = ask(ctx)
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.open, key)
	close(q.answered)
	if q.err != nil || life <= 0 {
		return
	}
	m.entries[key] = m.recent.PushFront(&entry[K, V]{key: key, value: q.value, expires: time.Now().Add(life)})
	for m.recent.Len() > m.cfg.Entries {
		oldest := m.recent.Remove(m.recent.Back()).(*entry[K, V])
		delete(m.entries, oldest.key)
	}
}
