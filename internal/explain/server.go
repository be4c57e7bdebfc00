package explain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
)

const (
	// maxClients bounds connections at one time: it is people who ask.
	maxClients = 16
	// writeTimeout bounds each report, so that a client that stops reading
	// is dropped.
	writeTimeout = 5 * time.Second
	// watchInterval is the least time between two reports of a watch.
	watchInterval = 200 * time.Millisecond
)

// ServerConfig of a Server.
type ServerConfig struct {
	// Path of the socket, <root>/explain.sock.
	Path  string
	Table *Table
	// Events returns what happened to a pod lately; nil for none. It must
	// not block.
	Events func(types.UID) []Event
}

// Server answers on a unix socket that only root, or the user that the agent
// runs as, may use: messages can name what pods keep secret from each other.
type Server struct {
	config ServerConfig
}

// NewServer returns a Server that listens on nothing yet.
func NewServer(config ServerConfig) (*Server, error) {
	if config.Path == "" || config.Table == nil {
		return nil, errors.New("the explain server needs a socket path and a table")
	}
	return &Server{config: config}, nil
}

// Run serves until the context ends, and removes the socket then. A socket
// that a killed agent left behind is replaced; one that somebody answers on,
// or a file that is no socket, is an error.
func (s *Server) Run(ctx context.Context) error {
	listener, err := listen(s.config.Path)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", s.config.Path, err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+podsPath, s.pods)
	server := &http.Server{
		Handler:           permittedOnly(mux),
		ReadHeaderTimeout: writeTimeout,
		ReadTimeout:       writeTimeout,
		IdleTimeout:       writeTimeout,
		MaxHeaderBytes:    8 << 10,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, peerKey{}, conn)
		},
		ErrorLog: log.New(io.Discard, "", 0), // clients that break off are no news
	}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	err = server.Serve(&guard{UnixListener: listener, free: make(chan struct{}, maxClients)})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("serve on %s: %w", s.config.Path, err)
}

func listen(path string) (*net.UnixListener, error) {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case info.Mode().Type() != fs.ModeSocket:
		return nil, errors.New("a file that is no socket is in the way")
	default:
		conn, err := net.DialTimeout("unix", path, time.Second)
		if err == nil {
			conn.Close()
			return nil, errors.New("another kubelet answers there")
		}
		if !errors.Is(err, unix.ECONNREFUSED) {
			return nil, err
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	// Until here the umask decides, but each connection is checked as well.
	if err := os.Chmod(path, 0o600); err != nil {
		listener.Close()
		return nil, err
	}
	return listener, nil
}

// guard accepts only so many connections at a time; further ones wait in the
// kernel's queue.
type guard struct {
	*net.UnixListener
	free chan struct{}
}

func (g *guard) Accept() (net.Conn, error) {
	g.free <- struct{}{} // given back when a connection ends, by the server's end too
	release := sync.OnceFunc(func() { <-g.free })
	conn, err := g.AcceptUnix()
	if err != nil {
		release()
		return nil, err
	}
	return &guarded{UnixConn: conn, release: release}, nil
}

type guarded struct {
	*net.UnixConn
	release func()
}

func (c *guarded) Close() error {
	defer c.release()
	return c.UnixConn.Close()
}

// peerKey is where a request's context has its connection.
type peerKey struct{}

// permittedOnly refuses requests of other users than root and the agent's own.
func permittedOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, ok := r.Context().Value(peerKey{}).(*guarded)
		err := errors.New("peer is unknown")
		if ok {
			err = permitted(conn.UnixConn)
		}
		if err != nil {
			klog.FromContext(r.Context()).Info("Refused a client of the explain socket", "err", err)
			w.Header().Set("Connection", "close")
			http.Error(w, "only root may ask", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// permitted asks the kernel who is at the other end.
func permitted(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return err
	}
	if credErr != nil {
		return credErr
	}
	if cred.Uid != 0 && int(cred.Uid) != os.Geteuid() {
		return fmt.Errorf("user %d is not root", cred.Uid)
	}
	return nil
}

func (s *Server) report() Report {
	entries := s.config.Table.Snapshot()
	report := Report{Time: time.Now(), Pods: make([]Pod, len(entries))}
	for i, e := range entries {
		report.Pods[i] = Pod{Entry: e}
		if s.config.Events != nil {
			report.Pods[i].Events = s.config.Events(e.UID)
		}
	}
	return report
}

func (s *Server) pods(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	control, encoder := http.NewResponseController(w), json.NewEncoder(w)
	send := func() error {
		if err := control.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
			return err
		}
		if err := encoder.Encode(s.report()); err != nil {
			return err
		}
		return control.Flush()
	}
	if r.URL.Query().Get(watchQuery) != "true" {
		_ = send()
		return
	}
	// The request has been read; from now on only the client's end counts.
	if control.SetReadDeadline(time.Time{}) != nil {
		return
	}
	for {
		changed := s.config.Table.Changed()
		if send() != nil {
			return
		}
		pause := time.NewTimer(watchInterval)
		select {
		case <-r.Context().Done():
			pause.Stop()
			return
		case <-pause.C:
		}
		select {
		case <-r.Context().Done():
			return
		case <-changed:
		}
	}
}
