package tracing

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
)

// collecting is a collector, with a health service that notes who called.
type collecting struct {
	collector.UnimplementedTraceServiceServer
	address string
	mu      sync.Mutex
	spans   map[string]*otlp.Span
	service map[string]string
	callers []string
}

func newCollector(t *testing.T) *collecting {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &collecting{address: l.Addr().String(), spans: map[string]*otlp.Span{}, service: map[string]string{}}
	s := grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
		if strings.Contains(info.FullMethod, "Health") {
			md, _ := metadata.FromIncomingContext(ctx)
			c.mu.Lock()
			c.callers = append(c.callers, md.Get("traceparent")...)
			c.mu.Unlock()
		}
		return handle(ctx, req)
	}))
	collector.RegisterTraceServiceServer(s, c)
	grpc_health_v1.RegisterHealthServer(s, health.NewServer())
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return c
}

func (c *collecting) Export(_ context.Context, r *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, rs := range r.ResourceSpans {
		for k, v := range attributes(rs.Resource.Attributes) {
			c.service[k] = v
		}
		for _, ss := range rs.ScopeSpans {
			for _, s := range ss.Spans {
				c.spans[s.Name] = s
			}
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

func attributes(list []*common.KeyValue) map[string]string {
	m := map[string]string{}
	for _, a := range list {
		m[a.Key] = a.Value.GetStringValue()
	}
	return m
}

// run runs a provider; the function ends it, which sends what there is.
func run(t *testing.T, c Config) (*Provider, func()) {
	p, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	return p, func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// One request through all the edges is one trace, and part of its caller's.
func TestSpansHangTogether(t *testing.T) {
	c := newCollector(t)
	p, end := run(t, Config{Endpoint: c.address, SamplingRatePerMillion: 0, Node: "n1", Version: "v1"})
	tracer := p.Tracer()

	conn, err := grpc.NewClient(c.address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithChainUnaryInterceptor(Unary(tracer)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var behind http.Header
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		behind = r.Header
		w.WriteHeader(http.StatusTeapot)
	}))
	defer backend.Close()
	front := httptest.NewServer(Handler(tracer, func(*http.Request) string { return "containerLogs" }, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, err := grpc_health_v1.NewHealthClient(conn).Check(r.Context(), &grpc_health_v1.HealthCheckRequest{Service: "none"})
		if err == nil {
			t.Error("health of a service that is not there")
		}
		req, _ := http.NewRequestWithContext(r.Context(), http.MethodGet, backend.URL+"/x", nil)
		resp, err := (&http.Client{Transport: Transport(tracer, http.DefaultTransport)}).Do(req)
		if err != nil {
			t.Error(err)
			return
		}
		resp.Body.Close()
		if _, ok := w.(http.Flusher); !ok {
			t.Error("the writer cannot flush any more")
		}
		if _, ok := w.(http.Hijacker); !ok {
			t.Error("the writer cannot be hijacked any more")
		}
		http.Error(w, "no", http.StatusInternalServerError)
	})))
	defer front.Close()

	const caller = "0123456789abcdef0123456789abcdef"
	get := func(parent string) {
		t.Helper()
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, front.URL+"/containerLogs/ns/pod/c", nil)
		req.Header.Set("traceparent", parent)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	get("00-" + caller + "-1122334455667788-01")
	end()

	const checkName = "grpc.health.v1.Health/Check"
	c.mu.Lock()
	defer c.mu.Unlock()
	served, called, sent := c.spans["GET /containerLogs"], c.spans[checkName], c.spans["HTTP GET"]
	if served == nil || called == nil || sent == nil {
		t.Fatalf("spans: %v", c.spans)
	}
	for _, s := range []*otlp.Span{served, called, sent} {
		if got := trace.TraceID(s.TraceId).String(); got != caller {
			t.Errorf("%s is of the trace %s, want the caller's", s.Name, got)
		}
	}
	if got := trace.SpanID(served.ParentSpanId).String(); got != "1122334455667788" {
		t.Errorf("the request's parent is %s", got)
	}
	if string(called.ParentSpanId) != string(served.SpanId) || string(sent.ParentSpanId) != string(served.SpanId) {
		t.Error("what the request caused does not hang below it")
	}
	if served.Status.GetCode() != otlp.Status_STATUS_CODE_ERROR || called.Status.GetCode() != otlp.Status_STATUS_CODE_ERROR || sent.Status.GetCode() != otlp.Status_STATUS_CODE_ERROR {
		t.Error("failures are not shown")
	}
	if want := "00-" + caller + "-" + trace.SpanID(called.SpanId).String() + "-01"; !slices.Equal(c.callers, []string{want}) {
		t.Errorf("the server of a call was told %q, want %q", c.callers, want)
	}
	if got, want := behind.Get("traceparent"), "00-"+caller+"-"+trace.SpanID(sent.SpanId).String()+"-01"; got != want {
		t.Errorf("the server of a request was told %q, want %q", got, want)
	}
	if c.service["service.name"] != "kubelet" || c.service["service.instance.id"] != "n1" {
		t.Errorf("the sender is %v", c.service)
	}
}

func TestSampling(t *testing.T) {
	for _, tc := range []struct {
		rate          int32
		callerSamples bool
		sent          bool
	}{{0, false, false}, {0, true, true}, {1e6, true, true}} {
		c := newCollector(t)
		p, end := run(t, Config{Endpoint: c.address, SamplingRatePerMillion: tc.rate})
		ctx := t.Context()
		if tc.callerSamples {
			ctx = trace.ContextWithRemoteSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{
				TraceID: trace.TraceID{1}, SpanID: trace.SpanID{1}, TraceFlags: trace.FlagsSampled, Remote: true}))
		}
		_, span := p.Tracer().Start(ctx, "x")
		span.End()
		end()
		c.mu.Lock()
		if got := c.spans["x"] != nil; got != tc.sent {
			t.Errorf("%+v: sent is %v", tc, got)
		}
		c.mu.Unlock()
	}
	if _, err := New(Config{SamplingRatePerMillion: 1e6 + 1}); err == nil {
		t.Error("more than all is accepted")
	}
}

// A collector that is not there, or does not answer, holds nobody up.
func TestCollectorIsAway(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for _, endpoint := range []string{"127.0.0.1:1", silent.Addr().String(), "unix:///nonexistent/socket"} {
		p, end := run(t, Config{Endpoint: endpoint, SamplingRatePerMillion: 1e6})
		for range 5000 { // more than are kept
			_, span := p.Tracer().Start(t.Context(), "x")
			span.End()
		}
		ended := make(chan struct{})
		go func() { end(); close(ended) }()
		select {
		case <-ended:
		case <-time.After(10 * farewell):
			t.Errorf("%s: the provider does not end", endpoint)
		}
	}
}

// Off is off: nothing stands between caller and callee.
func TestOff(t *testing.T) {
	var p *Provider
	if p.Tracer() != nil {
		t.Fatal("a provider that is not there has a tracer")
	}
	mux, next := http.NewServeMux(), &http.Transport{}
	if got := Handler(p.Tracer(), nil, mux); got != http.Handler(mux) {
		t.Error("requests that are served are wrapped")
	}
	if got := Transport(p.Tracer(), next); got != http.RoundTripper(next) {
		t.Error("requests that are sent are wrapped")
	}
}
