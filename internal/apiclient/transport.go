package apiclient

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// unansweredLimit is how long requests may go without any answer before the
// connections count as stuck. HTTP/2 pings find most dead connections first;
// this covers a peer that still answers pings (a proxy, a load balancer with
// no backend) and HTTP/1.
const unansweredLimit = 8 * time.Second

// observedTransport counts and times every request and watches over the
// health of the connections.
type observedTransport struct {
	next    http.RoundTripper
	metrics *requestMetrics
	counts  *requestCounts
	health  *connectionHealth
}

func (t *observedTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	kind := classify(req)
	t.counts.add(kind)
	start := time.Now()
	t.health.sent(start)
	resp, err := t.next.RoundTrip(req)
	now := time.Now()
	code := "<error>"
	if err == nil {
		code = strconv.Itoa(resp.StatusCode)
	}
	t.metrics.observe(req, kind, code, now.Sub(start))
	t.health.done(err, now)
	if err == nil && kind.Verb != "watch" { // one of those has no size
		resp.Body = &measuredBody{ReadCloser: resp.Body, size: t.metrics.answers.WithLabelValues(req.Method, req.URL.Host)}
	}
	return resp, err
}

// WrappedRoundTripper lets client-go find the transport below.
func (t *observedTransport) WrappedRoundTripper() http.RoundTripper { return t.next }

// measuredBody tells how large the body of an answer was, if it was read to
// its end.
type measuredBody struct {
	io.ReadCloser
	size prometheus.Observer
	read int64
	told bool
}

func (b *measuredBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.read += int64(n)
	if err == io.EOF && !b.told {
		b.told = true
		b.size.Observe(float64(b.read))
	}
	return n, err
}

// connectionHealth closes all connections when no request has been answered
// for unansweredLimit although some were sent. It needs no timer: each
// request has a deadline, heartbeats make sure that there is one, and it is
// the passing of a deadline that asks the question.
type connectionHealth struct {
	reset func()
	// unansweredSince is when the oldest request since the last answer was
	// sent, in Unix nanoseconds, 0 if none.
	unansweredSince atomic.Int64
}

func newConnectionHealth(reset func()) *connectionHealth { return &connectionHealth{reset: reset} }

func (h *connectionHealth) sent(now time.Time) {
	h.unansweredSince.CompareAndSwap(0, now.UnixNano())
}

func (h *connectionHealth) done(err error, now time.Time) {
	switch {
	case err == nil:
		h.unansweredSince.Store(0)
	case errors.Is(err, context.Canceled):
		// The caller gave up; that says nothing about the connection.
	case errors.Is(err, context.DeadlineExceeded):
		since := h.unansweredSince.Load()
		if since != 0 && now.UnixNano()-since >= int64(unansweredLimit) && h.unansweredSince.CompareAndSwap(since, 0) {
			h.reset()
		}
	default:
		// Refused or broken: there is no connection left to be stuck.
		h.unansweredSince.Store(0)
	}
}

// RequestKind is a verb and a resource with its subresource, as API audit
// logs name them: {"patch", "pods/status"}.
type RequestKind struct {
	Verb, Resource string
}

type requestCounts struct {
	mu     sync.Mutex
	counts map[RequestKind]int64
}

func newRequestCounts() *requestCounts {
	return &requestCounts{counts: make(map[RequestKind]int64)}
}

func (c *requestCounts) add(kind RequestKind) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts[kind]++
}

func (c *requestCounts) snapshot() map[RequestKind]int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make(map[RequestKind]int64, len(c.counts))
	for kind, n := range c.counts {
		out[kind] = n
	}
	return out
}

// classify derives verb and resource from a request's method and path:
// [prefix]/api/v1/… or [prefix]/apis/GROUP/VERSION/…, then
// [namespaces/NS/]RESOURCE[/NAME[/SUBRESOURCE]].
func classify(req *http.Request) RequestKind {
	path := req.URL.Path
	var rest []string
	if _, after, ok := strings.Cut(path, "/apis/"); ok {
		if parts := strings.Split(after, "/"); len(parts) > 2 {
			rest = parts[2:]
		}
	} else if _, after, ok := strings.Cut(path, "/api/v1/"); ok {
		rest = strings.Split(after, "/")
	}
	if len(rest) == 0 {
		return RequestKind{strings.ToLower(req.Method), path}
	}
	if rest[0] == "namespaces" && len(rest) > 2 {
		rest = rest[2:]
	}
	kind := RequestKind{Resource: rest[0]}
	named := len(rest) > 1
	if len(rest) > 2 {
		kind.Resource += "/" + rest[2]
	}
	switch req.Method {
	case http.MethodGet:
		switch {
		case strings.Contains(req.URL.RawQuery, "watch="):
			kind.Verb = "watch"
		case named:
			kind.Verb = "get"
		default:
			kind.Verb = "list"
		}
	case http.MethodPost:
		kind.Verb = "create"
	case http.MethodPut:
		kind.Verb = "update"
	default:
		kind.Verb = strings.ToLower(req.Method)
	}
	return kind
}

// requestMetrics are the client metrics that every Kubernetes component has;
// names, labels and buckets are those of component-base, dashboards use them.
type requestMetrics struct {
	total    *prometheus.CounterVec
	duration *prometheus.HistogramVec
	size     *prometheus.HistogramVec
	answers  *prometheus.HistogramVec
	waits    *prometheus.HistogramVec
	// Reviews are asked for the users of the node's own API, by resource.
	reviews     map[string]*prometheus.CounterVec
	reviewTimes map[string]*prometheus.HistogramVec
}

// Buckets of client metrics.
var (
	sizeBuckets = []float64{64, 256, 512, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216}
	timeBuckets = []float64{0.005, 0.025, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60}
)

func newRequestMetrics(reg prometheus.Registerer) (*requestMetrics, error) {
	reviews := func(kind, what string) (*prometheus.CounterVec, *prometheus.HistogramVec) {
		return prometheus.NewCounterVec(prometheus.CounterOpts{
				Name: "apiserver_delegated_" + kind + "_request_total", Help: what + " that were asked of the API server, by status code.",
			}, []string{"code"}), prometheus.NewHistogramVec(prometheus.HistogramOpts{
				Name: "apiserver_delegated_" + kind + "_request_duration_seconds", Help: "Time until the API server answered, in seconds, by status code.",
				Buckets: []float64{0.25, 0.5, 0.7, 1, 1.5, 3, 5, 10},
			}, []string{"code"})
	}
	authn, authnTime := reviews("authn", "Token reviews")
	authz, authzTime := reviews("authz", "Access reviews")
	m := &requestMetrics{
		reviews:     map[string]*prometheus.CounterVec{"tokenreviews": authn, "subjectaccessreviews": authz},
		reviewTimes: map[string]*prometheus.HistogramVec{"tokenreviews": authnTime, "subjectaccessreviews": authzTime},
		size: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "rest_client_request_size_bytes",
			Help:    "Size of requests to the API server, by verb and host.",
			Buckets: sizeBuckets,
		}, []string{"verb", "host"}),
		answers: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "rest_client_response_size_bytes",
			Help:    "Size of the API server's answers, unpacked, by verb and host; watches have none.",
			Buckets: sizeBuckets,
		}, []string{"verb", "host"}),
		waits: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "rest_client_rate_limiter_duration_seconds",
			Help:    "Time that requests waited for the client's own limit, in seconds, by verb and host.",
			Buckets: timeBuckets,
		}, []string{"verb", "host"}),
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rest_client_requests_total",
			Help: "Number of HTTP requests to the API server, by status code, method and host.",
		}, []string{"code", "method", "host"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "rest_client_request_duration_seconds",
			Help:    "Time until the API server answered, in seconds, by verb and host.",
			Buckets: timeBuckets,
		}, []string{"verb", "host"}),
	}
	if reg == nil {
		return m, nil
	}
	for _, collector := range []prometheus.Collector{m.total, m.duration, m.size, m.answers, m.waits, authn, authnTime, authz, authzTime} {
		if err := reg.Register(collector); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *requestMetrics) observe(req *http.Request, kind RequestKind, code string, took time.Duration) {
	m.total.WithLabelValues(code, req.Method, req.URL.Host).Inc()
	m.duration.WithLabelValues(req.Method, req.URL.Host).Observe(took.Seconds())
	if req.ContentLength >= 0 {
		m.size.WithLabelValues(req.Method, req.URL.Host).Observe(float64(req.ContentLength))
	}
	if reviews := m.reviews[kind.Resource]; reviews != nil {
		reviews.WithLabelValues(code).Inc()
		m.reviewTimes[kind.Resource].WithLabelValues(code).Observe(took.Seconds())
	}
}
