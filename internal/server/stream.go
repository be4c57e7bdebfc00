package server

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
	"k8s.io/streaming/pkg/httpstream"
)

// Streams are the runtime's: it serves each exec, attach and port-forward at a
// URL of its own, with a framing that is the client's affair. What arrives as
// SPDY, or as a WebSocket of the older protocols, is handed through byte for
// byte. WebSockets of the newer ones, which runtimes do not speak, end here
// (socket.go). No session has an idle timeout; TCP keep-alives on both sides
// find peers that are gone.

const (
	runtimeDialTimeout = 10 * time.Second
	// upgradeTimeout is how long the runtime may take to accept a stream.
	upgradeTimeout = 30 * time.Second
	// lingerTimeout is how long one side may go on after the other has ended.
	lingerTimeout = 5 * time.Second
	copyBuffer    = 32 << 10
	// maxRefusal bounds what is handed on of a runtime's error.
	maxRefusal = 64 << 10
)

const (
	headerProtocol       = "X-Stream-Protocol-Version"
	headerAccepted       = "X-Accepted-Stream-Protocol-Versions"
	headerSocketProtocol = "Sec-Websocket-Protocol"
)

// session is one exec, attach or port-forward.
type session struct {
	kind      string // the subresource: "exec", "attach", "portforward"
	pod       *v1.Pod
	container string
	command   []string
	streams   streams
}

// streams are what exec and attach connect.
type streams struct{ stdin, stdout, stderr, tty bool }

// parseStreams reads the query of exec and attach. A terminal has no stderr of
// its own.
func parseStreams(query url.Values) (streams, error) {
	on := func(name string) bool { return query.Get(name) == "1" }
	o := streams{stdin: on("input"), stdout: on("output"), stderr: on("error"), tty: on("tty")}
	o.stderr = o.stderr && !o.tty
	if !o.stdin && !o.stdout && !o.stderr {
		return o, errors.New("you must specify at least 1 of stdin, stdout, stderr")
	}
	return o, nil
}

// upgradable refuses requests that cannot become a stream.
func upgradable(w http.ResponseWriter, r *http.Request) bool {
	if httpstream.IsUpgradeRequest(r) && r.ProtoMajor == 1 {
		return true
	}
	fail(w, http.StatusBadRequest, "Upgrade request required")
	return false
}

// refuse answers with an error of the runtime.
func refuse(w http.ResponseWriter, err error) {
	code := http.StatusInternalServerError
	switch status.Code(err) {
	case codes.NotFound:
		code = http.StatusNotFound
	case codes.ResourceExhausted:
		w.Header().Set("Retry-After", "60")
		code = http.StatusTooManyRequests
	}
	fail(w, code, err.Error())
}

// record logs a session, who it is for and how long it lasts, and counts it.
func (s *Server) record(r *http.Request, n session, serve func() error) {
	logger := klog.FromContext(r.Context()).WithValues("subresource", n.kind, "pod", klog.KObj(n.pod), "podUID", n.pod.UID)
	if n.container != "" {
		logger = logger.WithValues("container", n.container)
	}
	var user string
	if u := userOf(r.Context()); u != nil {
		user = u.Name
	}
	logger.Info("Session started", "user", user, "remote", r.RemoteAddr, "command", quote(n.command), "stdin", n.streams.stdin, "tty", n.streams.tty)
	begin := time.Now()
	if m := s.cfg.Measured; m != nil {
		open := m.sessions.WithLabelValues(n.kind)
		open.Inc()
		defer open.Dec()
	}
	if err := serve(); err != nil {
		logger.Info("Session failed", "user", user, "duration", time.Since(begin), "err", err)
		return
	}
	logger.Info("Session ended", "user", user, "duration", time.Since(begin))
}

// backend is an upgraded connection to the runtime.
type backend struct {
	net.Conn
	reader *bufio.Reader // holds what came with the answer
	answer *http.Response
}

func (b *backend) Read(p []byte) (int, error) { return b.reader.Read(p) }

// CloseWrite ends what is sent to the runtime.
func (b *backend) CloseWrite() error {
	endWrite(b.Conn)
	return nil
}

// refusal is an answer of the runtime that is no upgrade.
type refusal struct {
	code   int
	header http.Header
	body   []byte
}

func (r *refusal) Error() string {
	return fmt.Sprintf("the runtime refuses the stream: %d %s", r.code, bytes.TrimSpace(r.body))
}

// write hands the answer on to the client.
func (r *refusal) write(w http.ResponseWriter) {
	for _, name := range []string{"Content-Type", headerAccepted} {
		for _, value := range r.header.Values(name) {
			w.Header().Add(name, value)
		}
	}
	w.WriteHeader(r.code)
	_, _ = w.Write(r.body)
}

// connect asks the runtime to upgrade to a stream.
func connect(ctx context.Context, location, method string, header http.Header) (*backend, error) {
	target, err := url.Parse(location)
	if err != nil || target.Host == "" || target.Scheme != "http" && target.Scheme != "https" {
		return nil, fmt.Errorf("connect to the runtime: it serves the stream at %q, want an http or https URL", location)
	}
	conn, err := dialRuntime(ctx, target)
	if err != nil {
		return nil, fmt.Errorf("connect to the runtime: %w", err)
	}
	b, err := upgrade(ctx, conn, &http.Request{
		Method: method, URL: target, Host: target.Host, Header: header, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	})
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return b, nil
}

func dialRuntime(ctx context.Context, target *url.URL) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, runtimeDialTimeout)
	defer cancel()
	address := target.Host
	if target.Port() == "" {
		address = net.JoinHostPort(target.Hostname(), map[string]string{"http": "80", "https": "443"}[target.Scheme])
	}
	if target.Scheme == "https" {
		return (&tls.Dialer{Config: &tls.Config{ServerName: target.Hostname(), NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS12}}).DialContext(ctx, "tcp", address)
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", address)
}

func upgrade(ctx context.Context, conn net.Conn, req *http.Request) (*backend, error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	_ = conn.SetDeadline(time.Now().Add(upgradeTimeout))
	if err := req.Write(conn); err != nil {
		return nil, fmt.Errorf("ask the runtime for the stream: %w", err)
	}
	reader := bufio.NewReader(conn)
	answer, err := http.ReadResponse(reader, req)
	if err != nil {
		return nil, fmt.Errorf("ask the runtime for the stream: %w", err)
	}
	if answer.StatusCode == http.StatusSwitchingProtocols {
		_ = conn.SetDeadline(time.Time{})
		return &backend{Conn: conn, reader: reader, answer: answer}, nil
	}
	body, _ := io.ReadAll(io.LimitReader(answer.Body, maxRefusal))
	if answer.StatusCode < http.StatusBadRequest {
		return nil, fmt.Errorf("ask the runtime for the stream: it answers %s, which is no upgrade", answer.Status)
	}
	return nil, &refusal{code: answer.StatusCode, header: answer.Header, body: body}
}

// handed are the headers of a request that concern the stream. Others,
// credentials among them, are not the runtime's affair.
func handed(from http.Header) http.Header {
	to := http.Header{}
	for name, values := range from {
		if name == "Connection" || name == "Upgrade" || name == headerProtocol || strings.HasPrefix(name, "Sec-Websocket-") {
			to[name] = slices.Clone(values)
		}
	}
	return to
}

// cannotConnect answers for a runtime that could not be reached or refuses.
func cannotConnect(w http.ResponseWriter, err error) error {
	var refused *refusal
	if errors.As(err, &refused) {
		refused.write(w)
		return err
	}
	fail(w, http.StatusInternalServerError, err.Error())
	return err
}

// passThrough joins the client with the runtime, whatever they speak.
func (s *Server) passThrough(w http.ResponseWriter, r *http.Request, location string) error {
	b, err := connect(r.Context(), location, r.Method, handed(r.Header))
	if err != nil {
		return cannotConnect(w, err)
	}
	defer b.Close()
	client, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		fail(w, http.StatusInternalServerError, "the connection cannot become a stream")
		return fmt.Errorf("take over the connection: %w", err)
	}
	defer client.Close()
	var head bytes.Buffer
	head.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	_ = b.answer.Header.Write(&head)
	head.WriteString("\r\n")
	// In one packet with what follows already.
	early, _ := b.reader.Peek(b.reader.Buffered())
	head.Write(early)
	_, _ = b.reader.Discard(len(early))
	if _, err := client.Write(head.Bytes()); err != nil {
		return fmt.Errorf("answer the client: %w", err)
	}
	// Its buffer may hold what the client sent without waiting.
	s.join(r.Context(), client, buffered.Reader, b.Conn)
	return nil
}

// closeWriter can end one direction of a connection.
type closeWriter interface{ CloseWrite() error }

// endWrite tells the peer that nothing more comes.
func endWrite(conn net.Conn) {
	if half, ok := conn.(closeWriter); ok {
		_ = half.CloseWrite()
	}
}

// join copies both ways until one side has ended, and what it sent before that
// has arrived. Both are to be closed by the caller.
func (s *Server) join(ctx context.Context, client net.Conn, fromClient io.Reader, runtime net.Conn) {
	stop := context.AfterFunc(ctx, func() {
		_ = client.Close()
		_ = runtime.Close()
	})
	defer stop()
	up := make(chan struct{})
	go func() {
		defer close(up)
		ended := s.copy(runtime, fromClient)
		_ = runtime.SetReadDeadline(time.Now().Add(lingerTimeout))
		if ended {
			// The client is gone. The runtime ends at once, or is made to.
			endWrite(runtime)
			return
		}
		// The runtime takes no more. What the client still sends is read to the
		// end: closing a socket with unread input would reset it, and the client
		// might lose the end of the output.
		_ = s.copy(discard{}, fromClient)
	}()
	_ = s.copy(client, runtime)
	endWrite(client)
	_ = client.SetReadDeadline(time.Now().Add(lingerTimeout))
	_ = runtime.Close()
	<-up
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// copy copies until from has ended or broken off, or to takes no more; it says
// whether it was from.
func (s *Server) copy(to io.Writer, from io.Reader) (ended bool) {
	buffer := s.buffers.Get().(*[copyBuffer]byte)
	defer s.buffers.Put(buffer)
	for {
		n, err := from.Read(buffer[:])
		if n > 0 {
			if _, failed := to.Write(buffer[:n]); failed != nil {
				return false
			}
		}
		if err != nil {
			return true
		}
	}
}

// parsePorts reads the ports of a port-forward over a WebSocket of the older
// protocol, which has a pair of channels for each.
func parsePorts(query url.Values) ([]int32, error) {
	values := query["port"]
	if len(values) == 0 {
		return nil, errors.New(`query parameter "port" is required`)
	}
	var ports []int32
	for _, value := range values {
		for text := range strings.SplitSeq(value, ",") {
			port, err := strconv.ParseUint(text, 10, 16)
			if err != nil || port == 0 {
				return nil, fmt.Errorf("query parameter \"port\": %q is no port", text)
			}
			if ports = append(ports, int32(port)); len(ports) > maxPorts {
				return nil, fmt.Errorf("query parameter \"port\": more than %d", maxPorts)
			}
		}
	}
	return ports, nil
}

// maxPorts is what the channels' numbers, a byte, have room for.
const maxPorts = 127
