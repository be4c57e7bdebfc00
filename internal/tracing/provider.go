// Package tracing sends OpenTelemetry spans to a collector and makes them of
// what passes through the kubelet's edges: requests that it serves, requests
// that it sends to the API server, calls of the container runtime. The trace
// of a pod's start is made by package worker; the calls of its steps hang
// below it, because the context carries the span.
//
// Whoever makes spans takes an OpenTelemetry tracer, which is nil if tracing is
// off: then nothing is wrapped, intercepted or allocated. Only this package
// knows the SDK. It owns the connection to the collector, and no table.
package tracing

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"k8s.io/klog/v2"
)

// Config is what a Provider is made of; the tracing section of the kubelet's
// configuration.
type Config struct {
	// Endpoint of an OTLP collector that speaks gRPC without TLS, as host:port
	// or a gRPC target; empty is localhost:4317.
	Endpoint string
	// SamplingRatePerMillion is how many of a million traces that begin here
	// are sent. A trace that a caller began is sent if the caller sends it.
	SamplingRatePerMillion int32
	// Node names the sender.
	Node string
	// Version of the kubelet.
	Version string
}

// Provider sends spans.
type Provider struct {
	exporter *otlptrace.Exporter
	early    *early
	sdk      *sdktrace.TracerProvider
}

// New returns a Provider. Spans that end before Run are kept until then, or
// dropped if they are many.
func New(c Config) (*Provider, error) {
	if c.SamplingRatePerMillion < 0 || c.SamplingRatePerMillion > 1e6 {
		return nil, fmt.Errorf("SamplingRatePerMillion is %d, must be between 0 and 1000000", c.SamplingRatePerMillion)
	}
	options := []otlptracegrpc.Option{otlptracegrpc.WithInsecure()}
	if c.Endpoint != "" {
		options = append(options, otlptracegrpc.WithEndpoint(c.Endpoint))
	}
	sampler := sdktrace.NeverSample()
	if c.SamplingRatePerMillion > 0 {
		sampler = sdktrace.TraceIDRatioBased(float64(c.SamplingRatePerMillion) / 1e6)
	}
	spans := &early{}
	return &Provider{
		early:    spans,
		exporter: otlptrace.NewUnstarted(otlptracegrpc.NewClient(options...)),
		sdk: sdktrace.NewTracerProvider(
			sdktrace.WithSampler(sdktrace.ParentBased(sampler)),
			sdktrace.WithSpanProcessor(spans),
			sdktrace.WithResource(resource.NewSchemaless(
				attribute.String("service.name", "kubelet"), attribute.String("service.version", c.Version),
				attribute.String("service.instance.id", c.Node), attribute.String("host.name", c.Node),
			)),
		),
	}, nil
}

// Tracer begins spans. It is nil if the Provider is.
func (p *Provider) Tracer() trace.Tracer {
	if p == nil {
		return nil
	}
	return p.sdk.Tracer("kubelet")
}

// farewell bounds sending what is left at the end.
const farewell = 2 * time.Second

// Run sends spans until ctx ends. A collector that does not answer costs the
// spans, and nothing else.
func (p *Provider) Run(ctx context.Context) error {
	if err := p.exporter.Start(ctx); err != nil {
		return fmt.Errorf("set up connection to the trace collector: %w", err)
	}
	p.early.pass(sdktrace.NewBatchSpanProcessor(&reporting{SpanExporter: p.exporter, logger: klog.FromContext(ctx)}))
	<-ctx.Done()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
	defer cancel()
	if err := p.sdk.Shutdown(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		klog.FromContext(ctx).Error(err, "Last spans could not be sent")
	}
	return nil
}

// reporting tells once that spans cannot be sent, and once that they can
// again.
type reporting struct {
	sdktrace.SpanExporter
	logger klog.Logger
	failed atomic.Bool
}

func (r *reporting) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := r.SpanExporter.ExportSpans(ctx, spans)
	switch was := r.failed.Swap(err != nil); {
	case err != nil && !was:
		r.logger.Error(err, "Spans cannot be sent to the trace collector, they are dropped until they can")
	case err == nil && was:
		r.logger.Info("Spans are sent to the trace collector again")
	}
	return nil
}

// early holds spans until there is somebody to pass them to.
type early struct {
	next atomic.Pointer[sdktrace.SpanProcessor]
	mu   sync.Mutex
	held []sdktrace.ReadOnlySpan
}

// pass passes on what is held, and from now on everything.
func (e *early) pass(to sdktrace.SpanProcessor) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, s := range e.held {
		to.OnEnd(s)
	}
	e.held = nil
	e.next.Store(&to)
}

func (e *early) OnStart(context.Context, sdktrace.ReadWriteSpan) {}

func (e *early) OnEnd(s sdktrace.ReadOnlySpan) {
	if next := e.next.Load(); next != nil {
		(*next).OnEnd(s)
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if next := e.next.Load(); next != nil {
		(*next).OnEnd(s)
		return
	}
	if len(e.held) < sdktrace.DefaultMaxQueueSize {
		e.held = append(e.held, s)
	}
}

func (e *early) ForceFlush(ctx context.Context) error {
	if next := e.next.Load(); next != nil {
		return (*next).ForceFlush(ctx)
	}
	return nil
}

func (e *early) Shutdown(ctx context.Context) error {
	if next := e.next.Load(); next != nil {
		return (*next).Shutdown(ctx)
	}
	return nil
}
