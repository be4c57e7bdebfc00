package tracing

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// How spans hang together across processes: https://www.w3.org/TR/trace-context/
// How they are named and what they say: https://opentelemetry.io/docs/specs/semconv/
func propagator() propagation.TextMapPropagator { return propagation.TraceContext{} }

// Handler makes a span of each request, as part of the caller's trace. route
// is the request's path without what is different in each. It belongs behind
// authentication: strangers could fill the collector.
func Handler(t trace.Tracer, route func(*http.Request) string, next http.Handler) http.Handler {
	if t == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		where := route(r)
		ctx := propagator().Extract(r.Context(), propagation.HeaderCarrier(r.Header))
		ctx, span := t.Start(ctx, r.Method+" /"+where, trace.WithSpanKind(trace.SpanKindServer))
		defer span.End()
		if span.IsRecording() {
			span.SetAttributes(attribute.String("http.request.method", r.Method), attribute.String("http.route", "/"+where),
				attribute.String("url.path", r.URL.Path))
			noted := &notedWriter{ResponseWriter: w, code: http.StatusOK}
			w = noted
			defer func() {
				span.SetAttributes(attribute.Int("http.response.status_code", noted.code))
				if noted.code >= http.StatusInternalServerError {
					span.SetStatus(codes.Error, http.StatusText(noted.code))
				}
			}()
		}
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// notedWriter remembers the status code.
type notedWriter struct {
	http.ResponseWriter
	code int
}

func (w *notedWriter) WriteHeader(code int) {
	w.code = code
	w.ResponseWriter.WriteHeader(code)
}

// Unwrap is for http.ResponseController.
func (w *notedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Flush and Hijack are for those that ask for the interfaces.
func (w *notedWriter) Flush() { _ = http.NewResponseController(w.ResponseWriter).Flush() }

func (w *notedWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	w.code = http.StatusSwitchingProtocols
	return http.NewResponseController(w.ResponseWriter).Hijack()
}

// Transport makes a span of each request that is sent, but of watches, which
// last for minutes and say nothing.
func Transport(t trace.Tracer, next http.RoundTripper) http.RoundTripper {
	if t == nil {
		return next
	}
	return &transport{t, next}
}

type transport struct {
	tracer trace.Tracer
	next   http.RoundTripper
}

// WrappedRoundTripper lets client-go find the transport below.
func (t *transport) WrappedRoundTripper() http.RoundTripper { return t.next }

func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Query().Get("watch") != "" {
		return t.next.RoundTrip(r)
	}
	ctx, span := t.tracer.Start(r.Context(), "HTTP "+r.Method, trace.WithSpanKind(trace.SpanKindClient))
	defer span.End()
	// A request that was given must not be changed (http.RoundTripper).
	r = r.Clone(ctx)
	propagator().Inject(ctx, propagation.HeaderCarrier(r.Header))
	if !span.IsRecording() {
		return t.next.RoundTrip(r)
	}
	span.SetAttributes(attribute.String("http.request.method", r.Method), attribute.String("url.path", r.URL.Path),
		attribute.String("server.address", r.URL.Host))
	resp, err := t.next.RoundTrip(r)
	if err != nil {
		span.RecordError(err)
		span.SetStatus(codes.Error, err.Error())
		return resp, err
	}
	span.SetAttributes(attribute.Int("http.response.status_code", resp.StatusCode))
	if resp.StatusCode >= http.StatusBadRequest {
		span.SetStatus(codes.Error, http.StatusText(resp.StatusCode))
	}
	return resp, nil
}

// Unary makes a span of each call, and tells the server of it.
func Unary(t trace.Tracer) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		name := strings.TrimPrefix(method, "/")
		ctx, span := t.Start(ctx, name, trace.WithSpanKind(trace.SpanKindClient))
		defer span.End()
		md, ok := metadata.FromOutgoingContext(ctx)
		if md = md.Copy(); !ok {
			md = metadata.MD{}
		}
		propagator().Inject(ctx, metadataCarrier(md))
		ctx = metadata.NewOutgoingContext(ctx, md)
		err := invoke(ctx, method, req, reply, conn, opts...)
		if !span.IsRecording() {
			return err
		}
		service, verb, _ := strings.Cut(name, "/")
		span.SetAttributes(attribute.String("rpc.system", "grpc"), attribute.String("rpc.service", service), attribute.String("rpc.method", verb),
			attribute.Int64("rpc.grpc.status_code", int64(status.Code(err))))
		if err != nil {
			span.SetStatus(codes.Error, status.Convert(err).Message())
		}
		return err
	}
}

// metadataCarrier puts the trace into a call's metadata.
type metadataCarrier metadata.MD

func (c metadataCarrier) Get(key string) string {
	if v := metadata.MD(c).Get(key); len(v) > 0 {
		return v[0]
	}
	return ""
}

func (c metadataCarrier) Set(key, value string) { metadata.MD(c).Set(key, value) }

func (c metadataCarrier) Keys() []string {
	keys := make([]string, 0, len(c))
	for k := range c {
		keys = append(keys, k)
	}
	return keys
}
