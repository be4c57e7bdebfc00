package server

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// freePort returns a port that was free a moment ago.
func freePort(t testing.TB) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}

// serve runs a port until the test ends and returns its URL.
func serve(t *testing.T, p *Port, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	select {
	case addr := <-p.ready:
		return "http://" + addr.String()
	case err := <-done:
		t.Fatalf("Run: %v", err)
		return ""
	}
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestHealthz(t *testing.T) {
	var broken error
	p, err := NewHealthz(HealthzConfig{Address: "127.0.0.1", Port: freePort(t), Checks: map[string]func() error{
		"syncloop": func() error { return broken },
	}})
	url := serve(t, p, err)
	for _, c := range []struct {
		path   string
		broken error
		code   int
		want   string
	}{
		{"/healthz", nil, 200, "ok"},
		{"/healthz?verbose", nil, 200, "[+]log ok\n[+]ping ok\n[+]syncloop ok\nhealthz check passed\n"},
		{"/healthz/ping", nil, 200, "ok"},
		{"/healthz/log", nil, 200, "ok"},
		{"/healthz/syncloop", nil, 200, "ok"},
		{"/healthz/none", nil, 404, "404 page not found\n"},
		{"/healthz", errors.New("stuck"), 500, "[+]log ok\n[+]ping ok\n[-]syncloop failed: reason withheld\nhealthz check failed\n"},
		{"/healthz/syncloop", errors.New("stuck"), 500, "internal server error: stuck\n"},
		{"/healthz?exclude=syncloop", errors.New("stuck"), 200, "ok"},
		{"/healthz?verbose&exclude=x", nil, 200, "[+]log ok\n[+]ping ok\n[+]syncloop ok\nwarn: some health checks cannot be excluded: no matches for \"x\"\nhealthz check passed\n"},
	} {
		broken = c.broken
		code, body := get(t, url+c.path)
		if code != c.code || body != c.want {
			t.Errorf("%s: %d %q, want %d %q", c.path, code, body, c.code, c.want)
		}
	}
	resp, err := http.Post(url+"/healthz", "text/plain", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", resp.StatusCode)
	}
}

func TestReadOnlyPort(t *testing.T) {
	registry := prometheus.NewRegistry()
	gauge := prometheus.NewGauge(prometheus.GaugeOpts{Name: "kubelet_running_pods", Help: "Pods."})
	registry.MustRegister(gauge)
	gauge.Set(3)
	pods := &v1.PodList{}
	p, err := NewReadOnly(ReadOnlyConfig{
		Address: "127.0.0.1", Port: freePort(t),
		Shown: Shown{Handlers: map[string]http.Handler{"/metrics": promhttp.HandlerFor(registry, promhttp.HandlerOpts{})}, Pods: func() *v1.PodList { return pods }},
	})
	url := serve(t, p, err)

	if _, body := get(t, url+"/pods"); body != `{"kind":"PodList","apiVersion":"v1","metadata":{},"items":[]}`+"\n" {
		t.Errorf("no pods: %s", body)
	}
	pods.Items = []v1.Pod{{
		TypeMeta:   metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"},
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "ns", UID: "u"},
		Status:     v1.PodStatus{Phase: v1.PodRunning},
	}}
	_, body := get(t, url+"/pods")
	var list v1.PodList
	if err := json.Unmarshal([]byte(body), &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Items) != 1 || list.Items[0].Status.Phase != v1.PodRunning || list.Items[0].Kind != "" {
		t.Errorf("pods: %s", body)
	}
	if pods.Items[0].Kind != "Pod" {
		t.Error("the caller's pods were modified")
	}
	if code, body := get(t, url+"/metrics"); code != 200 || !strings.Contains(body, "kubelet_running_pods 3") {
		t.Errorf("metrics: %d %s", code, body)
	}
	if code, _ := get(t, url+"/healthz"); code != 200 {
		t.Errorf("healthz: %d", code)
	}
	for _, path := range []string{"/", "/configz", "/checkpoint/ns/web/c", "/flagz"} {
		if code, _ := get(t, url+path); code != 404 {
			t.Errorf("%s: %d, want 404", path, code)
		}
	}
	for _, path := range []string{"/exec/ns/web/c", "/run/ns/web/c", "/attach/ns/web/c", "/portForward/ns/web", "/containerLogs/ns/web/c", "/runningpods/", "/logs/", "/debug/pprof/"} {
		if code, body := get(t, url+path); code != 405 || body != "Debug endpoints are disabled.\n" {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
}

func TestPortInUseIsAClearError(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	p, err := NewHealthz(HealthzConfig{Address: "127.0.0.1", Port: listener.Addr().(*net.TCPAddr).Port})
	if err != nil {
		t.Fatal(err)
	}
	err = p.Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "health checks on "+listener.Addr().String()+": the port is in use") {
		t.Errorf("error is %v", err)
	}
	if _, err := NewHealthz(HealthzConfig{Port: 70000}); err == nil {
		t.Error("port 70000 is accepted")
	}
}

func TestTooManyRequestsAreTurnedAway(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	handler := limited(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		entered <- struct{}{}
		<-release
	}), 1)
	request := func() int {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest("GET", "/pods", nil))
		return w.Code
	}
	first := make(chan int)
	go func() { first <- request() }()
	<-entered
	if code := request(); code != http.StatusServiceUnavailable {
		t.Errorf("second request: %d", code)
	}
	close(release)
	if code := <-first; code != 200 {
		t.Errorf("first request: %d", code)
	}
}

func TestALogThatCannotBeWrittenIsUnhealthy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var flushes atomic.Int32
		check := newLogCheck(func() { flushes.Add(1); <-release })
		for range 3 {
			if err := check.check(); err == nil {
				t.Error("healthy while the log is stuck")
			}
		}
		if n := flushes.Load(); n != 1 {
			t.Errorf("%d flushes wait, want one", n)
		}
		close(release)
		time.Sleep(time.Millisecond)
		if err := check.check(); err != nil {
			t.Errorf("after the log moved on: %v", err)
		}
	})
}

func TestHugeHeadersAreRefused(t *testing.T) {
	p, err := NewHealthz(HealthzConfig{Address: "127.0.0.1", Port: freePort(t)})
	url := serve(t, p, err)
	request, err := http.NewRequest("GET", url+"/healthz", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("X-Long", strings.Repeat("x", 2*maxHeaderBytes))
	resp, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("a header of %d bytes: %d", 2*maxHeaderBytes, resp.StatusCode)
	}
}
