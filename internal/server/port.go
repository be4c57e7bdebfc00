package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"
)

const (
	readHeaderTimeout = 10 * time.Second // the TLS handshake's, too
	readTimeout       = 30 * time.Second
	writeTimeout      = 60 * time.Second
	idleTimeout       = 90 * time.Second
	shutdownTimeout   = 2 * time.Second
	maxHeaderBytes    = 64 << 10
	maxInFlight       = 64
)

// Port is one HTTP listener.
type Port struct {
	purpose string        // for messages: "health checks"
	address string        // host:port
	ready   chan net.Addr // gets the address when listening
	// server is what runs on the listener. It is complete but for the context
	// of requests.
	server *http.Server
	// listen wraps the listener; nil does not.
	listen func(net.Listener) net.Listener
}

// newPort makes a port for short requests that asks nobody who they are.
func newPort(purpose, address string, number int, handler http.Handler) (*Port, error) {
	if number < 1 || number > 65535 {
		return nil, fmt.Errorf("set up port for %s: %d is not a port number", purpose, number)
	}
	return &Port{
		purpose: purpose,
		address: net.JoinHostPort(address, strconv.Itoa(number)),
		ready:   make(chan net.Addr, 1),
		server: &http.Server{
			Handler:           limited(handler, maxInFlight),
			ReadHeaderTimeout: readHeaderTimeout,
			ReadTimeout:       readTimeout,
			WriteTimeout:      writeTimeout,
			IdleTimeout:       idleTimeout,
			MaxHeaderBytes:    maxHeaderBytes,
		},
	}, nil
}

// Run listens and serves until ctx ends. A port that is in use is an error at
// once.
func (p *Port) Run(ctx context.Context) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", p.address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("listen for %s on %s: the port is in use; is another kubelet running? (%w)", p.purpose, p.address, err)
	}
	if err != nil {
		return fmt.Errorf("listen for %s on %s: %w", p.purpose, p.address, err)
	}
	p.ready <- listener.Addr()
	if p.listen != nil {
		listener = p.listen(listener)
	}
	server := p.server
	server.BaseContext = func(net.Listener) context.Context { return ctx }
	server.ErrorLog = klog.NewStandardLogger("WARNING")
	if server.TLSConfig != nil {
		// Anybody can fill a log by connecting and saying nothing.
		server.ErrorLog = newQuietLog(klog.FromContext(ctx))
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		serve := server.Serve
		if server.TLSConfig != nil {
			serve = func(l net.Listener) error { return server.ServeTLS(l, "", "") }
		}
		if err := serve(listener); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve %s on %s: %w", p.purpose, p.address, err)
		}
		return nil
	})
	group.Go(func() error {
		<-ctx.Done()
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		if server.Shutdown(stopping) != nil {
			// Somebody reads slowly; the process ends without waiting.
			_ = server.Close()
		}
		return nil
	})
	return group.Wait()
}

// limited answers 503 to requests beyond a number at once, so that nobody can
// make the kubelet hold memory for them.
func limited(next http.Handler, most int) http.Handler {
	places := make(chan struct{}, most)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case places <- struct{}{}:
			defer func() { <-places }()
			next.ServeHTTP(w, r)
		default:
			w.Header().Set("Retry-After", "1")
			http.Error(w, "too many requests at once", http.StatusServiceUnavailable)
		}
	})
}
