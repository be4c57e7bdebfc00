package apiclient

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	coordinationv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/rest"
)

// serve runs an HTTP server for the test and returns a client of it.
func serve(t *testing.T, cfg Config, handler http.HandlerFunc) *Client {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	cfg.REST = &rest.Config{Host: server.URL}
	client, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// answer writes an object in the media type that the client prefers.
func answer(t *testing.T, w http.ResponseWriter, r *http.Request, code int, obj runtime.Object) {
	codecs, err := newCodecs()
	if err != nil {
		t.Error(err)
		return
	}
	mediaType, _, _ := strings.Cut(r.Header.Get("Accept"), ",")
	info, ok := runtime.SerializerInfoForMediaType(codecs.negotiated.SupportedMediaTypes(), mediaType)
	if !ok {
		t.Errorf("no serializer for %q", mediaType)
		return
	}
	gv := schema.GroupVersion{Version: "v1"}
	if _, isLease := obj.(*coordinationv1.Lease); isLease {
		gv = coordinationv1.SchemeGroupVersion
	}
	var body bytes.Buffer
	if err := codecs.negotiated.EncoderForVersion(info.Serializer, gv).Encode(obj, &body); err != nil {
		t.Error(err)
		return
	}
	w.Header().Set("Content-Type", info.MediaType)
	w.WriteHeader(code)
	_, _ = w.Write(body.Bytes())
}

func TestStatusPatchCarriesTheUIDAndIsCounted(t *testing.T) {
	var method, path, contentType, accept, agent, body string
	registry := prometheus.NewRegistry()
	client := serve(t, Config{UserAgent: "kubelet/test", Registerer: registry}, func(w http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body)
		method, path, body = r.Method, r.URL.Path, string(raw)
		contentType, accept, agent = r.Header.Get("Content-Type"), r.Header.Get("Accept"), r.UserAgent()
		answer(t, w, r, 200, &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", ResourceVersion: "7"}})
	})
	pod, err := client.PatchPodStatus(t.Context(), "ns", "web", "uid-1", []byte(`{"metadata":{"annotations":{"a":"b"}},"status":{"phase":"Running"}}`))
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "answer", pod.ResourceVersion, "7")
	expect(t, "request", method+" "+path, "PATCH /api/v1/namespaces/ns/pods/web/status")
	expect(t, "content type", contentType, "application/strategic-merge-patch+json")
	expect(t, "accept", accept, "application/vnd.kubernetes.protobuf,application/json")
	expect(t, "agent", agent, "kubelet/test")
	expect(t, "body", body, `{"metadata":{"annotations":{"a":"b"},"uid":"uid-1"},"status":{"phase":"Running"}}`)
	expect(t, "count", client.Requests()[RequestKind{"patch", "pods/status"}], 1)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, family := range families {
		names = append(names, family.GetName())
	}
	expect(t, "metrics", names, []string{"kubelet_certificate_manager_client_ttl_seconds", "rest_client_rate_limiter_duration_seconds", "rest_client_request_duration_seconds", "rest_client_request_size_bytes", "rest_client_requests_total", "rest_client_response_size_bytes"})
	if _, err := client.PatchPodStatus(t.Context(), "ns", "web", "uid-1", []byte(`not JSON`)); err == nil {
		t.Error("a patch that is not JSON was sent")
	}
}

func TestAPatchForAnotherPodOfTheNameIsAConflict(t *testing.T) {
	client := serve(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
		status := apierrors.NewInvalid(schema.GroupKind{Kind: "Pod"}, "web", field.ErrorList{
			field.Invalid(field.NewPath("metadata", "uid"), "uid-1", "field is immutable"),
		}).Status()
		answer(t, w, r, 422, &status)
	})
	_, err := client.PatchPodStatus(t.Context(), "ns", "web", "uid-1", []byte(`{"status":{}}`))
	if !apierrors.IsConflict(err) || Retryable(err) {
		t.Errorf("error is %v", err)
	}
}

func TestServersErrorsKeepTheirMeaning(t *testing.T) {
	client := serve(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
		status := apierrors.NewNotFound(schema.GroupResource{Resource: "secrets"}, "s").Status()
		answer(t, w, r, 404, &status)
	})
	_, err := client.GetSecret(t.Context(), "ns", "s")
	if !apierrors.IsNotFound(err) {
		t.Errorf("error is %v", err)
	}
}

func TestHeartbeatsDoNotQueueBehindOtherRequests(t *testing.T) {
	client := serve(t, Config{QPS: 0.001, Burst: 1}, func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "leases") {
			answer(t, w, r, 200, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "n"}})
			return
		}
		answer(t, w, r, 200, &v1.Pod{})
	})
	if _, err := client.GetPod(t.Context(), "ns", "p"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := client.GetPod(ctx, "ns", "p"); err == nil {
		t.Error("the limit of ordinary requests does not hold")
	}
	for range 20 {
		if _, err := client.GetLease(t.Context(), "kube-node-lease", "n"); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRequestsToAHangingServerEnd(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	client := serve(t, Config{Timeout: 50 * time.Millisecond, HeartbeatTimeout: 50 * time.Millisecond}, func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	for what, call := range map[string]func() error{
		"get":  func() error { _, err := client.GetPod(t.Context(), "ns", "p"); return err },
		"beat": func() error { _, err := client.GetNode(t.Context(), "n"); return err },
		"watch": func() error {
			_, err := client.watch(t.Context(), client.coreWatch, "pods", "", metav1.ListOptions{})
			return err
		},
	} {
		err := call()
		if err == nil || !Unreachable(err) || !Retryable(err) {
			t.Errorf("%s: error is %v, want one of no answer", what, err)
		}
	}
}

func TestStuckConnectionsAreClosed(t *testing.T) {
	at := func(seconds int) time.Time { return time.Unix(int64(1000+seconds), 0) }
	cases := []struct {
		name  string
		steps func(h *connectionHealth)
		want  int
	}{
		{"nothing answers for longer than the limit", func(h *connectionHealth) {
			h.sent(at(0))
			h.done(context.DeadlineExceeded, at(10))
		}, 1},
		{"several short deadlines add up", func(h *connectionHealth) {
			for s := range 3 {
				h.sent(at(4 * s))
				h.done(context.DeadlineExceeded, at(4*s+3))
			}
		}, 1},
		{"another request was answered meanwhile", func(h *connectionHealth) {
			h.sent(at(0))
			h.sent(at(5))
			h.done(nil, at(6))
			h.done(context.DeadlineExceeded, at(10))
		}, 0},
		{"the caller gave up", func(h *connectionHealth) {
			h.sent(at(0))
			h.done(context.Canceled, at(20))
		}, 0},
		{"refused", func(h *connectionHealth) {
			h.sent(at(0))
			h.done(errors.New("connection refused"), at(20))
			h.sent(at(21))
			h.done(context.DeadlineExceeded, at(22))
		}, 0},
		{"once per silence", func(h *connectionHealth) {
			h.sent(at(0))
			h.sent(at(1))
			h.done(context.DeadlineExceeded, at(10))
			h.done(context.DeadlineExceeded, at(11))
		}, 1},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			resets := 0
			c.steps(newConnectionHealth(func() { resets++ }))
			expect(t, "resets", resets, c.want)
		})
	}
}

func TestResetConnectionsEndsWatches(t *testing.T) {
	client := serve(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(200)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	w, err := client.watch(t.Context(), client.coreWatch, "pods", "", metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	client.ResetConnections()
	select {
	case _, open := <-w.ResultChan():
		if open {
			<-w.ResultChan()
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the watch did not end")
	}
}

func TestClassify(t *testing.T) {
	cases := []struct {
		method, url string
		want        RequestKind
	}{
		{"GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dn", RequestKind{"list", "pods"}},
		{"GET", "/api/v1/pods?watch=true", RequestKind{"watch", "pods"}},
		{"GET", "/api/v1/namespaces/ns/pods/p", RequestKind{"get", "pods"}},
		{"PATCH", "/api/v1/namespaces/ns/pods/p/status", RequestKind{"patch", "pods/status"}},
		{"POST", "/api/v1/namespaces/ns/serviceaccounts/s/token", RequestKind{"create", "serviceaccounts/token"}},
		{"PUT", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n", RequestKind{"update", "leases"}},
		{"GET", "/k8s/clusters/c-1/api/v1/nodes/n", RequestKind{"get", "nodes"}},
		{"DELETE", "/api/v1/namespaces/ns/pods/p", RequestKind{"delete", "pods"}},
		{"GET", "/api/v1/namespaces/ns", RequestKind{"get", "namespaces"}},
		{"GET", "/version", RequestKind{"get", "/version"}},
		{"GET", "/apis/x", RequestKind{"get", "/apis/x"}},
	}
	for _, c := range cases {
		req := httptest.NewRequest(c.method, c.url, nil)
		expect(t, c.method+" "+c.url, classify(req), c.want)
	}
}

func TestRetryable(t *testing.T) {
	pods := schema.GroupResource{Resource: "pods"}
	cases := []struct {
		err  error
		want bool
	}{
		{nil, false},
		{errors.New("dial tcp: connection refused"), true},
		{context.DeadlineExceeded, true},
		{fmt.Errorf("patch: %w", apierrors.NewNotFound(pods, "p")), false},
		{apierrors.NewConflict(pods, "p", errors.New("uid")), false},
		{apierrors.NewInvalid(schema.GroupKind{Kind: "Pod"}, "p", nil), false},
		{apierrors.NewForbidden(pods, "p", errors.New("x")), true},
		{apierrors.NewUnauthorized("x"), true},
		{apierrors.NewTooManyRequests("x", 1), true},
		{apierrors.NewInternalError(errors.New("etcd")), true},
		{apierrors.NewServerTimeout(pods, "get", 1), true},
	}
	for _, c := range cases {
		expect(t, fmt.Sprint(c.err), Retryable(c.err), c.want)
	}
}

func TestKubeconfigErrorsNameTheFile(t *testing.T) {
	dir := t.TempDir()
	broken := filepath.Join(dir, "broken")
	if err := os.WriteFile(broken, []byte("apiVersion: v1\nkind: Config\nclusters: 3\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{broken, filepath.Join(dir, "missing")} {
		_, err := New(Config{Kubeconfig: file})
		if err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("error is %v", err)
		}
	}
	if _, err := New(Config{}); err == nil {
		t.Error("no error without a kubeconfig")
	}
}

func TestServicesAndRuntimeClasses(t *testing.T) {
	client := serve(t, Config{ContentType: "application/json"}, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch {
		case r.URL.Query().Get("watch") != "" && r.URL.Query().Get("sendInitialEvents") != "":
			// An older server: the reflector falls back to a list.
			w.WriteHeader(422)
			_, _ = io.WriteString(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Invalid","code":422}`)
		case r.URL.Query().Get("watch") != "":
			w.WriteHeader(200)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		case r.URL.Path == "/api/v1/services":
			_, _ = io.WriteString(w, `{"kind":"ServiceList","apiVersion":"v1","metadata":{"resourceVersion":"5"},"items":[
				{"metadata":{"name":"kubernetes","namespace":"default","labels":{"a":"b"}},"spec":{"clusterIP":"10.0.0.1","ports":[{"port":443}]}},
				{"metadata":{"name":"web","namespace":"shop"},"spec":{"clusterIP":"10.0.0.2"}}]}`)
		case r.URL.Path == "/apis/node.k8s.io/v1/runtimeclasses":
			_, _ = io.WriteString(w, `{"kind":"RuntimeClassList","apiVersion":"node.k8s.io/v1","metadata":{"resourceVersion":"5"},"items":[]}`)
		case r.URL.Path == "/apis/node.k8s.io/v1/runtimeclasses/gvisor":
			_, _ = io.WriteString(w, `{"kind":"RuntimeClass","apiVersion":"node.k8s.io/v1","metadata":{"name":"gvisor"},"handler":"runsc"}`)
		default:
			w.WriteHeader(404)
			_, _ = io.WriteString(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404}`)
		}
	})
	services, err := NewServices(client)
	if err != nil {
		t.Fatal(err)
	}
	if _, synced := services.Services("default"); synced {
		t.Error("synced before Run")
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- services.Run(ctx) }()
	wait, stop := context.WithTimeout(ctx, 20*time.Second)
	defer stop()
	if err := services.WaitSynced(wait); err != nil {
		t.Fatal(err)
	}
	list, synced := services.Services("default")
	if !synced || len(list) != 1 || list[0].Spec.ClusterIP != "10.0.0.1" || list[0].Labels != nil {
		t.Errorf("services: %v, synced %v", list, synced)
	}

	classes, err := NewRuntimeClasses(client)
	if err != nil {
		t.Fatal(err)
	}
	go func() { done <- classes.Run(ctx) }()
	for name, want := range map[string]string{"": "", "gvisor": "runsc"} {
		handler, err := classes.RuntimeClass(ctx, name)
		if err != nil || handler != want {
			t.Errorf("RuntimeClass %q: %q, %v", name, handler, err)
		}
	}
	if _, err := classes.RuntimeClass(ctx, "none"); !apierrors.IsNotFound(err) {
		t.Errorf("missing class: %v", err)
	}
	cancel()
	<-done
	<-done
}

func FuzzWithUID(f *testing.F) {
	f.Add([]byte(`{"status":{}}`))
	f.Add([]byte(`{"metadata":null}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, patch []byte) {
		out, err := withUID(patch, "u")
		if err == nil && !bytes.Contains(out, []byte(`"uid":"u"`)) {
			t.Errorf("%s lacks the UID", out)
		}
	})
}
