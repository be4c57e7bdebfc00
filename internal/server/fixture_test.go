package server

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
	remotecommandserver "k8s.io/cri-streaming/pkg/streaming/remotecommand"

	"kubelet/internal/desired"
	"kubelet/internal/observed"
	"kubelet/internal/podspec"
	"kubelet/internal/server/authn"
	"kubelet/internal/server/authz"
	"kubelet/internal/server/serving"
)

// fakeRuntime serves streams with the code that real runtimes use; what runs
// in "containers" are functions by the first word of the command.
type fakeRuntime struct {
	streams streaming.Server
	host    *httptest.Server

	mu       sync.Mutex
	commands map[string]command
	execs    []*runtimeapi.ExecRequest
	attaches []*runtimeapi.AttachRequest
	forwards []*runtimeapi.PortForwardRequest
	execSync func(cmd []string) (stdout, stderr string, code int32)
	archive  func(location string) error
	// err is the answer to all calls.
	err error
	// hijacked are the connections that have become streams.
	hijacked []net.Conn
}

type command func(ctx context.Context, args []string, in io.Reader, out, err io.WriteCloser, resize <-chan remotecommandserver.TerminalSize) error

func newFakeRuntime(t testing.TB) *fakeRuntime {
	t.Helper()
	f := &fakeRuntime{commands: map[string]command{}}
	f.host = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { f.streams.ServeHTTP(w, r) }))
	config := streaming.DefaultConfig
	config.Addr = f.host.Listener.Addr().String()
	config.BaseURL = &url.URL{Scheme: "http", Host: config.Addr}
	var err error
	if f.streams, err = streaming.NewServer(config, containers{f}); err != nil {
		t.Fatal(err)
	}
	f.host.Config.ConnState = func(conn net.Conn, state http.ConnState) {
		if state == http.StateHijacked {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.hijacked = append(f.hijacked, conn)
		}
	}
	f.host.Start()
	t.Cleanup(f.host.Close)
	return f
}

func (f *fakeRuntime) Exec(ctx context.Context, req *runtimeapi.ExecRequest) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.execs = append(f.execs, req)
	if f.err != nil {
		return "", f.err
	}
	resp, err := f.streams.GetExec(req)
	return resp.GetUrl(), err
}

func (f *fakeRuntime) Attach(ctx context.Context, req *runtimeapi.AttachRequest) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.attaches = append(f.attaches, req)
	resp, err := f.streams.GetAttach(req)
	return resp.GetUrl(), err
}

func (f *fakeRuntime) PortForward(ctx context.Context, req *runtimeapi.PortForwardRequest) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.forwards = append(f.forwards, req)
	resp, err := f.streams.GetPortForward(req)
	return resp.GetUrl(), err
}

func (f *fakeRuntime) ExecSync(_ context.Context, id string, cmd []string, _ time.Duration) ([]byte, []byte, int32, error) {
	stdout, stderr, code := f.execSync(cmd)
	return []byte(stdout), []byte(stderr), code, nil
}

func (f *fakeRuntime) CheckpointContainer(_ context.Context, id, location string, _ time.Duration) error {
	return f.archive(location)
}

// breakOff closes all connections as a runtime that is killed.
func (f *fakeRuntime) breakOff() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, conn := range f.hijacked {
		conn.Close()
	}
}

// containers is the runtime's other side: what runs behind the streams.
type containers struct{ *fakeRuntime }

func (c containers) run(ctx context.Context, cmd []string, in io.Reader, out, err io.WriteCloser, resize <-chan remotecommandserver.TerminalSize) error {
	c.mu.Lock()
	f := c.commands[cmd[0]]
	c.mu.Unlock()
	if f == nil {
		return fmt.Errorf("no such command: %s", cmd[0])
	}
	return f(ctx, cmd[1:], in, out, err, resize)
}

func (c containers) Exec(ctx context.Context, _ string, cmd []string, in io.Reader, out, err io.WriteCloser, _ bool, resize <-chan remotecommandserver.TerminalSize) error {
	return c.run(ctx, cmd, in, out, err, resize)
}

func (c containers) Attach(ctx context.Context, id string, in io.Reader, out, err io.WriteCloser, _ bool, resize <-chan remotecommandserver.TerminalSize) error {
	return c.run(ctx, []string{"attach " + id}, in, out, err, resize)
}

func (c containers) PortForward(_ context.Context, _ string, port int32, stream io.ReadWriteCloser) error {
	fmt.Fprintf(stream, "port %d\n", port)
	_, err := io.Copy(stream, stream)
	return err
}

// fakeAccess is an Authenticator and an Authorizer: the user is in the header
// "User", what is allowed in a list of "user verb subresource", * for any.
type fakeAccess struct {
	mu    sync.Mutex
	allow []string
	asked []string
}

func (a *fakeAccess) Authenticate(r *http.Request) (*authn.User, error) {
	name := r.Header.Get("User")
	if name == "" {
		return nil, nil
	}
	return &authn.User{Name: name}, nil
}

func (a *fakeAccess) Allowed(_ context.Context, r authz.Request) (bool, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked = append(a.asked, r.Verb+" "+r.Subresource)
	for _, verb := range []string{r.Verb, "*"} {
		for _, subresource := range []string{r.Subresource, "*"} {
			if slices.Contains(a.allow, r.User.Name+" "+verb+" "+subresource) {
				return true, nil
			}
		}
	}
	return false, nil
}

// node is a running HTTPS port with one pod.
type node struct {
	*Server
	runtime *fakeRuntime
	access  *fakeAccess
	url     string
	client  *http.Client
	stop    context.CancelFunc
}

func testPod() *v1.Pod {
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web", UID: "uid-1"},
		Spec: v1.PodSpec{
			InitContainers:      []v1.Container{{Name: "setup"}},
			Containers:          []v1.Container{{Name: "main"}, {Name: "terminal", TTY: true, Stdin: true}, {Name: "dead"}},
			EphemeralContainers: []v1.EphemeralContainer{{EphemeralContainerCommon: v1.EphemeralContainerCommon{Name: "debug"}}},
		},
	}
}

func testObserved() observed.Pod {
	running := func(name string) observed.Container {
		return observed.Container{ID: "id-" + name, Name: name, State: observed.Running, Image: "image-" + name}
	}
	return observed.Pod{
		UID: "uid-1", Name: "web", Namespace: "ns", At: time.Now(),
		Sandboxes:  []observed.Sandbox{{ID: "sandbox-1", Ready: true}},
		Containers: []observed.Container{running("main"), running("terminal"), running("debug"), {ID: "id-dead", Name: "dead", State: observed.Exited}},
	}
}

// newNode runs a port that has everything on but for what configure changes.
func newNode(t testing.TB, configure ...func(*Config)) *node {
	t.Helper()
	return newTunedNode(t, func(*Server) {}, configure...)
}

// newTunedNode is newNode that changes the port before it runs.
func newTunedNode(t testing.TB, tune func(*Server), configure ...func(*Config)) *node {
	t.Helper()
	n := &node{runtime: newFakeRuntime(t), access: &fakeAccess{allow: []string{"admin * *"}}}
	cert, err := serving.NewSelfSigned(t.TempDir(), "node", nil)
	if err != nil {
		t.Fatal(err)
	}
	desiredPods := desired.NewTable(nil, podspec.SourceAPI)
	desiredPods.Replace(podspec.SourceAPI, []*v1.Pod{testPod()})
	observedPods := observed.NewTable(nil)
	observedPods.Set(testObserved())
	observedPods.MarkSynced()
	measured, err := NewMetrics(nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		Address: "127.0.0.1", Port: freePort(t), TLS: TLSConfig{Certificate: cert.Get},
		Authenticator: n.access, Authorizer: n.access,
		Shown: Shown{
			Pods: func() *v1.PodList { return &v1.PodList{Items: []v1.Pod{*testPod()}} },
			Handlers: map[string]http.Handler{
				"/metrics": say("metrics"), "/metrics/cadvisor": say("cadvisor"), "/metrics/resource": say("resource"),
				"/metrics/probes": say("probes"), "/stats/summary": say("summary"),
			},
			Checks: map[string]func() error{"syncloop": func() error { return nil }}, Measured: measured,
		},
		Desired: desiredPods, Observed: observedPods, Runtime: n.runtime, Logs: &fakeLogs{},
		WebSockets: true, Debugging: true, SystemLogs: true, SystemLogQuery: true, SystemLogDir: t.TempDir(),
		Profiling: true, SetVerbosity: func(level string) (string, error) { return "set to " + level, nil },
		AllocatedPods: func() []*v1.Pod { return []*v1.Pod{testPod()} },
		Configz:       map[string]string{"kind": "KubeletConfiguration"},
		Flagz:         map[string]string{"v": "2"},
		Statusz:       &Statusz{Started: time.Now(), GoVersion: "go1", BinaryVersion: "1.37.2", EmulationVersion: "1.37"},
		CheckpointDir: t.TempDir(),
	}
	for _, c := range configure {
		c(&cfg)
	}
	if n.Server, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	tune(n.Server)
	ctx, cancel := context.WithCancel(context.Background())
	n.stop = cancel
	done := make(chan error, 1)
	go func() { done <- n.Server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	select {
	case at := <-n.port.ready:
		n.url = "https://" + at.String()
	case err := <-done:
		t.Fatal(err)
	}
	n.client = &http.Client{
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return n
}

func say(text string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) })
}

// do sends a request as a user and returns code, body and headers.
func (n *node) do(t *testing.T, user, method, path string, body string) (int, string, http.Header) {
	t.Helper()
	req, err := http.NewRequest(method, n.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if user != "" {
		req.Header.Set("User", user)
	}
	resp, err := n.client.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return resp.StatusCode, string(text), resp.Header
}

// ask is do without the network.
func (n *node) ask(user, method, path string) (int, string) {
	r := httptest.NewRequest(method, n.url+path, nil)
	if user != "" {
		r.Header.Set("User", user)
	}
	w := httptest.NewRecorder()
	n.port.server.Handler.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

// rest is how client-go connects as the administrator.
func (n *node) rest() *rest.Config {
	return &rest.Config{Host: n.url, TLSClientConfig: rest.TLSClientConfig{Insecure: true}, WrapTransport: func(next http.RoundTripper) http.RoundTripper {
		return asAdmin{next}
	}}
}

type asAdmin struct{ http.RoundTripper }

func (a asAdmin) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("User", "admin")
	return a.RoundTripper.RoundTrip(r)
}

// fakeLogs writes what it was asked.
type fakeLogs struct {
	asked *v1.PodLogOptions
	err   error
	text  string
	after error
}

func (l *fakeLogs) Read(_ context.Context, pod *v1.Pod, container string, opts *v1.PodLogOptions, stdout, stderr io.Writer) error {
	l.asked = opts
	if l.err != nil {
		return l.err
	}
	if stdout != nil {
		fmt.Fprintf(stdout, "out of %s/%s %s\n", pod.Name, container, l.text)
	}
	if stderr != nil {
		fmt.Fprintf(stderr, "err of %s/%s\n", pod.Name, container)
	}
	return l.after
}
