package server

import (
	"encoding/json"
	"net/http"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
)

// ReadOnlyConfig configures the read-only port, which asks nobody who they
// are.
type ReadOnlyConfig struct {
	// Address and Port to listen on (address, readOnlyPort).
	Address string
	Port    int
	// Pods returns the pods of this node with their newest status. The pods
	// are not modified.
	Pods func() *v1.PodList
	// Handlers of further paths, which anybody may GET: usage and metrics.
	Handlers map[string]http.Handler
	// Checks as in HealthzConfig.
	Checks map[string]func() error
}

// NewReadOnly makes the read-only port: /healthz, /pods and what
// Handlers has. Run
// serves it.
func NewReadOnly(cfg ReadOnlyConfig) (*Port, error) {
	mux := http.NewServeMux()
	handleHealth(mux, cfg.Checks)
	handlePods(mux, cfg.Pods)
	for path, h := range cfg.Handlers {
		mux.Handle("GET "+path, h)
	}
	return newPort("read-only requests", cfg.Address, cfg.Port, mux)
}

// handlePods adds /pods: a v1.PodList in JSON.
func handlePods(mux *http.ServeMux, pods func() *v1.PodList) {
	mux.HandleFunc("GET /pods", func(w http.ResponseWriter, r *http.Request) {
		list := v1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, Items: []v1.Pod{}}
		if got := pods(); got != nil {
			list.ListMeta = got.ListMeta
			list.Items = append(list.Items, got.Items...)
		}
		for i := range list.Items {
			// Items of a list have no kind of their own; those of static pods
			// come with one.
			list.Items[i].TypeMeta = metav1.TypeMeta{}
		}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(&list); err != nil {
			klog.FromContext(r.Context()).V(2).Info("List of pods was not read to its end", "err", err)
		}
	})
}
