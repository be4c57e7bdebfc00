package cri

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"kubelet/internal/tracing"
)

const (
	// maxMessage is the largest answer taken; the API's own default of 4 MiB
	// is too small for a list of a full node.
	maxMessage = 16 << 20

	defaultTimeout        = 2 * time.Minute
	defaultConnectTimeout = 30 * time.Second
)

// Config of a Client.
type Config struct {
	// Endpoint of the runtime service, unix:///path. A bare path is taken
	// with a warning.
	Endpoint string
	// ImageEndpoint of the image service; empty means Endpoint.
	ImageEndpoint string
	// Timeout of calls that change something (runtimeRequestTimeout); 0 means
	// 2 min. RunPodSandbox may take twice as long, StopContainer the grace
	// period longer. Calls that only read have short deadlines of their own,
	// see readTimeout and probeTimeout.
	Timeout time.Duration
	// ConnectTimeout bounds WaitReady; 0 means 30 s.
	ConnectTimeout time.Duration
	// Hold lets the runtime finish the calls under way if this process is
	// killed, instead of cancelling them; see holder.
	Hold bool
	// Detach, if set, is told the process that holds the connection, to move
	// it where it outlives this one. It must not block.
	Detach func(pid int)
	// Tracer makes a span of each call; nil for none.
	Tracer trace.Tracer
	// Registerer of the metrics; nil registers none.
	Registerer prometheus.Registerer
}

// Client calls the container runtime. All methods may be called at the same
// time. It reconnects by itself when the runtime was away.
type Client struct {
	rt      runtimeapi.RuntimeServiceClient
	streams runtimeapi.RuntimeServiceClient
	img     runtimeapi.ImageServiceClient

	timeout        time.Duration
	connectTimeout time.Duration

	calls   inFlight
	metrics metrics

	// Empty and nil where the services were given (NewOver).
	path, imagePath string
	bare            bool
	conns           []*grpc.ClientConn
	holder          holder
}

// New returns a client of the runtime at cfg.Endpoint. It does not connect;
// see WaitReady.
func New(cfg Config) (*Client, error) {
	path, bare, err := socketPath(cfg.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("runtime service: %w", err)
	}
	imagePath := path
	if cfg.ImageEndpoint != "" {
		var imageBare bool
		imagePath, imageBare, err = socketPath(cfg.ImageEndpoint)
		if err != nil {
			return nil, fmt.Errorf("image service: %w", err)
		}
		bare = bare || imageBare
	}
	c := &Client{path: path, imagePath: imagePath, bare: bare}
	connected := func(net.Conn) {}
	if cfg.Hold {
		c.holder.detach = cfg.Detach
		connected = c.holder.hold
	}
	conn, err := dial(path, connected, cfg.Tracer)
	if err != nil {
		return nil, fmt.Errorf("runtime service: %w", err)
	}
	c.conns = []*grpc.ClientConn{conn}
	imageConn := conn
	if imagePath != path {
		if imageConn, err = dial(imagePath, func(net.Conn) {}, cfg.Tracer); err != nil {
			return nil, errors.Join(fmt.Errorf("image service: %w", err), c.Close())
		}
		c.conns = append(c.conns, imageConn)
	}
	// Streams have a connection of their own, which is never held: a stream
	// that nobody reads any more would fill it.
	streams, err := dial(path, func(net.Conn) {}, nil)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("runtime service: %w", err), c.Close())
	}
	c.conns = append(c.conns, streams)
	c.streams = runtimeapi.NewRuntimeServiceClient(streams)
	if err := c.serve(cfg, runtimeapi.NewRuntimeServiceClient(conn), runtimeapi.NewImageServiceClient(imageConn)); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// NewOver returns a client over services that are reached already, such as
// the in-memory runtime of package critest without a socket. The endpoints of
// cfg are not used.
func NewOver(cfg Config, rt runtimeapi.RuntimeServiceClient, img runtimeapi.ImageServiceClient) (*Client, error) {
	c := &Client{streams: rt}
	if err := c.serve(cfg, rt, img); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *Client) serve(cfg Config, rt runtimeapi.RuntimeServiceClient, img runtimeapi.ImageServiceClient) error {
	c.rt, c.img, c.timeout, c.connectTimeout = rt, img, cfg.Timeout, cfg.ConnectTimeout
	if c.timeout <= 0 {
		c.timeout = defaultTimeout
	}
	if c.connectTimeout <= 0 {
		c.connectTimeout = defaultConnectTimeout
	}
	c.metrics = newMetrics(&c.calls)
	if err := c.metrics.register(cfg.Registerer); err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	return nil
}

func dial(path string, connected func(net.Conn), tracer trace.Tracer) (*grpc.ClientConn, error) {
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		// Runtimes refuse the socket's path as an HTTP/2 authority.
		grpc.WithAuthority("localhost"),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			c, err := (&net.Dialer{}).DialContext(ctx, "unix", addr)
			if err == nil {
				connected(c)
			}
			return c, err
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		// A restarted runtime is back within a second or two: look often.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
		// A process that ended closes its socket and needs no ping; this is
		// for one that is stopped or stuck while a stream waits. gRPC servers
		// by default cut off who pings more often than every 5 min.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 6 * time.Minute, Timeout: 30 * time.Second}),
		// An idle connection costs nothing, making a new one costs latency.
		grpc.WithIdleTimeout(0),
	}
	if tracer != nil {
		options = append(options, grpc.WithChainUnaryInterceptor(tracing.Unary(tracer)))
	}
	conn, err := grpc.NewClient("passthrough:///"+path, options...)
	if err != nil {
		return nil, fmt.Errorf("make client of %s: %w", path, err)
	}
	return conn, nil
}

func closeAll(conns []*grpc.ClientConn) error {
	var errs []error
	for _, c := range conns {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// Close ends the connections; calls in flight fail with an unknown outcome.
func (c *Client) Close() error {
	c.holder.release()
	return closeAll(c.conns)
}

// WaitReady waits until runtime and image service answer, at most
// Config.ConnectTimeout. A runtime that is still starting, or whose socket
// does not exist yet, is waited for; the last error says why it took too long.
func (c *Client) WaitReady(ctx context.Context) error {
	log := klog.FromContext(ctx)
	if c.bare {
		log.Info("Warning: container runtime endpoint is a bare path, which is deprecated; put unix:// before it", "path", c.path)
	}
	ctx, cancel := context.WithTimeout(ctx, c.connectTimeout)
	defer cancel()
	if err := c.waitService(ctx, func(ctx context.Context) error {
		v, err := c.version(ctx, grpc.WaitForReady(true))
		if err == nil {
			log.Info("Container runtime is ready", "runtime", v.RuntimeName, "version", v.RuntimeVersion, "apiVersion", v.RuntimeApiVersion)
		}
		return err
	}); err != nil {
		return fmt.Errorf("wait for the runtime service at %s: %w", c.path, err)
	}
	if err := c.waitService(ctx, func(ctx context.Context) error {
		_, err := c.imageFsInfo(ctx, grpc.WaitForReady(true))
		return err
	}); err != nil {
		return fmt.Errorf("wait for the image service at %s: %w", c.imagePath, err)
	}
	return nil
}

// waitService asks until there is an answer. A missing socket is waited for
// by gRPC itself (WaitForReady); the pause is for a runtime that listens but
// has not loaded its CRI part yet.
func (c *Client) waitService(ctx context.Context, ask func(context.Context) error) error {
	const pause = 200 * time.Millisecond
	var last error
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return last
		case <-time.After(pause):
		}
	}
}

// RuntimePID returns the process id of the runtime that listens on the
// endpoint, as seen from here: 0 if it is in a PID namespace that is not ours
// or below ours.
func (c *Client) RuntimePID(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", c.path)
	if err != nil {
		return 0, fmt.Errorf("find the runtime's process: %w", err)
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("find the runtime's process: %w", err)
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return 0, fmt.Errorf("find the runtime's process: %w", err)
	}
	if credErr != nil {
		return 0, fmt.Errorf("find the runtime's process: %w", credErr)
	}
	return int(cred.Pid), nil
}
