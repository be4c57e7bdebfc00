package simulation

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	v1 "k8s.io/api/core/v1"

	"kubelet/internal/cri/critest"
)

func traced(w *world, _ *critest.Config) {
	w.spans = tracetest.NewSpanRecorder()
	w.tracer = sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(w.spans)).Tracer("test")
}

// tree renders the traces that have ended: each span below its parent, in the
// order in which they began. Calls to the runtime are left out.
func (w *world) tree() string {
	spans := w.spans.Ended()
	slices.SortStableFunc(spans, func(a, b sdktrace.ReadOnlySpan) int { return a.StartTime().Compare(b.StartTime()) })
	var b strings.Builder
	for _, root := range spans {
		if root.Parent().IsValid() {
			continue
		}
		show := func(indent string, s sdktrace.ReadOnlySpan) {
			fmt.Fprintf(&b, "%s%s", indent, s.Name())
			for _, a := range s.Attributes() {
				if a.Key == "k8s.pod.name" || a.Key == "k8s.container.name" {
					fmt.Fprintf(&b, " %s", a.Value.AsString())
				}
			}
			if s.Status().Description != "" {
				fmt.Fprintf(&b, ": %s", s.Status().Description)
			}
			b.WriteString("\n")
		}
		show("", root)
		for _, s := range spans {
			if s.Parent().SpanID() == root.SpanContext().SpanID() {
				show("  ", s)
				if s.StartTime().Before(root.StartTime()) || s.EndTime().After(root.EndTime()) {
					w.t.Errorf("%s is not within the start", s.Name())
				}
			}
		}
	}
	return b.String()
}

// A pod's start is one trace: what it waited for, one after the other, until
// the API server knew that it is Ready.
func TestTraceOfAStart(t *testing.T) {
	inWorld(t, func(w *world) {
		w.runtime.Script("web/init", critest.ExitAfter(time.Second, 0))
		pod := newPod("web", "main")
		pod.Spec.InitContainers = []v1.Container{{Name: "init", Image: "app", ImagePullPolicy: v1.PullIfNotPresent}}
		w.api.create(pod)
		w.must(time.Minute, w.podRuns("web"))
		time.Sleep(time.Minute)
		got := strings.Split(strings.TrimSpace(w.tree()), "\n")
		if len(got) < 2 || got[0] != "pod start web" {
			t.Fatalf("traces:\n%s", strings.Join(got, "\n"))
		}
		for _, want := range []string{"  admission", "  Prepare", "  Mount", "  RunSandbox", "  PullImage init", "  StartContainer init",
			"  PullImage main", "  StartContainer main", "  status accepted"} {
			if !slices.Contains(got, want) {
				t.Errorf("no span %q in\n%s", want, strings.Join(got, "\n"))
			}
		}
		if got[len(got)-1] != "  status accepted" {
			t.Errorf("the last span is %q", got[len(got)-1])
		}
		// What comes later is no part of the start.
		w.api.delete("web", nil)
		w.must(time.Minute, w.podGone("web"))
		if after := strings.Split(strings.TrimSpace(w.tree()), "\n"); !slices.Equal(after, got) {
			t.Errorf("the end of the pod added spans:\n%s", strings.Join(after, "\n"))
		}
	}, traced)
}

func TestTraceOfAFailedStart(t *testing.T) {
	inWorld(t, func(w *world) {
		w.runtime.Script("job/main", critest.ExitAfter(time.Millisecond, 3))
		pod := newPod("job")
		pod.Spec.RestartPolicy = v1.RestartPolicyNever
		w.api.create(pod)
		w.must(time.Minute, w.podEnded("job"))
		got := w.tree()
		if !strings.HasPrefix(got, "pod start job") || strings.Count(got, "pod start") != 1 {
			t.Errorf("traces:\n%s", got)
		}
		w.api.delete("job", nil)
		w.must(time.Minute, w.podGone("job"))
	}, traced)
}
