package server

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"

	"golang.org/x/net/websocket"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// oneConn is a listener with one connection.
type oneConn struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *oneConn) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *oneConn) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *oneConn) Addr() net.Addr { return &net.UnixAddr{} }

// TestLastWordsOfTheRuntimeAreLost: a runtime that closes while input is unread
// resets its connection, and what the network has not delivered by then is
// lost. Here it is the end of the output that is, and the command's status has
// come.
func TestLastWordsOfTheRuntimeAreLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, runtimes := net.Pipe()
		var mu sync.Mutex
		opened := map[string]httpstream.Stream{}
		served, err := spdy.NewServerConnection(runtimes, func(s httpstream.Stream, replied <-chan struct{}) error {
			mu.Lock()
			defer mu.Unlock()
			opened[s.Headers().Get("Streamtype")] = s
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		s := &Server{}
		s.buffers.New = func() any { return new([copyBuffer]byte) }
		session := &translation{server: s, streams: streams{stdin: true, stdout: true}, done: make(chan struct{})}
		if err := session.open(&backend{Conn: ours, reader: bufio.NewReader(ours)}); err != nil {
			t.Fatal(err)
		}

		client, clients := net.Pipe()
		listener := &oneConn{conns: make(chan net.Conn, 1), closed: make(chan struct{})}
		listener.conns <- clients
		port := &http.Server{Handler: websocket.Server{Handler: func(ws *websocket.Conn) {
			session.serve(ws.Request().Context(), ws)
		}}}
		var running sync.WaitGroup
		running.Go(func() { _ = port.Serve(listener) })
		config, err := websocket.NewConfig("ws://node/exec", "http://node/")
		if err != nil {
			t.Fatal(err)
		}
		ws, err := websocket.NewClient(config, client)
		if err != nil {
			t.Fatal(err)
		}

		running.Go(func() {
			// A write ends when it was read at the other side.
			fmt.Fprint(opened["stdout"], "x")
			fmt.Fprint(opened["error"], `{"status":"Success"}`)
			_ = runtimes.Close()
		})
		said := map[byte]string{}
		for {
			var message []byte
			if err := websocket.Message.Receive(ws, &message); err != nil {
				break
			}
			said[message[0]] += string(message[1:])
		}
		if said[channelStdout] != "x" || said[channelStatus] != `{"status":"Success"}` {
			t.Errorf("the client was told %q", said)
		}
		_ = ws.Close()
		_ = served.Close()
		_ = port.Close()
		running.Wait()
	})
}
