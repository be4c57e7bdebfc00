package apiclient

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/connrotation"
	"k8s.io/client-go/util/flowcontrol"

	"kubelet/internal/tracing"
)

// Defaults of KubeletConfiguration, used for zero fields of Config.
const (
	defaultQPS         = 50
	defaultBurst       = 100
	defaultContentType = "application/vnd.kubernetes.protobuf"
	defaultTimeout     = 30 * time.Second
	defaultHeartbeat   = 10 * time.Second
)

// Config says how to reach the API server.
type Config struct {
	// Kubeconfig is the file with address and credentials. Certificate and
	// token files that it names are read again when they change.
	Kubeconfig string
	// REST is used in place of Kubeconfig when not nil. It is not modified.
	REST *rest.Config

	// QPS and Burst bound ordinary requests, and apart from them the opening
	// of watches. Zero means 50 and 100; a negative QPS means no limit.
	QPS   float32
	Burst int
	// EventQPS and EventBurst bound the writing of events. Zero QPS means no
	// limit.
	EventQPS   float32
	EventBurst int

	// ContentType of request bodies; empty means protobuf. Patches are JSON
	// always.
	ContentType string
	// Timeout is the deadline of one request; zero means 30 s.
	Timeout time.Duration
	// HeartbeatTimeout is the deadline of node status and lease requests;
	// zero means 10 s. It should be well below the lease's duration.
	HeartbeatTimeout time.Duration
	// UserAgent; empty means client-go's default for this program.
	UserAgent string
	// Tracer makes a span of each request but watches; nil for none.
	Tracer trace.Tracer
	// Registerer takes the rest_client_* metrics and that of the client
	// certificate's age; nil means none.
	Registerer prometheus.Registerer
}

// Client is safe for use by many goroutines.
type Client struct {
	codecs    codecs
	timeout   time.Duration
	heartbeat time.Duration

	core, coreWatch, coreHeartbeat, coreEvents *rest.RESTClient
	leases                                     *rest.RESTClient
	runtimeClasses, runtimeClassWatch          *rest.RESTClient
	authentication, authorization              *rest.RESTClient

	counts *requestCounts
	health *connectionHealth
}

// New prepares a client. It reads the kubeconfig but makes no connection, so
// an API server that is away is no error.
func New(cfg Config) (*Client, error) {
	base, err := restConfig(cfg)
	if err != nil {
		return nil, err
	}
	codecs, err := newCodecs()
	if err != nil {
		return nil, err
	}
	metrics, err := newRequestMetrics(cfg.Registerer)
	if err != nil {
		return nil, err
	}
	if cfg.Registerer != nil {
		if err := cfg.Registerer.Register(newCertificateTTL(base.TLSClientConfig)); err != nil {
			return nil, err
		}
	}
	dial := base.Dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext
	}
	dialer := connrotation.NewDialer(dial)
	base.Dial = dialer.DialContext
	c := &Client{
		codecs:    codecs,
		timeout:   orDefault(cfg.Timeout, defaultTimeout),
		heartbeat: orDefault(cfg.HeartbeatTimeout, defaultHeartbeat),
		counts:    newRequestCounts(),
		health:    newConnectionHealth(dialer.CloseAll),
	}
	base.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return &observedTransport{next: next, metrics: metrics, counts: c.counts, health: c.health}
	})
	base.Wrap(func(next http.RoundTripper) http.RoundTripper { return tracing.Transport(cfg.Tracer, next) })
	httpClient, err := rest.HTTPClientFor(base)
	if err != nil {
		return nil, fmt.Errorf("set up connection to API server: %w", err)
	}

	qps, burst := orDefault(cfg.QPS, defaultQPS), orDefault(cfg.Burst, defaultBurst)
	ordinary, watches := newLimiter(qps, burst), newLimiter(qps, burst)
	var events flowcontrol.RateLimiter
	if cfg.EventQPS > 0 {
		events = newLimiter(cfg.EventQPS, max(cfg.EventBurst, 1))
	}
	for _, part := range []struct {
		into    **rest.RESTClient
		group   schema.GroupVersion
		limiter flowcontrol.RateLimiter
	}{
		{&c.core, v1.SchemeGroupVersion, ordinary},
		{&c.coreWatch, v1.SchemeGroupVersion, watches},
		{&c.coreHeartbeat, v1.SchemeGroupVersion, nil},
		{&c.coreEvents, v1.SchemeGroupVersion, events},
		{&c.leases, coordinationv1.SchemeGroupVersion, nil},
		{&c.runtimeClasses, nodev1.SchemeGroupVersion, ordinary},
		{&c.runtimeClassWatch, nodev1.SchemeGroupVersion, watches},
		// Somebody waits at the node's own API; it bounds what it asks.
		{&c.authentication, authenticationv1.SchemeGroupVersion, nil},
		{&c.authorization, authorizationv1.SchemeGroupVersion, nil},
	} {
		*part.into, err = c.groupClient(base, metrics.limit(httpClient, part.limiter), part.group)
		if err != nil {
			return nil, fmt.Errorf("set up client for %s: %w", part.group, err)
		}
	}
	return c, nil
}

func restConfig(cfg Config) (*rest.Config, error) {
	var base *rest.Config
	switch {
	case cfg.REST != nil:
		base = rest.CopyConfig(cfg.REST)
	case cfg.Kubeconfig != "":
		loaded, err := clientcmd.BuildConfigFromFlags("", cfg.Kubeconfig)
		if err != nil {
			return nil, fmt.Errorf("load kubeconfig %q: %w", cfg.Kubeconfig, err)
		}
		base = loaded
	default:
		return nil, errors.New("load kubeconfig: no file named")
	}
	base.ContentType = orDefault(cfg.ContentType, defaultContentType)
	base.AcceptContentTypes = base.ContentType
	if base.ContentType != runtime.ContentTypeJSON {
		base.AcceptContentTypes += "," + runtime.ContentTypeJSON
	}
	base.UserAgent = orDefault(cfg.UserAgent, rest.DefaultKubernetesUserAgent())
	// The client's own timeout would cut watches; each request gets its
	// deadline from its context instead.
	base.Timeout = 0
	return base, nil
}

func (c *Client) groupClient(base *rest.Config, httpClient *http.Client, gv schema.GroupVersion) (*rest.RESTClient, error) {
	cfg := rest.CopyConfig(base)
	cfg.GroupVersion = &gv
	cfg.APIPath = "/apis"
	if gv.Group == "" {
		cfg.APIPath = "/api"
	}
	cfg.NegotiatedSerializer = c.codecs.negotiated
	cfg.QPS = -1 // limitedTransport has the limit
	return rest.RESTClientForConfigAndClient(cfg, httpClient)
}

// Requests returns how many requests were sent so far, by verb and resource.
func (c *Client) Requests() map[RequestKind]int64 { return c.counts.snapshot() }

// ResetConnections closes every connection to the API server. Requests under
// way fail, watches are opened again. The client does this by itself when
// requests go unanswered; certificate rotation may ask for it too.
func (c *Client) ResetConnections() { c.health.reset() }

// do sends an ordinary request and decodes the answer.
func (c *Client) do(ctx context.Context, req *rest.Request, into runtime.Object) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	return req.Do(ctx).Into(into)
}

// beat sends a heartbeat request.
func (c *Client) beat(ctx context.Context, req *rest.Request, into runtime.Object) error {
	ctx, cancel := context.WithTimeout(ctx, c.heartbeat)
	defer cancel()
	return req.Do(ctx).Into(into)
}

func orDefault[T comparable](value, fallback T) T {
	var zero T
	if value == zero {
		return fallback
	}
	return value
}
