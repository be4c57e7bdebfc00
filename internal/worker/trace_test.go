package worker

import (
	"context"
	"testing"

	"kubelet/internal/lifecycle"
)

// Without a tracer, tracing costs nothing.
func TestTracingOffAllocatesNothing(t *testing.T) {
	w := &worker{pool: &Pool{}}
	ctx, a, r := context.Background(), lifecycle.Action{Key: lifecycle.Key{Kind: lifecycle.StartContainer, Name: "c"}}, lifecycle.Result{}
	if n := testing.AllocsPerRun(100, func() {
		w.traceStart()
		w.traceMoved()
		got, done := w.starting.step(ctx, a)
		done(r)
		w.tracePublished()
		if got != ctx {
			t.Fatal("the context is wrapped")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
