package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"
	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"kubelet/internal/desired"
	"kubelet/internal/observed"
	"kubelet/internal/server/authn"
	"kubelet/internal/tracing"
)

// maxShort is how many requests that are not long are served at once.
const maxShort = 128

// Runtime is the part of the CRI that the API hands requests on to (package
// cri). Each call has its own deadline but ExecSync without a timeout.
type Runtime interface {
	Exec(ctx context.Context, req *runtimeapi.ExecRequest) (url string, err error)
	Attach(ctx context.Context, req *runtimeapi.AttachRequest) (url string, err error)
	PortForward(ctx context.Context, req *runtimeapi.PortForwardRequest) (url string, err error)
	ExecSync(ctx context.Context, id string, cmd []string, timeout time.Duration) (stdout, stderr []byte, exitCode int32, err error)
	CheckpointContainer(ctx context.Context, id, location string, timeout time.Duration) error
}

// Shown is what both the HTTPS port and the read-only port show.
type Shown struct {
	// Pods returns the pods of this node with their newest status. The pods
	// are not modified.
	Pods func() *v1.PodList
	// Handlers of usage and metrics, by path: /stats/summary, /metrics and
	// what is below it.
	Handlers map[string]http.Handler
	// Checks as in HealthzConfig.
	Checks map[string]func() error
	// Measured counts requests; nil does not.
	Measured *Metrics
}

// Config configures the HTTPS port.
type Config struct {
	// Address and Port to listen on (address, port).
	Address string
	Port    int
	TLS     TLSConfig

	// Tracer makes a span of each request of those who may send any; nil for
	// none.
	Tracer trace.Tracer

	Authenticator Authenticator
	Authorizer    Authorizer
	// ExecNeedsCreate has exec, attach and port-forward over a WebSocket, whose
	// request is a GET and so a "get", also need "create".
	ExecNeedsCreate bool

	Shown
	// Desired and Observed are where pods and containers are found.
	Desired  *desired.Table
	Observed *observed.Table
	Runtime  Runtime
	// Logs reads the logs of containers; nil serves none.
	Logs ContainerLogs
	// SplitLogStreams lets a request ask for stdout or stderr alone (gate
	// PodLogsQuerySplitStreams).
	SplitLogStreams bool
	// WebSockets ends WebSocket streams here and speaks SPDY with the runtime
	// (gate ExtendWebSocketsToKubelet). Without, they are the runtime's affair.
	WebSockets bool

	// Debugging serves what is not in Shown (enableDebuggingHandlers), but of
	// that the following only if they are on, too.
	Debugging bool
	// SystemLogs serves /logs/ from SystemLogDir (enableSystemLogHandler), and
	// with SystemLogQuery logs by service, too (enableSystemLogQuery).
	SystemLogs, SystemLogQuery bool
	SystemLogDir               string
	// Profiling serves /debug/pprof (enableProfilingHandler) and with
	// ContentionProfiling what goroutines wait for (enableContentionProfiling).
	Profiling, ContentionProfiling bool
	// SetVerbosity changes the log's verbosity and says so (/debug/flags/v,
	// enableDebugFlagsHandler); nil if that is off.
	SetVerbosity func(level string) (string, error)
	// AllocatedPods returns the pods with the resources that they were given
	// (gate KubeletAllocatedPodsEndpoint); nil serves none.
	AllocatedPods func() []*v1.Pod
	// Configz is the effective configuration: a KubeletConfiguration.
	Configz any
	// Flagz are the flags of the command line, none of them secret (gate
	// ComponentFlagz); nil serves none.
	Flagz map[string]string
	// Statusz says what this program is (gate ComponentStatusz); nil serves
	// none.
	Statusz *Statusz
	// CheckpointDir is where checkpoints of containers are written (gate
	// ContainerCheckpoint); empty serves none.
	CheckpointDir string
}

// Server is the HTTPS port.
type Server struct {
	cfg    Config
	port   *Port
	table  *table
	places chan struct{} // of short requests
	// buffers of copying, *[]byte.
	buffers sync.Pool
	// checkpoints makes names of checkpoints unique.
	checkpoints checkpointNames
}

// New makes the HTTPS port. Run serves it.
func New(cfg Config) (*Server, error) {
	switch {
	case cfg.Authenticator == nil || cfg.Authorizer == nil:
		return nil, errors.New("set up HTTPS port: authenticator and authorizer are needed")
	case cfg.TLS.Certificate == nil:
		return nil, errors.New("set up HTTPS port: a certificate is needed")
	case cfg.Desired == nil || cfg.Observed == nil || cfg.Runtime == nil || cfg.Pods == nil:
		return nil, errors.New("set up HTTPS port: pods and runtime are needed")
	}
	s := &Server{cfg: cfg, places: make(chan struct{}, maxShort)}
	s.buffers.New = func() any { return new([copyBuffer]byte) }
	routes, err := s.routes()
	if err != nil {
		return nil, fmt.Errorf("set up HTTPS port: %w", err)
	}
	s.table = newTable(routes, s.guard)
	handler := cfg.Measured.measured("readwrite", s.table, s.authenticated(
		tracing.Handler(cfg.Tracer, func(r *http.Request) string { return s.table.bucket(r.URL.Path) }, s.table.mux)))
	if s.port, err = newPort("the kubelet API", cfg.Address, cfg.Port, handler); err != nil {
		return nil, err
	}
	server := s.port.server
	server.Handler = handler // each route has its own limit and deadlines
	server.WriteTimeout = 0
	server.TLSConfig = cfg.TLS.config()
	server.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		return withGuest(authn.WithConnection(ctx), conn)
	}
	s.port.listen = newDoor(maxStrangers, maxStrangersPerAddress).guarded
	if cfg.Debugging && cfg.Profiling && cfg.ContentionProfiling {
		runtime.SetBlockProfileRate(1)
	}
	return s, nil
}

// Run listens and serves until ctx ends. Sessions end with it.
func (s *Server) Run(ctx context.Context) error { return s.port.Run(ctx) }

// short bounds the requests that are served at once.
func (s *Server) short(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case s.places <- struct{}{}:
			defer func() { <-s.places }()
			next.ServeHTTP(w, r)
		default:
			w.Header().Set("Retry-After", "1")
			http.Error(w, "too many requests at once", http.StatusServiceUnavailable)
		}
	})
}

// routes lists every endpoint of the port, and what there is in place of those
// that are off.
func (s *Server) routes() ([]route, error) {
	routes := s.cfg.Shown.routes()
	if !s.cfg.Debugging {
		return slices.Concat(routes, debuggingDisabled(), []route{nothing}), nil
	}
	logs, err := s.systemLogRoutes()
	if err != nil {
		return nil, err
	}
	routes = slices.Concat(routes, logs, s.profilingRoutes(), s.debugFlagRoutes(),
		s.runRoutes(), s.execRoutes(), s.attachRoutes(), s.portForwardRoutes(), s.containerLogRoutes(),
		s.podRoutes(), s.checkpointRoutes(), s.configzRoutes(), s.flagzRoutes())
	// Last, because it shows the others.
	routes = append(routes, s.statuszRoutes(routes)...)
	return append(routes, nothing), nil
}

// nothing is what is at all other paths. Those who may not use the node's API
// do not learn which these are.
var nothing = route{pattern: "/", access: proxyAccess, serve: http.NotFound}

// debuggingDisabled answers where the debugging handlers would be.
func debuggingDisabled() (routes []route) {
	for _, bucket := range []string{"run", "exec", "attach", "portForward", "containerLogs", "runningpods", "logs"} {
		access := proxyAccess
		switch bucket {
		case "runningpods":
			access = podsAccess
		case "logs":
			access = logAccess
		}
		routes = append(routes, disabled("Debug endpoints are disabled.", bucket, access, "/"+bucket+"/")...)
	}
	return append(routes, disabled("Debug endpoints are disabled.", "pprof", proxyAccess, "/debug/pprof/")...)
}

// both returns a path without and with a slash at its end.
func both(path string) []string { return []string{path, path + "/{$}"} }

// at makes the same route at several patterns.
func at(patterns []string, r route) (routes []route) {
	for _, pattern := range patterns {
		r.pattern = pattern
		routes = append(routes, r)
	}
	return routes
}

// fail answers with an error in plain text.
func fail(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_, _ = w.Write([]byte(text))
}

// quote cuts what somebody sent to a length that is fit for a log.
func quote(words []string) string {
	const most = 512
	text := strings.Join(words, " ")
	if len(text) > most {
		text = text[:most] + "…"
	}
	return text
}
