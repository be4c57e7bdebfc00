package worker

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	v1 "k8s.io/api/core/v1"

	"kubelet/internal/lifecycle"
)

// startTrace is the trace of one pod's start: from when the pod came to the
// node until the API server has accepted that it is Ready.
//
//	pod start
//	├── admission
//	├── Prepare, Mount, RunSandbox, PullImage, StartContainer …   (lifecycle's steps)
//	│   └── runtime.v1.RuntimeService/CreateContainer …           (package tracing)
//	└── status accepted
//
// It is nil if nobody traces, or not this pod. Only the worker's goroutine
// calls it, but for end.
type startTrace struct {
	tracer    trace.Tracer
	root      trace.Span
	admission trace.Span // nil once the pod was accepted
}

// traceStart begins the trace of a pod that does not run yet.
func (w *worker) traceStart() {
	t := w.pool.Tracer
	if t == nil || w.runs || w.pod.DeletionTimestamp != nil || ready(&w.previous) {
		return
	}
	ctx, root := t.Start(context.Background(), "pod start", trace.WithTimestamp(w.arrived), trace.WithAttributes(
		attribute.String("k8s.namespace.name", w.pod.Namespace), attribute.String("k8s.pod.name", w.pod.Name), attribute.String("k8s.pod.uid", string(w.uid))))
	if !root.IsRecording() {
		return
	}
	s := &startTrace{tracer: t, root: root}
	_, s.admission = t.Start(ctx, "admission", trace.WithTimestamp(w.arrived))
	w.starting = s
}

// traceMoved notes how far the pod has come.
func (w *worker) traceMoved() {
	s := w.starting
	if s == nil {
		return
	}
	if s.admission != nil && w.state.Phase > Waiting {
		s.admission.End()
		s.admission = nil
	}
	if w.state.Phase >= Terminating {
		w.traceEnd(errors.New("the pod ended before it was Ready"))
	}
}

// traceEnd ends the trace of a pod that did not come to be Ready.
func (w *worker) traceEnd(why error) {
	w.starting.end(why)
	w.starting = nil
}

// step makes a span of an action while the pod starts. done ends it.
func (s *startTrace) step(ctx context.Context, a lifecycle.Action) (_ context.Context, done func(lifecycle.Result)) {
	if s == nil {
		return ctx, func(lifecycle.Result) {}
	}
	ctx, span := s.tracer.Start(trace.ContextWithSpan(ctx, s.root), string(a.Kind))
	if a.Name != "" {
		span.SetAttributes(attribute.String("k8s.container.name", a.Name), attribute.Int64("k8s.container.restart_count", int64(a.Attempt)))
	}
	return ctx, func(r lifecycle.Result) {
		if r.Err != nil {
			span.SetStatus(codes.Error, r.Err.Error())
		}
		span.End()
	}
}

// tracePublished notes the newest status: once it says that the pod is Ready,
// the trace ends when the API server knows.
func (w *worker) tracePublished() {
	s := w.starting
	if s == nil || !ready(&w.previous) {
		return
	}
	w.starting = nil // what happens from now on is no part of the start
	ctx, span := s.tracer.Start(trace.ContextWithSpan(w.starts.ctx, s.root), "status accepted")
	w.pool.spawn(func() {
		err := w.pool.Statuses.Accepted(ctx, w.uid)
		if err != nil {
			span.SetStatus(codes.Error, err.Error())
		}
		span.End()
		s.end(err)
	})
}

func (s *startTrace) end(err error) {
	if s == nil {
		return
	}
	if s.admission != nil {
		s.admission.End()
	}
	if err != nil {
		s.root.SetStatus(codes.Error, err.Error())
	}
	s.root.End()
}

func ready(s *v1.PodStatus) bool {
	for i := range s.Conditions {
		if c := &s.Conditions[i]; c.Type == v1.PodReady {
			return c.Status == v1.ConditionTrue
		}
	}
	return false
}
