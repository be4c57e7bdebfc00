package cgroup

import (
	"context"
	"fmt"
	"sync"
)

// flights runs one call per key at a time, each in a goroutine of its own,
// because neither a write to the cgroup file system nor a D-Bus call can be
// interrupted. A caller that gives up leaves its call running; the next one
// of that key waits for it, so that they never act side by side and a hung
// one holds just one goroutine. The zero value is ready.
type flights struct {
	mu   sync.Mutex
	busy map[string]chan struct{}
}

// do returns f's error, or the context's if that ends first; f's outcome is
// then unknown.
func (g *flights) do(ctx context.Context, key string, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	landed, err := g.take(ctx, key)
	if err != nil {
		return fmt.Errorf("wait for an earlier call: %w", err)
	}
	result := make(chan error, 1)
	go func() {
		err := f()
		g.release(key, landed)
		result <- err
	}()
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		select {
		case err := <-result: // both: prefer what is known
			return err
		default:
			return context.Cause(ctx)
		}
	}
}

func (g *flights) take(ctx context.Context, key string) (chan struct{}, error) {
	for {
		g.mu.Lock()
		other, ok := g.busy[key]
		if !ok {
			landed := make(chan struct{})
			if g.busy == nil {
				g.busy = map[string]chan struct{}{}
			}
			g.busy[key] = landed
			g.mu.Unlock()
			return landed, nil
		}
		g.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (g *flights) release(key string, landed chan struct{}) {
	g.mu.Lock()
	delete(g.busy, key)
	g.mu.Unlock()
	close(landed)
}
