package server

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/websocket"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	remotecommandserver "k8s.io/cri-streaming/pkg/streaming/remotecommand"
)

// executors are the two ways by which kubectl streams.
var executors = map[string]func(*rest.Config, string) (remotecommand.Executor, error){
	"SPDY": func(c *rest.Config, to string) (remotecommand.Executor, error) {
		u, err := url.Parse(to)
		if err != nil {
			return nil, err
		}
		return remotecommand.NewSPDYExecutor(c, http.MethodPost, u)
	},
	"WebSocket": func(c *rest.Config, to string) (remotecommand.Executor, error) {
		return remotecommand.NewWebSocketExecutor(c, http.MethodGet, to)
	},
}

// stream runs one exec or attach.
func (n *node) stream(ctx context.Context, by, path string, words []string, o remotecommand.StreamOptions) error {
	query := url.Values{"command": words}
	for name, on := range map[string]bool{"input": o.Stdin != nil, "output": o.Stdout != nil, "error": o.Stderr != nil, "tty": o.Tty} {
		if on {
			query.Set(name, "1")
		}
	}
	e, err := executors[by](n.rest(), n.url+path+"?"+query.Encode())
	if err != nil {
		return err
	}
	return e.StreamWithContext(ctx, o)
}

const execMain = "/exec/ns/web/main"

// exitError is what a command that failed ends with.
type exitError struct {
	error
	code int
}

func (e exitError) Exited() bool    { return true }
func (e exitError) ExitStatus() int { return e.code }
func (e exitError) String() string  { return e.Error() }

func eachWay(t *testing.T, f func(t *testing.T, n *node, by string)) {
	for by := range executors {
		t.Run(by, func(t *testing.T) { f(t, newNode(t), by) })
	}
}

func TestExecStreamsAndExitCode(t *testing.T) {
	eachWay(t, func(t *testing.T, n *node, by string) {
		n.runtime.commands["speak"] = func(_ context.Context, args []string, in io.Reader, out, errOut io.WriteCloser, _ <-chan remotecommandserver.TerminalSize) error {
			input, _ := io.ReadAll(in) // ends when the client closes its side
			fmt.Fprintf(out, "out %v %s", args, input)
			fmt.Fprintf(errOut, "err")
			return exitError{errors.New("exit"), 42}
		}
		var out, errOut bytes.Buffer
		err := n.stream(t.Context(), by, execMain, []string{"speak", "a b", "c"}, remotecommand.StreamOptions{Stdin: strings.NewReader("in"), Stdout: &out, Stderr: &errOut})
		if out.String() != "out [a b c] in" || errOut.String() != "err" {
			t.Errorf("%q %q", out.String(), errOut.String())
		}
		var exit exec.CodeExitError
		if !errors.As(err, &exit) || exit.Code != 42 {
			t.Errorf("ended with %v, want exit code 42", err)
		}
		if req := n.runtime.execs[0]; req.ContainerId != "id-main" || req.Tty || !req.Stdin || !req.Stdout || !req.Stderr {
			t.Errorf("the runtime was asked for %v", req)
		}
		if err := n.stream(t.Context(), by, execMain, []string{"unknown"}, remotecommand.StreamOptions{Stdout: io.Discard}); err == nil || !strings.Contains(err.Error(), "no such command: unknown") {
			t.Errorf("a command that cannot be started: %v", err)
		}
		n.runtime.err = errors.New("the runtime is unwell")
		if err := n.stream(t.Context(), by, execMain, []string{"speak"}, remotecommand.StreamOptions{Stdout: io.Discard}); err == nil || !strings.Contains(err.Error(), "the runtime is unwell") {
			t.Errorf("a runtime that refuses: %v", err)
		}
	})
}

// sizes is what a terminal tells of itself.
type sizes []remotecommand.TerminalSize

func (s *sizes) Next() *remotecommand.TerminalSize {
	if len(*s) == 0 {
		return nil
	}
	next := (*s)[0]
	*s = (*s)[1:]
	return &next
}

func TestTerminal(t *testing.T) {
	eachWay(t, func(t *testing.T, n *node, by string) {
		n.runtime.commands["top"] = func(_ context.Context, _ []string, _ io.Reader, out, _ io.WriteCloser, resize <-chan remotecommandserver.TerminalSize) error {
			for range 2 {
				size := <-resize
				fmt.Fprintf(out, "%dx%d ", size.Width, size.Height)
			}
			return nil
		}
		var out bytes.Buffer
		queue := &sizes{{Width: 80, Height: 25}, {Width: 132, Height: 43}}
		// A terminal has no stderr of its own, even if one is asked for.
		err := n.stream(t.Context(), by, execMain, []string{"top"}, remotecommand.StreamOptions{Stdin: new(blocked), Stdout: &out, Tty: true, TerminalSizeQueue: queue})
		if err != nil || out.String() != "80x25 132x43 " {
			t.Errorf("%v, %q", err, out.String())
		}
		if req := n.runtime.execs[0]; !req.Tty || req.Stderr {
			t.Errorf("the runtime was asked for %v", req)
		}
	})
}

// blocked is an input that nobody types at.
type blocked struct{}

func (blocked) Read([]byte) (int, error) { select {} }

func TestAttachHasTheTerminalOfTheProcess(t *testing.T) {
	eachWay(t, func(t *testing.T, n *node, by string) {
		for container, tty := range map[string]bool{"main": false, "terminal": true, "debug": false} {
			n.runtime.attaches = nil
			n.runtime.commands["attach id-"+container] = func(_ context.Context, _ []string, in io.Reader, out, _ io.WriteCloser, _ <-chan remotecommandserver.TerminalSize) error {
				_, err := io.Copy(out, io.LimitReader(in, 5))
				return err
			}
			var out bytes.Buffer
			err := n.stream(t.Context(), by, "/attach/ns/web/"+container, nil, remotecommand.StreamOptions{Stdin: strings.NewReader("hello"), Stdout: &out, Tty: tty})
			if err != nil || out.String() != "hello" {
				t.Errorf("%s: %v %q", container, err, out.String())
			}
			if req := n.runtime.attaches[0]; req.ContainerId != "id-"+container || req.Tty != tty {
				t.Errorf("the runtime was asked for %v", req)
			}
		}
	})
}

// slow reads as a person on a bad line.
type slow struct {
	sync.Mutex
	sum   int
	pause time.Duration
}

func (s *slow) Write(p []byte) (int, error) {
	time.Sleep(s.pause)
	s.sum += len(p)
	return len(p), nil
}

// TestNothingIsLostAtTheEnd: the command ends long before a slow client has
// read what it wrote.
func TestNothingIsLostAtTheEnd(t *testing.T) {
	eachWay(t, func(t *testing.T, n *node, by string) {
		const size = 8 << 20
		n.runtime.commands["yes"] = func(_ context.Context, _ []string, _ io.Reader, out, _ io.WriteCloser, _ <-chan remotecommandserver.TerminalSize) error {
			_, err := io.Copy(out, io.LimitReader(rand.Reader, size))
			return err
		}
		to := &slow{pause: 2 * time.Millisecond}
		if err := n.stream(t.Context(), by, execMain, []string{"yes"}, remotecommand.StreamOptions{Stdout: to}); err != nil {
			t.Error(err)
		}
		if to.sum != size {
			t.Errorf("%d bytes arrived of %d", to.sum, size)
		}
	})
}

// TestInputThatNobodyReads: head -c1 with a large input.
func TestInputThatNobodyReads(t *testing.T) {
	eachWay(t, func(t *testing.T, n *node, by string) {
		n.runtime.commands["head"] = func(_ context.Context, _ []string, in io.Reader, out, _ io.WriteCloser, _ <-chan remotecommandserver.TerminalSize) error {
			_, err := io.Copy(out, io.LimitReader(in, 1))
			return err
		}
		var out bytes.Buffer
		err := n.stream(t.Context(), by, execMain, []string{"head"}, remotecommand.StreamOptions{Stdin: io.LimitReader(rand.Reader, 4<<20), Stdout: &out})
		if out.Len() != 1 || err != nil {
			t.Errorf("%d bytes, %v", out.Len(), err)
		}
	})
}

// TestLostRuntimeIsNoSuccess: kubectl must not exit with 0 when the end of the
// command is not known (kubernetes/kubernetes#73056).
func TestLostRuntimeIsNoSuccess(t *testing.T) {
	n := newNode(t)
	started := make(chan struct{})
	n.runtime.commands["hang"] = func(_ context.Context, _ []string, in io.Reader, out, _ io.WriteCloser, _ <-chan remotecommandserver.TerminalSize) error {
		fmt.Fprint(out, "started")
		close(started)
		_, _ = io.Copy(io.Discard, in)
		return nil
	}
	go func() {
		<-started
		n.runtime.breakOff()
	}()
	err := n.stream(t.Context(), "WebSocket", execMain, []string{"hang"}, remotecommand.StreamOptions{Stdin: new(blocked), Stdout: io.Discard})
	if err == nil || !strings.Contains(err.Error(), "connection to the container runtime was lost") {
		t.Errorf("ended with %v", err)
	}
}

func TestPortForward(t *testing.T) {
	for _, by := range []string{"SPDY", "WebSocket"} {
		t.Run(by, func(t *testing.T) {
			n := newNode(t)
			to, _ := url.Parse(n.url + "/portForward/ns/web")
			transport, upgrader, err := spdy.RoundTripperFor(n.rest())
			if err != nil {
				t.Fatal(err)
			}
			dialer := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, to)
			if by == "WebSocket" {
				if dialer, err = portforward.NewSPDYOverWebsocketDialer(to, n.rest()); err != nil {
					t.Fatal(err)
				}
			}
			stop, ready := make(chan struct{}), make(chan struct{})
			f, err := portforward.New(dialer, []string{"0:8080", "0:9090"}, stop, ready, io.Discard, io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- f.ForwardPorts() }()
			select {
			case <-ready:
			case err := <-done:
				t.Fatal(err)
			}
			ports, _ := f.GetPorts()
			for _, p := range ports {
				for range 3 {
					conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", p.Local))
					if err != nil {
						t.Fatal(err)
					}
					fmt.Fprint(conn, "ping")
					conn.(*net.TCPConn).CloseWrite()
					got, err := io.ReadAll(conn)
					if want := fmt.Sprintf("port %d\nping", p.Remote); string(got) != want || err != nil {
						t.Errorf("%q, %v, want %q", got, err, want)
					}
					conn.Close()
				}
			}
			close(stop)
			if err := <-done; err != nil {
				t.Error(err)
			}
			if n.runtime.forwards[0].PodSandboxId != "sandbox-1" {
				t.Errorf("the runtime was asked for %v", n.runtime.forwards[0])
			}
		})
	}
}

// TestHundredSessionsLeaveNothing has sessions end in every way: the command
// ends, the client leaves, the port is stopped.
func TestHundredSessionsLeaveNothing(t *testing.T) {
	eachWay(t, func(t *testing.T, n *node, by string) {
		var open sync.WaitGroup
		n.runtime.commands["echo"] = func(_ context.Context, _ []string, in io.Reader, out, _ io.WriteCloser, _ <-chan remotecommandserver.TerminalSize) error {
			open.Done()
			_, err := io.Copy(out, in)
			return err
		}
		session := func(leave context.Context, hold <-chan struct{}) error {
			r, w := io.Pipe()
			go func() {
				fmt.Fprint(w, "hello")
				<-hold
				w.Close()
			}()
			var out bytes.Buffer
			err := n.stream(leave, by, execMain, []string{"echo"}, remotecommand.StreamOptions{Stdin: r, Stdout: &out})
			if leave.Err() == nil && (err != nil || out.String() != "hello") {
				return fmt.Errorf("%w, %q", err, out.String())
			}
			return nil
		}
		const many = 100
		leave, left := context.WithCancel(t.Context())
		hold := make(chan struct{})
		errs := make(chan error, many)
		open.Add(many)
		for i := range many {
			ctx := t.Context()
			if i%2 == 1 {
				ctx = leave
			}
			go func() { errs <- session(ctx, hold) }()
		}
		open.Wait() // all at once
		left()
		close(hold)
		for range many {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		markers := []string{"server.(*Server).stream(", "server.(*Server).join", "server.(*translation)", "cri-streaming"}
		if by == "WebSocket" {
			markers = append(markers, "spdystream") // the client has none
		}
		settle(t, markers...)
	})
}

func TestStoppingEndsSessions(t *testing.T) {
	eachWay(t, func(t *testing.T, n *node, by string) {
		n.runtime.commands["hang"] = func(_ context.Context, _ []string, in io.Reader, out, _ io.WriteCloser, _ <-chan remotecommandserver.TerminalSize) error {
			fmt.Fprint(out, "started")
			_, _ = io.Copy(io.Discard, in)
			return nil
		}
		started := make(chan struct{}, 1)
		done := make(chan error, 1)
		go func() {
			done <- n.stream(t.Context(), by, execMain, []string{"hang"}, remotecommand.StreamOptions{Stdin: new(blocked), Stdout: told(started)})
		}()
		<-started
		n.stop()
		// client-go takes the end of an SPDY connection for success, whatever
		// the server does (kubernetes/kubernetes#73056).
		if err := <-done; err == nil && by == "WebSocket" {
			t.Error("a session that was cut off ended well")
		}
	})
}

// told signals each write.
type told chan struct{}

func (c told) Write(p []byte) (int, error) {
	c <- struct{}{}
	return len(p), nil
}

// settle waits until no goroutine is left of what serves sessions. (client-go
// leaves some of its own when a client leaves in the middle.)
func settle(t *testing.T, markers ...string) {
	t.Helper()
	var left []string
	for range 200 {
		left = nil
		stacks := make([]byte, 8<<20)
		for stack := range strings.SplitSeq(string(stacks[:runtime.Stack(stacks, true)]), "\n\n") {
			for _, marker := range markers {
				if strings.Contains(stack, marker) {
					left = append(left, stack)
					break
				}
			}
		}
		if len(left) == 0 {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Errorf("%d goroutines are left, for example:\n%s", len(left), left[0])
}

func TestCredentialsStayHere(t *testing.T) {
	got := handed(http.Header{
		"Authorization": {"Bearer secret"}, "Cookie": {"secret"}, "X-Forwarded-For": {"10.0.0.1"}, "Connection": {"Upgrade"}, "Upgrade": {"SPDY/3.1"},
		"X-Stream-Protocol-Version": {"v4.channel.k8s.io", "v3.channel.k8s.io"}, "Sec-Websocket-Key": {"k"},
	})
	if len(got) != 4 || got.Get("Authorization") != "" || len(got["X-Stream-Protocol-Version"]) != 2 {
		t.Errorf("the runtime gets %v", got)
	}
}

func FuzzStreamQuery(f *testing.F) {
	f.Add("input=1&output=1&tty=1&error=1&command=ls&port=1,2")
	f.Add("port=0")
	f.Fuzz(func(t *testing.T, text string) {
		query, err := url.ParseQuery(text)
		if err != nil {
			return
		}
		if o, err := parseStreams(query); err == nil && (o.tty && o.stderr || !o.stdin && !o.stdout && !o.stderr) {
			t.Errorf("%q: %+v", text, o)
		}
		ports, err := parsePorts(query)
		for _, p := range ports {
			if p < 1 || p > 65535 {
				t.Errorf("%q: port %d", text, p)
			}
		}
		if err == nil && len(ports) == 0 {
			t.Errorf("%q: no ports and no error", text)
		}
	})
}

// BenchmarkExec compares a command by way of the kubelet, connection, TLS and
// all, with the same at the runtime itself.
func BenchmarkExec(b *testing.B) {
	n := newNode(b)
	n.runtime.commands["echo"] = func(_ context.Context, _ []string, _ io.Reader, out, _ io.WriteCloser, _ <-chan remotecommandserver.TerminalSize) error {
		_, err := fmt.Fprint(out, "hi")
		return err
	}
	b.Run("runtime/SPDY", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			location, err := n.runtime.Exec(b.Context(), &runtimeapi.ExecRequest{ContainerId: "id-main", Cmd: []string{"echo"}, Stdout: true})
			if err != nil {
				b.Fatal(err)
			}
			e, err := executors["SPDY"](&rest.Config{}, location)
			if err != nil {
				b.Fatal(err)
			}
			if err := e.StreamWithContext(b.Context(), remotecommand.StreamOptions{Stdout: io.Discard}); err != nil {
				b.Fatal(err)
			}
		}
	})
	for by := range executors {
		b.Run("kubelet/"+by, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := n.stream(b.Context(), by, execMain, []string{"echo"}, remotecommand.StreamOptions{Stdout: io.Discard}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// socketSession sends messages in an exec of cat in a terminal and reads what
// comes until the end.
func (n *node) socketSession(t *testing.T, messages ...[]byte) (output, status string) {
	t.Helper()
	address := strings.TrimPrefix(n.url, "https://")
	config, err := websocket.NewConfig("wss://"+address+execMain+"?input=1&output=1&tty=1&command=cat", "https://"+address)
	if err != nil {
		t.Fatal(err)
	}
	config.Protocol, config.Header = []string{socketProtocol}, http.Header{"User": {"admin"}}
	config.TlsConfig = &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}
	ws, err := config.DialContext(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()
	_ = ws.SetDeadline(time.Now().Add(time.Minute)) // or it hangs
	for _, message := range messages {
		if err := websocket.Message.Send(ws, message); err != nil {
			t.Fatal(err)
		}
	}
	for {
		var message []byte
		if err := websocket.Message.Receive(ws, &message); err != nil {
			return output, status
		}
		switch {
		case len(message) == 0:
			t.Error("an empty message")
		case message[0] == channelStdout:
			output += string(message[1:])
		case message[0] == channelStatus:
			status += string(message[1:])
		default:
			t.Errorf("a message on channel %d", message[0])
		}
	}
}

func catInTerminal(_ context.Context, _ []string, in io.Reader, out, _ io.WriteCloser, resize <-chan remotecommandserver.TerminalSize) error {
	go func() {
		for range resize {
		}
	}()
	_, err := io.Copy(out, in)
	return err
}

// TestSizeThatIsNone: a runtime stops to read sizes at the first that is none.
// The session goes on.
func TestSizeThatIsNone(t *testing.T) {
	n := newNode(t)
	n.runtime.commands["cat"] = catInTerminal
	messages := [][]byte{[]byte("\x04no size")}
	for range 100 {
		messages = append(messages, []byte("\x04{\"Width\":80,\"Height\":24}"))
	}
	output, status := n.socketSession(t, append(messages, []byte("\x00hello"), []byte{channelClose, channelStdin})...)
	if output != "hello" || !strings.Contains(status, `"Success"`) {
		t.Errorf("%q, %s", output, status)
	}
}

// FuzzSocketMessages sends any messages in an exec: the session ends, and what
// the command reads is what was sent for it.
func FuzzSocketMessages(f *testing.F) {
	n := newNode(f)
	n.runtime.commands["cat"] = catInTerminal
	f.Add([]byte("\x00hello"), []byte{channelClose, channelStdin}, []byte("\x00late"))
	f.Add([]byte("\x04{\"Width\":80,\"Height\":25}"), []byte{}, []byte("\x04}{"))
	f.Add([]byte("\x01not ours"), []byte{channelClose}, []byte{channelClose, 7})
	f.Add([]byte{0}, []byte{channelClose, channelStdin, 0}, []byte("\xfe\x00"))
	f.Add([]byte("\x04no size"), []byte("\x04{\"Width\":-1}"), []byte("\x04{}{}"))
	f.Fuzz(func(t *testing.T, a, b, c []byte) {
		want, closed := "", false
		messages := [][]byte{a, b, c, {channelClose, channelStdin}}
		for _, message := range messages {
			if len(message) > 1 && message[0] == channelStdin && !closed {
				want += string(message[1:])
			}
			closed = closed || string(message) == string([]byte{channelClose, channelStdin})
		}
		got, status := n.socketSession(t, messages...)
		if got != want || !strings.Contains(status, `"Success"`) {
			t.Errorf("%q: the command read %q, want %q; status %s", messages, got, want, status)
		}
	})
}
