package server

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics of all ports, named and labelled as upstream's. One is shared by the
// ports of a kubelet.
type Metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	inFlight *prometheus.GaugeVec
	sockets  *prometheus.CounterVec
	sessions *prometheus.GaugeVec
}

// NewMetrics makes the metrics and registers them; nil registers none.
func NewMetrics(registerer prometheus.Registerer) (*Metrics, error) {
	labels := []string{"method", "path", "server_type", "long_running"}
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kubelet_http_requests_total", Help: "HTTP requests received.",
		}, labels),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "kubelet_http_requests_duration_seconds", Help: "How long HTTP requests took.", Buckets: prometheus.DefBuckets,
		}, labels),
		inFlight: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "kubelet_http_inflight_requests", Help: "HTTP requests that are being served.",
		}, labels),
		sockets: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kubelet_websocket_streaming_requests_total", Help: "Streaming requests over WebSockets that end at the kubelet.",
		}, []string{"subresource"}),
		sessions: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "kubelet_streaming_sessions", Help: "Open exec, attach and port-forward sessions.",
		}, []string{"subresource"}),
	}
	if registerer == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.requests, m.duration, m.inFlight, m.sockets, m.sessions} {
		if err := registerer.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// measured counts and times the requests of a port; kind is "readonly" or
// "readwrite".
func (m *Metrics) measured(kind string, t *table, next http.Handler) http.Handler {
	if m == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		method, path, start := methodBucket(r.Method), t.bucket(r.URL.Path), time.Now()
		long := strconv.FormatBool(t.long[path])
		m.requests.WithLabelValues(method, path, kind, long).Inc()
		inFlight := m.inFlight.WithLabelValues(method, path, kind, long)
		inFlight.Inc()
		defer func() {
			inFlight.Dec()
			m.duration.WithLabelValues(method, path, kind, long).Observe(time.Since(start).Seconds())
		}()
		next.ServeHTTP(w, r)
	})
}

// methodBucket keeps made-up methods from making series.
func methodBucket(method string) string {
	switch method {
	case http.MethodOptions, http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut,
		http.MethodDelete, http.MethodTrace, http.MethodConnect:
		return method
	}
	return "other"
}

// bucket is the first element of a path that there is, of /metrics two.
func (t *table) bucket(path string) string {
	first, rest, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if first == "metrics" && rest != "" {
		second, _, _ := strings.Cut(rest, "/")
		first += "/" + second
	}
	if t.buckets[first] {
		return first
	}
	return "other"
}
