package status

import (
	"context"
	"sync"
	"time"
)

// queue hands keys to workers: each key to one at a time, in the order in
// which they came. A key that comes again while it is worked on is worked on
// once more; one whose work failed waits its delay out.
//
//	        add              worker free
//	idle ───────► queued ─────────────────► working
//	  ▲              ▲ ▲                       │ │ │
//	  │              │ └── added meanwhile ────┘ │ │
//	  │              └──── delay over ◄ delayed ◄┘ │
//	  └──────────────── done ◄─────────────────────┘
//
// There is no timer but those of delayed keys.
type queue[K comparable] struct {
	workers int
	// work does one attempt; a delay above 0 asks for another one.
	work func(ctx context.Context, key K) (delay time.Duration)

	mu      sync.Mutex
	items   map[K]*item
	order   []K // of the queued ones
	busy    int
	stopped bool
	wake    chan struct{}
}

type item struct {
	queued, working, again bool
	delayed                *time.Timer
}

func newQueue[K comparable](workers int, work func(context.Context, K) time.Duration) *queue[K] {
	return &queue[K]{workers: workers, work: work, items: map[K]*item{}, wake: make(chan struct{}, 1)}
}

// add asks for work on the key. It never blocks.
func (q *queue[K]) add(key K) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch i := q.items[key]; {
	case i == nil:
		i = &item{}
		q.items[key] = i
		q.enqueue(key, i)
	case i.working:
		i.again = true
	default: // queued or delayed: what is newest when its turn comes counts
	}
}

// hurry ends all delays.
func (q *queue[K]) hurry() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for key, i := range q.items {
		if i.delayed != nil && i.delayed.Stop() {
			i.delayed = nil
			q.enqueue(key, i)
		}
	}
}

func (q *queue[K]) enqueue(key K, i *item) {
	i.queued = true
	q.order = append(q.order, key)
	q.signal()
}

func (q *queue[K]) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// run works until ctx ends, and returns when no worker is busy any more.
func (q *queue[K]) run(ctx context.Context) {
	var workers sync.WaitGroup
	defer workers.Wait()
	for {
		q.mu.Lock()
		for q.busy < q.workers && len(q.order) > 0 {
			key := q.order[0]
			q.order = q.order[1:]
			i := q.items[key]
			i.queued, i.working = false, true
			q.busy++
			workers.Go(func() { q.finish(ctx, key, i, q.work(ctx, key)) })
		}
		if len(q.order) == 0 {
			q.order = nil // let go of the array
		}
		q.mu.Unlock()
		select {
		case <-q.wake:
		case <-ctx.Done():
			q.stop()
			return
		}
	}
}

func (q *queue[K]) finish(ctx context.Context, key K, i *item, delay time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.busy--
	q.signal()
	again := i.again
	i.working, i.again = false, false
	switch {
	case q.stopped || ctx.Err() != nil:
	case delay > 0:
		i.delayed = time.AfterFunc(delay, func() { q.delayOver(key, i) })
	case again:
		q.enqueue(key, i)
	default:
		delete(q.items, key)
	}
}

func (q *queue[K]) delayOver(key K, i *item) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.stopped && i.delayed != nil {
		i.delayed = nil
		q.enqueue(key, i)
	}
}

func (q *queue[K]) stop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.stopped = true
	for _, i := range q.items {
		if i.delayed != nil {
			i.delayed.Stop()
		}
	}
}
