package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/websocket"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

// WebSockets that end at the kubelet (KEP-4006): kubectl speaks them, runtimes
// speak SPDY. Each message of exec and attach begins with the number of its
// channel; a message {255, n} closes channel n, which is how a client ends
// stdin. A port-forward has SPDY inside the socket.
const (
	channelStdin  = 0
	channelStdout = 1
	channelStderr = 2
	channelStatus = 3
	channelResize = 4
	channelClose  = 255

	socketProtocol = "v5.channel.k8s.io"
	spdyProtocol   = "v4.channel.k8s.io"
	tunnelPrefix   = "SPDY/3.1+"
	tunnelSuffix   = ".k8s.io"

	// maxStatus bounds the final status.
	maxStatus = 64 << 10
)

// protocols lists the subprotocols that a WebSocket request offers.
func protocols(r *http.Request) (offered []string) {
	for _, header := range r.Header.Values(headerSocketProtocol) {
		for protocol := range strings.SplitSeq(header, ",") {
			offered = append(offered, strings.TrimSpace(protocol))
		}
	}
	return offered
}

// choose makes the handshake settle on one protocol.
func choose(protocol string) func(*websocket.Config, *http.Request) error {
	return func(config *websocket.Config, _ *http.Request) error {
		config.Protocol = nil
		if protocol != "" {
			config.Protocol = []string{protocol}
		}
		return nil
	}
}

// validSocket refuses what the handshake would refuse, before the runtime is
// asked for anything.
func validSocket(w http.ResponseWriter, r *http.Request) bool {
	if r.Method == http.MethodGet && r.Header.Get("Sec-Websocket-Version") == websocket.SupportedProtocolVersion && r.Header.Get("Sec-Websocket-Key") != "" {
		return true
	}
	w.Header().Set("Sec-Websocket-Version", websocket.SupportedProtocolVersion)
	fail(w, http.StatusBadRequest, "this is no WebSocket handshake: want GET, Sec-WebSocket-Version 13 and a Sec-WebSocket-Key")
	return false
}

// spdyHeader asks for SPDY with one of the protocols.
func spdyHeader(protocols ...string) http.Header {
	return http.Header{"Connection": {"Upgrade"}, "Upgrade": {spdy.HeaderSpdy31}, headerProtocol: protocols}
}

// forwardSocket serves a port-forward whose SPDY is inside a WebSocket.
func (s *Server) forwardSocket(w http.ResponseWriter, r *http.Request, location string) error {
	var inner []string
	for _, offered := range protocols(r) {
		if protocol, ok := strings.CutPrefix(offered, tunnelPrefix); ok && strings.HasSuffix(protocol, tunnelSuffix) {
			inner = append(inner, protocol)
		}
	}
	if !validSocket(w, r) {
		return errors.New("no WebSocket handshake")
	}
	b, err := connect(r.Context(), location, http.MethodPost, spdyHeader(inner...))
	if err != nil {
		return cannotConnect(w, err)
	}
	defer b.Close()
	protocol := ""
	if chosen := b.answer.Header.Get(headerProtocol); chosen != "" {
		protocol = tunnelPrefix + chosen
	}
	websocket.Server{Handshake: choose(protocol), Handler: func(ws *websocket.Conn) {
		ws.PayloadType = websocket.BinaryFrame
		defer ws.Close()
		s.join(r.Context(), socketConn{ws}, ws, b)
	}}.ServeHTTP(w, r)
	return nil
}

// socketConn is a WebSocket as a connection.
type socketConn struct{ *websocket.Conn }

// CloseWrite tells the client that nothing more comes.
func (c socketConn) CloseWrite() error { return c.WriteClose(1000) }

// translate serves an exec or attach over a WebSocket by SPDY streams of the
// runtime.
func (s *Server) translate(w http.ResponseWriter, r *http.Request, location string, o streams) error {
	if !validSocket(w, r) {
		return errors.New("no WebSocket handshake")
	}
	b, err := connect(r.Context(), location, http.MethodPost, spdyHeader(spdyProtocol))
	if err != nil {
		return cannotConnect(w, err)
	}
	defer b.Close()
	t := &translation{server: s, streams: o, done: make(chan struct{})}
	if err := t.open(b); err != nil {
		fail(w, http.StatusInternalServerError, err.Error())
		return err
	}
	defer t.conn.Close()
	// The command runs already; what it writes waits in the streams.
	websocket.Server{Handshake: choose(socketProtocol), Handler: func(ws *websocket.Conn) {
		t.serve(r.Context(), ws)
	}}.ServeHTTP(w, r)
	return t.err
}

// translation joins one WebSocket with the SPDY streams of one command.
type translation struct {
	server  *Server
	streams streams
	conn    httpstream.Connection

	stdin, stdout, stderr, status, resize httpstream.Stream

	// moved counts what was handed to the client, and writing who is at it.
	moved, writing atomic.Int64
	// left: the client is gone.
	left atomic.Bool
	// done is closed when nothing more will be read from the runtime.
	done chan struct{}
	err  error
}

// open makes the streams; the runtime starts when it has all of them.
func (t *translation) open(b *backend) error {
	conn, err := spdy.NewClientConnection(&patientConn{backend: b, t: t})
	if err != nil {
		return fmt.Errorf("open SPDY connection to the runtime: %w", err)
	}
	t.conn = conn
	wanted := []struct {
		name string
		on   bool
		into *httpstream.Stream
	}{
		{"error", true, &t.status}, {"stdin", t.streams.stdin, &t.stdin}, {"stdout", t.streams.stdout, &t.stdout},
		{"stderr", t.streams.stderr, &t.stderr}, {"resize", t.streams.tty, &t.resize},
	}
	// Side by side: each waits for an answer of the runtime.
	var wait sync.WaitGroup
	errs := make([]error, len(wanted))
	for i, s := range wanted {
		if s.on {
			wait.Go(func() {
				*s.into, errs[i] = conn.CreateStream(http.Header{"Streamtype": {s.name}})
			})
		}
	}
	wait.Wait()
	if err := errors.Join(errs...); err != nil {
		close(t.done)
		_ = conn.Close()
		return fmt.Errorf("open streams of the runtime: %w", err)
	}
	return nil
}

// serve runs the session on the client's socket.
func (t *translation) serve(ctx context.Context, ws *websocket.Conn) {
	// Only reading is ended: a write that is cut off would garble what else is
	// to be said.
	stop := context.AfterFunc(ctx, func() { _ = ws.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	// An empty message tells clients that the session is there.
	first := byte(channelStatus)
	if t.stdout != nil {
		first = channelStdout
	} else if t.stderr != nil {
		first = channelStderr
	}
	_ = websocket.Message.Send(ws, []byte{first})

	ended := make(chan struct{})
	go func() {
		defer close(ended)
		t.err = t.output(ws)
		close(t.done)
		// The client closes when it has read the close frame. Until then what it
		// sends is read, see join.
		_ = ws.WriteClose(1000)
		_ = ws.SetDeadline(time.Now().Add(lingerTimeout))
	}()
	t.input(ws)
	// The client is gone, or has been told everything, or this program ends.
	// Closing the streams ends the output if it has not ended.
	t.left.Store(ctx.Err() == nil)
	_ = ws.SetWriteDeadline(time.Now().Add(lingerTimeout))
	_ = t.conn.Close()
	<-ended
}

// input hands on what the client sends, until it closes.
func (t *translation) input(ws *websocket.Conn) {
	var message []byte
	for websocket.Message.Receive(ws, &message) == nil {
		if len(message) == 0 {
			continue
		}
		channel, data := message[0], message[1:]
		switch {
		case channel == channelClose && len(data) == 1 && data[0] == channelStdin && t.stdin != nil:
			_ = t.stdin.Close()
		case channel == channelStdin && t.stdin != nil && len(data) > 0:
			// A command that does not want it is no reason to end the session.
			_, _ = t.stdin.Write(data)
		case channel == channelResize && t.resize != nil:
			if size, ok := terminalSize(data); ok {
				_, _ = t.resize.Write(size)
			}
		}
	}
}

// terminalSize is the size of a terminal in a message, as the runtime reads it;
// ok false if there is none. A runtime stops to read its stream at the first
// thing that is no size, and what is not read there holds up the others.
func terminalSize(message []byte) (text []byte, ok bool) {
	var size struct{ Width, Height uint16 }
	if json.Unmarshal(message, &size) != nil {
		return nil, false
	}
	text, err := json.Marshal(size)
	return text, err == nil
}

// output hands on what the command writes and then its status.
func (t *translation) output(ws *websocket.Conn) error {
	var wait sync.WaitGroup
	for _, o := range []struct {
		stream  httpstream.Stream
		channel byte
	}{{t.stdout, channelStdout}, {t.stderr, channelStderr}} {
		if o.stream != nil {
			wait.Go(func() { t.channel(ws, o.channel, o.stream) })
		}
	}
	// When a runtime closes while input is unread, the end of its output may be
	// lost on the way. The SPDY connection then ends the streams, but not before
	// everything that it has received was read, of all of them: so nothing here
	// waits for another stream's end before it is read.
	for _, silent := range []httpstream.Stream{t.stdin, t.resize} {
		if silent != nil {
			go func() { _, _ = io.Copy(io.Discard, silent) }()
		}
	}
	var text []byte
	var err error
	wait.Go(func() {
		text, err = io.ReadAll(io.LimitReader(t.status, maxStatus))
		_, _ = io.Copy(io.Discard, t.status)
	})
	wait.Wait()
	if t.left.Load() {
		return nil // and nobody to tell
	}
	if len(text) == 0 {
		// No word of how it ended: to say nothing would look like success.
		lost := errors.New("the connection to the container runtime was lost, or the kubelet ended, before the command's end was known")
		text, _ = json.Marshal(&metav1.Status{Status: metav1.StatusFailure, Reason: metav1.StatusReasonInternalError, Code: http.StatusInternalServerError, Message: lost.Error()})
		err = errors.Join(lost, err)
	}
	_ = websocket.Message.Send(ws, append([]byte{channelStatus}, text...))
	return err
}

// channel hands one stream on as one channel.
func (t *translation) channel(ws *websocket.Conn, number byte, from io.Reader) {
	buffer := t.server.buffers.Get().(*[copyBuffer]byte)
	defer t.server.buffers.Put(buffer)
	buffer[0] = number
	for {
		n, err := from.Read(buffer[1:])
		if n > 0 {
			t.writing.Add(1)
			failed := websocket.Message.Send(ws, buffer[:n+1])
			t.writing.Add(-1)
			t.moved.Add(int64(n))
			if failed != nil {
				// The client is gone; so is then the rest.
				_ = ws.SetDeadline(time.Unix(1, 0))
				_ = t.conn.Close()
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// patientConn tells the SPDY connection of its end only when what came before
// has been read: spdystream drops what it has queued for slow readers when the
// connection ends. A runtime that lives ends every stream first, so all that
// is needed is time; one that died has no more than is queued.
type patientConn struct {
	*backend
	t *translation
}

func (c *patientConn) Read(p []byte) (int, error) {
	n, err := c.backend.Read(p)
	if err == nil || n > 0 {
		return n, err
	}
	var closed *net.OpError
	if errors.As(err, &closed) && errors.Is(err, net.ErrClosed) {
		return n, err
	}
	const look = time.Second
	for last, quiet := c.t.moved.Load(), 0; quiet < 2; {
		select {
		case <-c.t.done:
			return n, err
		case <-time.After(look):
		}
		quiet++
		if moved := c.t.moved.Load(); moved != last || c.t.writing.Load() > 0 {
			last, quiet = moved, 0
		}
	}
	return n, err
}

// isSocket says whether a request wants a WebSocket that this server ends.
func (s *Server) isSocket(r *http.Request, wanted func(*http.Request) bool) bool {
	return s.cfg.WebSockets && wsstream.IsWebSocketRequest(r) && wanted(r)
}

func offersTranslation(r *http.Request) bool { return slices.Contains(protocols(r), socketProtocol) }

func offersTunnel(r *http.Request) bool {
	return slices.ContainsFunc(protocols(r), func(p string) bool {
		return strings.HasPrefix(p, tunnelPrefix) && strings.HasSuffix(p, tunnelSuffix)
	})
}
