package apiclient

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Answers are counted by their size, errors too; watches have none. Only what
// has a limit waits for it.
func TestSizesAndWaitsAreCounted(t *testing.T) {
	registry := prometheus.NewRegistry()
	const pod = `{"kind":"Pod","apiVersion":"v1","metadata":{"name":"p"}}`
	const missing = `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404}`
	client := serve(t, Config{Registerer: registry, ContentType: runtime.ContentTypeJSON}, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch {
		case strings.Contains(r.URL.Path, "leases"):
			answer(t, w, r, 200, &coordinationv1.Lease{})
		case r.Method == http.MethodPatch:
			w.WriteHeader(404)
			fmt.Fprint(w, missing)
		case r.URL.Query().Has("watch"):
			fmt.Fprint(w, `{"type":"ADDED","object":`+pod+`}`)
		default:
			fmt.Fprint(w, pod)
		}
	})
	for range 3 {
		if _, err := client.GetPod(t.Context(), "ns", "p"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := client.PatchPodStatus(t.Context(), "ns", "p", "u", []byte(`{}`)); err == nil {
		t.Fatal("a pod that is missing was changed")
	}
	w, err := client.watch(t.Context(), client.coreWatch, "pods", "", metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for range w.ResultChan() {
	}
	if _, err := client.CreateLease(t.Context(), &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-node-lease", Name: "n"}}); err != nil {
		t.Fatal(err)
	}

	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, f := range families {
		for _, m := range f.Metric {
			for _, l := range m.Label {
				if l.GetName() == "verb" {
					got[f.GetName()+" "+l.GetValue()] = fmt.Sprintf("%d %.0f", m.Histogram.GetSampleCount(), m.Histogram.GetSampleSum())
				}
			}
		}
	}
	expect(t, "answers to GET", got["rest_client_response_size_bytes GET"], fmt.Sprintf("3 %d", 3*len(pod)))
	expect(t, "answers to PATCH", got["rest_client_response_size_bytes PATCH"], fmt.Sprintf("1 %d", len(missing)))
	expect(t, "waits of GET", got["rest_client_rate_limiter_duration_seconds GET"], "4 0")
	expect(t, "waits of PATCH", got["rest_client_rate_limiter_duration_seconds PATCH"], "1 0")
	if waits, ok := got["rest_client_rate_limiter_duration_seconds POST"]; ok {
		t.Errorf("heartbeats wait: %s", waits)
	}
}
