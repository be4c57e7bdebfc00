package cluster

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	tracingapi "k8s.io/component-base/tracing/api/v1"
	"k8s.io/utils/ptr"

	"kubelet/test/harness"
)

// spans is a collector of traces.
type spans struct {
	collector.UnimplementedTraceServiceServer
	mu  sync.Mutex
	all []*otlp.Span
}

func (s *spans) Export(_ context.Context, r *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, rs := range r.ResourceSpans {
		for _, ss := range rs.ScopeSpans {
			s.all = append(s.all, ss.Spans...)
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

// start returns the trace of a pod's start: all of its spans by name.
func (s *spans) start(pod string) map[string][]*otlp.Span {
	s.mu.Lock()
	defer s.mu.Unlock()
	var id []byte
	for _, span := range s.all {
		for _, a := range span.Attributes {
			if span.Name == "pod start" && a.Key == "k8s.pod.name" && a.Value.GetStringValue() == pod {
				id = span.TraceId
			}
		}
	}
	trace := map[string][]*otlp.Span{}
	for _, span := range s.all {
		if id != nil && slices.Equal(span.TraceId, id) {
			trace[span.Name] = append(trace[span.Name], span)
		}
	}
	return trace
}

// A pod's start is one trace in the collector, from admission to the status
// that the API server accepted, with the runtime's calls below the steps that
// made them; requests to the node's API are traces, too.
func TestTracing(t *testing.T) {
	if harness.Upstream() {
		t.Skip("upstream's spans are others")
	}
	const socket = "/run/otlp.sock"
	listener, err := net.Listen("unix", node.Path(socket))
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(node.Path(socket))
	got := &spans{}
	server := grpc.NewServer()
	collector.RegisterTraceServiceServer(server, got)
	go func() { _ = server.Serve(listener) }()
	defer server.Stop()

	kubelet.Stop()
	defer func() {
		if err := kubelet.StartAndWait(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}()
	traced := node.NewKubelet(harness.KubeletOptions{Flags: nodeFlags, Configure: func(c *kubeletConfig) {
		c.Tracing = &tracingapi.TracingConfiguration{Endpoint: ptr.To("unix://" + socket), SamplingRatePerMillion: ptr.To[int32](1_000_000)}
	}})
	if err := traced.StartAndWait(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer traced.Stop()

	ns := namespace(t)
	create(t, ns, "init.yaml")
	waitReady(t, ns, "init")
	kubectlOK(t, "logs", "-n", ns, "init", "--all-containers")
	until(t, "the trace of the start", func(context.Context) error {
		if len(got.start("init")) == 0 {
			return fmt.Errorf("none of %d spans", len(got.all))
		}
		return nil
	})
	trace := got.start("init")
	root := trace["pod start"][0]
	for name, span := range trace {
		for _, s := range span {
			if s.StartTimeUnixNano < root.StartTimeUnixNano || s.EndTimeUnixNano > root.EndTimeUnixNano {
				t.Errorf("%s is not within the start", name)
			}
		}
	}
	// below wants spans below others, that often at least: steps are repeated
	// when something changes meanwhile.
	below := func(call, step string, times int) {
		t.Helper()
		found := 0
		for _, c := range trace[call] {
			for _, s := range trace[step] {
				if slices.Equal(c.ParentSpanId, s.SpanId) {
					found++
				}
			}
		}
		if found < times {
			t.Errorf("%d calls %s below %s, want %d", found, call, step, times)
		}
	}
	const service = "runtime.v1.RuntimeService/"
	below("admission", "pod start", 1)
	below("Mount", "pod start", 1)
	below("status accepted", "pod start", 1)
	below(service+"RunPodSandbox", "RunSandbox", 1)
	below(service+"CreateContainer", "StartContainer", 3)
	below(service+"StartContainer", "StartContainer", 3)
	if t.Failed() {
		for name, s := range trace {
			t.Logf("%d %s", len(s), name)
		}
	}
	until(t, "the span of the request", func(context.Context) error {
		got.mu.Lock()
		defer got.mu.Unlock()
		if !slices.ContainsFunc(got.all, func(s *otlp.Span) bool { return strings.HasPrefix(s.Name, "GET /containerLogs") }) {
			return fmt.Errorf("not among %d spans", len(got.all))
		}
		return nil
	})
}
