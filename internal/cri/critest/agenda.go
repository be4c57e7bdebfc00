package critest

import (
	"container/heap"
	"time"
)

// planned is something that will happen; cancelling makes it happen never.
type planned struct {
	at  time.Time
	seq int
	do  func()
}

func (p *planned) cancel() {
	if p != nil {
		p.do = nil
	}
}

// agenda is what the runtime will do by itself: containers exit, pulls end,
// late effects come. Things of the same time happen in the order in which
// they were planned.
type agenda struct {
	items byTime
	seq   int
	timer *time.Timer
}

func (a *agenda) add(at time.Time, do func()) *planned {
	a.seq++
	p := &planned{at: at, seq: a.seq, do: do}
	heap.Push(&a.items, p)
	return p
}

func (a *agenda) drop() {
	for len(a.items) > 0 && a.items[0].do == nil {
		heap.Pop(&a.items)
	}
}

func (a *agenda) next() (time.Time, bool) {
	a.drop()
	if len(a.items) == 0 {
		return time.Time{}, false
	}
	return a.items[0].at, true
}

// due returns the first thing whose time has come, or nil.
func (a *agenda) due(now time.Time) func() {
	if at, ok := a.next(); !ok || at.After(now) {
		return nil
	}
	return heap.Pop(&a.items).(*planned).do
}

// arm calls wake when the next thing is due.
func (a *agenda) arm(now time.Time, wake func()) {
	a.stop()
	if at, ok := a.next(); ok {
		a.timer = time.AfterFunc(at.Sub(now), wake)
	}
}

func (a *agenda) stop() {
	if a.timer != nil {
		a.timer.Stop()
		a.timer = nil
	}
}

type byTime []*planned

func (h byTime) Len() int { return len(h) }
func (h byTime) Less(i, j int) bool {
	if !h[i].at.Equal(h[j].at) {
		return h[i].at.Before(h[j].at)
	}
	return h[i].seq < h[j].seq
}
func (h byTime) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *byTime) Push(x any)   { *h = append(*h, x.(*planned)) }
func (h *byTime) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}
