package cgroup

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestHungCallHoldsOnlyItsKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g flights
		hang := make(chan struct{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := g.do(ctx, "a", func() error { <-hang; return nil }); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("hung call: %v", err)
		}
		if err := g.do(t.Context(), "b", func() error { return nil }); err != nil {
			t.Fatalf("other key: %v", err)
		}
		// The same key waits for the hung call rather than running beside it.
		second := make(chan error, 1)
		ran := false
		go func() { second <- g.do(t.Context(), "a", func() error { ran = true; return nil }) }()
		synctest.Wait()
		if ran {
			t.Fatal("two calls of one key side by side")
		}
		close(hang)
		if err := <-second; err != nil || !ran {
			t.Fatalf("after the hung call ended: %v, ran %v", err, ran)
		}
		if len(g.busy) != 0 {
			t.Errorf("%d keys left behind", len(g.busy))
		}
	})
}
