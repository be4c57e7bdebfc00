package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"kubelet/internal/cri"
)

func newAsker(exec Exec) *asker {
	return &asker{exec: exec, http: newHTTPClients(), userAgent: "kube-probe/1.37", h2c: true, grpcTLS: true}
}

// put asks once, as the prober would.
func (a *asker) put(t *testing.T, p *v1.Probe, c *v1.Container) outcome {
	t.Helper()
	if c == nil {
		c = &v1.Container{Name: "app"}
	}
	return a.ask(t.Context(), question{
		container: c, id: "id", ip: "127.0.0.1", probe: p,
		timeout: seconds(p.TimeoutSeconds, 1), pod: &v1.Pod{}, in: &runtimeContainer{id: "id", pid: noExec{}.ContainerPid},
	})
}

func (o outcome) String() string {
	s := o.verdict.String() + ": " + o.output
	if o.err != nil {
		s += o.err.Error()
	}
	return s
}

// hosts replaces what differs from run to run.
var hosts = regexp.MustCompile(`127\.0\.0\.1:\d+`)

func expect(t *testing.T, got outcome, want string) {
	t.Helper()
	if s := hosts.ReplaceAllString(got.String(), "ADDR"); s != want {
		t.Errorf("got  %s\nwant %s", s, want)
	}
}

func portOf(l net.Listener) intstr.IntOrString { return intstr.FromInt(l.Addr().(*net.TCPAddr).Port) }

// closedPort is one that nobody listens on.
func closedPort(t *testing.T) intstr.IntOrString {
	l := listen(t)
	l.Close()
	return portOf(l)
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// silent accepts connections and says nothing.
func silent(t *testing.T) intstr.IntOrString {
	l := listen(t)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { c.Close() })
		}
	}()
	return portOf(l)
}

func TestHTTP(t *testing.T) {
	t.Parallel()
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "fine") })
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s host=%s ua=%s accept=%q x=%q close=%v q=%s", r.Proto,
			strings.SplitN(r.Host, ":", 2)[0], r.UserAgent(), r.Header["Accept"], r.Header["X"], r.Close, r.URL.RawQuery)
	})
	mux.HandleFunc("/status/{code}", func(w http.ResponseWriter, r *http.Request) {
		code, _ := strconv.Atoi(r.PathValue("code"))
		w.WriteHeader(code)
		fmt.Fprint(w, "secret")
	})
	mux.HandleFunc("/away", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", "http://elsewhere.invalid/")
		w.WriteHeader(302)
		fmt.Fprint(w, "gone")
	})
	mux.HandleFunc("/near", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/ok", 302) })
	mux.HandleFunc("/near-bad", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/status/500", 302) })
	mux.HandleFunc("/loop", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/loop", 302) })
	mux.HandleFunc("/big", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, strings.Repeat("x", maxOutput+1)) })
	mux.HandleFunc("/torn", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		fmt.Fprint(w, "half")
	})
	mux.HandleFunc("/never", func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	plain := httptest.NewServer(mux)
	t.Cleanup(plain.Close)
	secure := httptest.NewUnstartedServer(mux)
	secure.EnableHTTP2 = true
	secure.StartTLS()
	t.Cleanup(secure.Close)
	h2c := httptest.NewUnstartedServer(mux)
	h2c.Config.Protocols = new(http.Protocols)
	h2c.Config.Protocols.SetUnencryptedHTTP2(true)
	h2c.Start()
	t.Cleanup(h2c.Close)
	http2 := v1.HTTPProtocolHTTP2
	port := portOf(plain.Listener)

	for name, c := range map[string]struct {
		get  v1.HTTPGetAction
		want string
	}{
		"answer":         {v1.HTTPGetAction{Path: "/ok"}, "success: fine"},
		"no slash":       {v1.HTTPGetAction{Path: "ok"}, "success: fine"},
		"query":          {v1.HTTPGetAction{Path: "/echo?a=b"}, `success: HTTP/1.1 host=127.0.0.1 ua=kube-probe/1.37 accept=["*/*"] x=[] close=true q=a=b`},
		"bad path":       {v1.HTTPGetAction{Path: "/%zz"}, "failure: HTTP probe failed with statuscode: 404"},
		"399":            {v1.HTTPGetAction{Path: "/status/399"}, "warning: Probe terminated redirects, Response body: secret"},
		"400":            {v1.HTTPGetAction{Path: "/status/400"}, "failure: HTTP probe failed with statuscode: 400"},
		"500":            {v1.HTTPGetAction{Path: "/status/500"}, "failure: HTTP probe failed with statuscode: 500"},
		"204":            {v1.HTTPGetAction{Path: "/status/204"}, "success: "},
		"same host":      {v1.HTTPGetAction{Path: "/near"}, "success: fine"},
		"same host, bad": {v1.HTTPGetAction{Path: "/near-bad"}, "failure: HTTP probe failed with statuscode: 500"},
		"other host":     {v1.HTTPGetAction{Path: "/away"}, "warning: Probe terminated redirects, Response body: gone"},
		"loop":           {v1.HTTPGetAction{Path: "/loop"}, `failure: Get "/loop": stopped after 10 redirects`},
		"big body":       {v1.HTTPGetAction{Path: "/big"}, "success: " + strings.Repeat("x", maxOutput)},
		"torn body":      {v1.HTTPGetAction{Path: "/torn"}, "success: half"},
		"no answer": {v1.HTTPGetAction{Path: "/never"},
			`failure: Get "http://ADDR/never": context deadline exceeded (Client.Timeout exceeded while awaiting headers)`},
		"refused": {v1.HTTPGetAction{Path: "/ok", Port: closedPort(t)}, `failure: Get "http://ADDR/ok": dial tcp ADDR: connect: connection refused`},
		"headers": {v1.HTTPGetAction{Path: "/echo", HTTPHeaders: []v1.HTTPHeader{
			{Name: "X", Value: "1"}, {Name: "X", Value: "2"}, {Name: "Host", Value: "my.host"}, {Name: "user-agent", Value: "me"}, {Name: "Accept", Value: ""},
		}}, `success: HTTP/1.1 host=my.host ua=me accept=[] x=["1" "2"] close=true q=`},
		"host":       {v1.HTTPGetAction{Path: "/ok", Host: "localhost"}, "success: fine"},
		"named port": {v1.HTTPGetAction{Path: "/ok", Port: intstr.FromString("web")}, "success: fine"},
		"no such port": {v1.HTTPGetAction{Path: "/ok", Port: intstr.FromString("nope")},
			`unknown: port "nope" not found: container "app" has no port of that name`},
		"TLS, any certificate": {v1.HTTPGetAction{Path: "/echo", Scheme: v1.URISchemeHTTPS, Port: portOf(secure.Listener)},
			`success: HTTP/2.0 host=127.0.0.1 ua=kube-probe/1.37 accept=["*/*"] x=[] close=false q=`},
		"TLS to nobody": {v1.HTTPGetAction{Path: "/ok", Scheme: v1.URISchemeHTTPS, Port: silent(t)},
			`failure: Get "https://ADDR/ok": context deadline exceeded (Client.Timeout exceeded while awaiting headers)`},
		"TLS to plain": {v1.HTTPGetAction{Path: "/ok", Scheme: v1.URISchemeHTTPS},
			`failure: Get "https://ADDR/ok": http: server gave HTTP response to HTTPS client`},
		"HTTP/2 without TLS": {v1.HTTPGetAction{Path: "/echo", Protocol: &http2, Port: portOf(h2c.Listener)},
			`success: HTTP/2.0 host=127.0.0.1 ua=kube-probe/1.37 accept=["*/*"] x=[] close=false q=`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if c.get.Port == (intstr.IntOrString{}) {
				c.get.Port = port
			}
			app := &v1.Container{Name: "app", Ports: []v1.ContainerPort{{Name: "web", ContainerPort: port.IntVal}}}
			got := newAsker(nil).put(t, &v1.Probe{ProbeHandler: v1.ProbeHandler{HTTPGet: &c.get}}, app)
			got.output = strings.Replace(got.output, "http://"+plain.Listener.Addr().String(), "http://ADDR", 1)
			expect(t, got, c.want)
		})
	}
}

// TestHTTP2ToOldServer: the protocol that was asked for is the one that counts.
func TestHTTP2ToOldServer(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(server.Close)
	http2 := v1.HTTPProtocolHTTP2
	probe := &v1.Probe{ProbeHandler: v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Port: portOf(server.Listener), Protocol: &http2}}}
	a := newAsker(noExec{})
	if out := a.put(t, probe, nil); out.verdict != failed {
		t.Errorf("got %v", out)
	}
	a.h2c = false
	expect(t, a.put(t, probe, nil), "success: ")
}

func TestTCP(t *testing.T) {
	t.Parallel()
	tcp := func(a v1.TCPSocketAction) *v1.Probe { return &v1.Probe{ProbeHandler: v1.ProbeHandler{TCPSocket: &a}} }
	a := newAsker(nil)
	expect(t, a.put(t, tcp(v1.TCPSocketAction{Port: silent(t)}), nil), "success: ")
	expect(t, a.put(t, tcp(v1.TCPSocketAction{Port: closedPort(t)}), nil), "failure: dial tcp ADDR: connect: connection refused")
	expect(t, a.put(t, tcp(v1.TCPSocketAction{Port: intstr.FromInt(0)}), nil), "unknown: invalid port number: 0")
}

func TestGRPC(t *testing.T) {
	t.Parallel()
	serve := func(opts ...grpc.ServerOption) int32 {
		l := listen(t)
		s := grpc.NewServer(opts...)
		t.Cleanup(s.Stop)
		h := health.NewServer()
		h.SetServingStatus("well", grpc_health_v1.HealthCheckResponse_SERVING)
		h.SetServingStatus("ill", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
		grpc_health_v1.RegisterHealthServer(s, h)
		go s.Serve(l)
		return portOf(l).IntVal
	}
	probe := func(port int32, service string, tls bool) *v1.Probe {
		g := &v1.GRPCAction{Port: port}
		if service != "" {
			g.Service = &service
		}
		if tls {
			mode := v1.GRPCProbeModeTLS
			g.Mode = &mode
		}
		return &v1.Probe{ProbeHandler: v1.ProbeHandler{GRPC: g}}
	}
	a := newAsker(nil)

	plain := serve()
	expect(t, a.put(t, probe(plain, "", false), nil), "success: service healthy")
	expect(t, a.put(t, probe(plain, "well", false), nil), "success: service healthy")
	expect(t, a.put(t, probe(plain, "ill", false), nil), `failure: service unhealthy (responded with "NOT_SERVING")`)
	expect(t, a.put(t, probe(plain, "else", false), nil), "failure: error: health rpc probe failed: rpc error: code = NotFound desc = unknown service")

	cert, err := tls.X509KeyPair(selfSigned(t))
	if err != nil {
		t.Fatal(err)
	}
	secure := serve(grpc.Creds(credentials.NewServerTLSFromCert(&cert)))
	expect(t, a.put(t, probe(secure, "", true), nil), "success: service healthy")

	l := listen(t)
	bare := grpc.NewServer()
	t.Cleanup(bare.Stop)
	go bare.Serve(l)
	expect(t, a.put(t, probe(portOf(l).IntVal, "", false), nil),
		"failure: error: this server does not implement the grpc health protocol (grpc.health.v1.Health): unknown service grpc.health.v1.Health")
	expect(t, a.put(t, probe(closedPort(t).IntVal, "", false), nil),
		`failure: error: failed to connect service at "ADDR": dial tcp ADDR: connect: connection refused`)
	expect(t, a.put(t, probe(silent(t).IntVal, "", false), nil), "failure: timeout: health rpc did not complete within 1s")
}

// commands answers as a runtime would.
type commands func(cmd []string) (string, int32, error)

func (f commands) ExecSync(_ context.Context, id string, cmd []string, timeout time.Duration) ([]byte, []byte, int32, error) {
	out, code, err := f(cmd)
	return []byte(out), []byte("!"), code, err
}

func (commands) ContainerPid(context.Context, string) (int, error) { return 0, nil }

func TestExec(t *testing.T) {
	t.Parallel()
	probe := &v1.Probe{TimeoutSeconds: 2, ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"ask", "$(WHO)", "$$(WHO)", "$(NOBODY)"}}}}
	c := &v1.Container{Env: []v1.EnvVar{{Name: "WHO", Value: "me"}}}
	for name, answer := range map[string]struct {
		f    commands
		want string
	}{
		"well": {func(cmd []string) (string, int32, error) { return strings.Join(cmd, " "), 0, nil }, "success: ask me $(WHO) $(NOBODY)!"},
		"ill":  {func([]string) (string, int32, error) { return "no", 3, nil }, "failure: no!"},
		"late": {func([]string) (string, int32, error) {
			return "", 0, fmt.Errorf("%w: %q timed out after 2s", cri.ErrExecTimeout, "ask")
		}, `failure: command timed out: "ask" timed out after 2s`},
		"not run": {func([]string) (string, int32, error) { return "", 0, errors.New("no such binary") }, "unknown: no such binary"},
		"long":    {func([]string) (string, int32, error) { return strings.Repeat("x", 1<<20), 1, nil }, "failure: " + strings.Repeat("x", maxOutput)},
	} {
		t.Run(name, func(t *testing.T) { expect(t, newAsker(answer.f).put(t, probe, c), answer.want) })
	}
}

// TestNoSocketReuse: each probe has a connection of its own, and nothing of it
// is left.
func TestNoSocketReuse(t *testing.T) {
	var opened int
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			opened++
		}
	}
	server.Start()
	defer server.Close()
	a := newAsker(nil)
	probe := &v1.Probe{ProbeHandler: v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Port: portOf(server.Listener)}}}
	a.put(t, probe, nil)
	before, _ := os.ReadDir("/proc/self/fd")
	for range 20 {
		expect(t, a.put(t, probe, nil), "success: ")
	}
	after, _ := os.ReadDir("/proc/self/fd")
	server.Close() // waits for the connections
	if opened != 21 {
		t.Errorf("%d connections for 21 probes", opened)
	}
	if len(after) > len(before)+4 {
		t.Errorf("%d descriptors before, %d after 20 probes", len(before), len(after))
	}
}

// TestClock: time that passes before the connection is made is not billed, and
// time that the node takes is told apart from time that the container takes.
func TestClock(t *testing.T) {
	for name, c := range map[string]struct {
		before, sending, late time.Duration
		end                   time.Duration // of the context, since the clock began
		stalled               bool
	}{
		"queued":         {before: time.Minute, end: time.Second},
		"container slow": {end: time.Second},
		"a little late":  {sending: 50 * time.Millisecond, end: time.Second},
		"request late":   {sending: 300 * time.Millisecond, end: time.Second, stalled: true},
		"timer late":     {late: 200 * time.Millisecond, end: time.Second, stalled: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, clock := withClock(t.Context(), question{timeout: time.Second})
				defer clock.stop()
				time.Sleep(c.before)
				begin := time.Now()
				clock.begin()
				clock.sending()
				time.Sleep(c.sending)
				clock.sent()
				<-ctx.Done()
				if took := time.Since(begin); took != c.end {
					t.Errorf("ended after %v, want %v", took, c.end)
				}
				time.Sleep(c.late)
				if out := clock.failure("late"); out.stalled != c.stalled || out.verdict != failed {
					t.Errorf("got %+v", out)
				}
				if !errors.Is(context.Cause(ctx), errTimeout) {
					t.Errorf("cause %v", context.Cause(ctx))
				}
			})
		})
	}
}

// BenchmarkAsk is what one probe costs, its server's part included.
func BenchmarkAsk(b *testing.B) {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer server.Close()
	port := portOf(server.Listener)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	s := grpc.NewServer()
	defer s.Stop()
	grpc_health_v1.RegisterHealthServer(s, health.NewServer())
	go s.Serve(l)
	for name, handler := range map[string]v1.ProbeHandler{
		"http": {HTTPGet: &v1.HTTPGetAction{Port: port}},
		"tcp":  {TCPSocket: &v1.TCPSocketAction{Port: port}},
		"grpc": {GRPC: &v1.GRPCAction{Port: portOf(l).IntVal}},
	} {
		b.Run(name, func(b *testing.B) {
			a := newAsker(noExec{})
			q := question{kind: Readiness, container: &v1.Container{}, ip: "127.0.0.1", timeout: time.Second, probe: &v1.Probe{ProbeHandler: handler}}
			b.ReportAllocs()
			for b.Loop() {
				if out := a.ask(b.Context(), q); out.verdict != passed {
					b.Fatal(out)
				}
			}
		})
	}
}
