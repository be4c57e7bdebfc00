package hook

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

type world struct {
	limit  time.Duration // of the last command
	events []string
	reg    *prometheus.Registry
}

func (w *world) ExecSync(ctx context.Context, id string, cmd []string, timeout time.Duration) ([]byte, []byte, int32, error) {
	w.limit = timeout
	switch cmd[0] {
	case "fail":
		return []byte("out "), []byte("err"), 3, nil
	case "hang":
		<-ctx.Done()
		return nil, nil, 0, ctx.Err()
	case "missing":
		return nil, nil, 0, errors.New("executable file not found in $PATH")
	}
	return nil, nil, 0, nil
}

func (w *world) Event(_ *v1.Pod, container, eventType, reason, message string) {
	w.events = append(w.events, fmt.Sprintf("%s %s %s: %s", container, eventType, reason, message))
}

func (w *world) count(t *testing.T, name string) float64 {
	t.Helper()
	families, err := w.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.Metric[0].Counter.GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

func newRunner(t *testing.T) (*Runner, *world) {
	t.Helper()
	w := &world{reg: prometheus.NewRegistry()}
	r, err := New(Config{Exec: w, Events: w, Version: "1.37", Registerer: w.reg})
	if err != nil {
		t.Fatal(err)
	}
	return r, w
}

func (r *Runner) try(ctx context.Context, h v1.LifecycleHandler, ip string) error {
	pod := &v1.Pod{}
	pod.Name, pod.Namespace, pod.UID = "p", "default", "u1"
	return r.Run(ctx, pod, &v1.Container{Name: "app"}, "id", ip, &h)
}

func exec(command ...string) v1.LifecycleHandler {
	return v1.LifecycleHandler{Exec: &v1.ExecAction{Command: command}}
}

func expect(t *testing.T, err error, want string) {
	t.Helper()
	got := ""
	if err != nil {
		got = err.Error()
	}
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

const of = ` for Container "app" in Pod "p_default(u1)" failed - error: `

func TestExecHook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := newRunner(t)
		ctx := t.Context()
		expect(t, r.try(ctx, exec("ok"), ""), "")
		if w.limit != 0 {
			t.Errorf("a hook without a deadline was given %v", w.limit)
		}
		expect(t, r.try(ctx, exec("fail", "now"), ""), `exec lifecycle hook ([fail now])`+of+`command exited with 3, message: "out err"`)
		expect(t, r.try(ctx, exec("missing"), ""), `exec lifecycle hook ([missing])`+of+`executable file not found in $PATH, message: ""`)
		short, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		begin := time.Now()
		expect(t, r.try(short, exec("hang"), ""), `exec lifecycle hook ([hang])`+of+`context deadline exceeded, message: ""`)
		if took := time.Since(begin); took != 20*time.Second || w.limit != took {
			t.Errorf("hook ended after %v, the runtime was told %v", took, w.limit)
		}
	})
}

func TestSleepHook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := newRunner(t)
		sleep := func(ctx context.Context, seconds int64) (time.Duration, error) {
			begin := time.Now()
			err := r.try(ctx, v1.LifecycleHandler{Sleep: &v1.SleepAction{Seconds: seconds}}, "")
			return time.Since(begin), err
		}
		if took, err := sleep(t.Context(), 5); err != nil || took != 5*time.Second {
			t.Errorf("slept %v, %v", took, err)
		}
		if took, err := sleep(t.Context(), 0); err != nil || took != 0 {
			t.Errorf("slept %v, %v", took, err)
		}
		short, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		took, err := sleep(short, 5)
		expect(t, err, `sleep lifecycle hook (5)`+of+`container terminated before sleep hook finished`)
		if took != 2*time.Second || w.count(t, "kubelet_sleep_action_terminated_early_total") != 1 {
			t.Errorf("slept %v, counted %v", took, w.count(t, "kubelet_sleep_action_terminated_early_total"))
		}
	})
}

func TestHTTPHook(t *testing.T) {
	var seen []string
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, fmt.Sprintf("%s %s %s %s", r.URL.Path, r.UserAgent(), r.Header.Get("X"), r.Header.Get("Authorization")))
		w.WriteHeader(500)
	})
	plain := httptest.NewServer(handler)
	defer plain.Close()
	secure := httptest.NewTLSServer(handler)
	defer secure.Close()
	get := func(l net.Listener, scheme v1.URIScheme) v1.LifecycleHandler {
		return v1.LifecycleHandler{HTTPGet: &v1.HTTPGetAction{
			Path: "/hook", Port: intstr.FromInt(l.Addr().(*net.TCPAddr).Port), Scheme: scheme,
			HTTPHeaders: []v1.HTTPHeader{{Name: "X", Value: "1"}, {Name: "Authorization", Value: "token"}},
		}}
	}
	r, w := newRunner(t)
	ctx := t.Context()
	// Any answer is one, and no certificate is asked for.
	expect(t, r.try(ctx, get(plain.Listener, ""), "127.0.0.1"), "")
	expect(t, r.try(ctx, get(secure.Listener, v1.URISchemeHTTPS), "127.0.0.1"), "")
	// A server that never learned HTTPS is asked in HTTP, without secrets.
	expect(t, r.try(ctx, get(plain.Listener, v1.URISchemeHTTPS), "127.0.0.1"), "")
	want := "/hook kube-lifecycle/1.37 1 token\n/hook kube-lifecycle/1.37 1 token\n/hook kube-lifecycle/1.37 1 "
	if got := strings.Join(seen, "\n"); got != want {
		t.Errorf("asked\n%s\nwant\n%s", got, want)
	}
	if got, want := strings.Join(w.events, "\n"), "app Warning LifecycleHTTPFallback: request to HTTPS lifecycle hook "+
		plain.Listener.Addr().String()+" got HTTP response, retry with HTTP succeeded"; got != want {
		t.Errorf("events\n%s\nwant\n%s", got, want)
	}
	if n := w.count(t, "kubelet_lifecycle_handler_http_fallbacks_total"); n != 1 {
		t.Errorf("%v fallbacks counted", n)
	}
	expect(t, r.try(ctx, get(plain.Listener, ""), ""), `http lifecycle hook (/hook)`+of+`the pod has no IP yet`)
	address := plain.Listener.Addr().String()
	plain.Close()
	expect(t, r.try(ctx, get(plain.Listener, ""), "127.0.0.1"),
		`http lifecycle hook (/hook)`+of+`Get "http://`+address+`/hook": dial tcp `+address+`: connect: connection refused`)
}

func TestNoSuchHook(t *testing.T) {
	r, _ := newRunner(t)
	expect(t, r.try(t.Context(), v1.LifecycleHandler{TCPSocket: &v1.TCPSocketAction{}}, ""),
		`tcp lifecycle hook`+of+`tcpSocket is not supported as a hook; use exec, httpGet or sleep`)
	expect(t, r.try(t.Context(), v1.LifecycleHandler{}, ""), `lifecycle hook`+of+`it has no handler; set exec, httpGet or sleep`)
}
