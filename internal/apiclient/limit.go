package apiclient

import (
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/klog/v2"
)

// longWait is how long a request may wait for the client's own limit without
// that being logged.
const longWait = time.Second

// limitedTransport makes requests wait for a limit. The REST client could do so
// itself, but tells how long it took only to the whole process at once.
type limitedTransport struct {
	next    http.RoundTripper
	limiter flowcontrol.RateLimiter
	waits   *prometheus.HistogramVec
}

func (t *limitedTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	start := time.Now()
	err := t.limiter.Wait(req.Context())
	took := time.Since(start)
	t.waits.WithLabelValues(req.Method, req.URL.Host).Observe(took.Seconds())
	if err != nil {
		if req.Body != nil {
			_ = req.Body.Close()
		}
		return nil, fmt.Errorf("wait for the client's own limit of requests: %w", err)
	}
	if took > longWait {
		klog.FromContext(req.Context()).V(3).Info("Request waited for the client's own limit", "waited", took, "method", req.Method, "path", req.URL.Path)
	}
	return t.next.RoundTrip(req)
}

// WrappedRoundTripper lets client-go find the transport below.
func (t *limitedTransport) WrappedRoundTripper() http.RoundTripper { return t.next }

// limit returns a client that waits before each request; limiter nil is no
// limit.
func (m *requestMetrics) limit(client *http.Client, limiter flowcontrol.RateLimiter) *http.Client {
	if limiter == nil {
		return client
	}
	limited := *client
	limited.Transport = &limitedTransport{next: client.Transport, limiter: limiter, waits: m.waits}
	return &limited
}

func newLimiter(qps float32, burst int) flowcontrol.RateLimiter {
	if qps < 0 {
		return nil
	}
	return flowcontrol.NewTokenBucketRateLimiter(qps, burst)
}
