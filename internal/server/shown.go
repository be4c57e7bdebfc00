package server

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
)

// routes lists what both ports show.
func (c *Shown) routes() []route {
	routes := healthRoutes(c.Checks)
	routes = append(routes, at(both("/pods"), route{bucket: "pods", access: podsAccess, methods: onlyGET, serve: c.servePods})...)
	for _, path := range slices.Sorted(maps.Keys(c.Handlers)) {
		r := route{pattern: path, bucket: strings.TrimPrefix(path, "/"), access: metricsAccess, methods: onlyGET, serve: c.Handlers[path].ServeHTTP}
		if strings.HasPrefix(path, "/stats/") {
			r.bucket, r.access, r.methods = "stats", statsAccess, getAndPOST
		}
		routes = append(routes, r)
	}
	return routes
}

// servePods shows the pods that should be on the node: a v1.PodList in JSON.
func (c *Shown) servePods(w http.ResponseWriter, r *http.Request) {
	list := c.Pods()
	if list == nil {
		list = &v1.PodList{}
	}
	writePods(w, r, list.Items)
}

// writePods shows pods, which are not modified, as a v1.PodList.
func writePods(w http.ResponseWriter, r *http.Request, pods []v1.Pod) {
	list := v1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, Items: make([]v1.Pod, len(pods))}
	copy(list.Items, pods)
	for i := range list.Items {
		// Items of a list have no kind of their own; those of static pods come
		// with one.
		list.Items[i].TypeMeta = metav1.TypeMeta{}
	}
	writeJSON(w, r, &list)
}

func writeJSON(w http.ResponseWriter, r *http.Request, value any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(value); err != nil {
		klog.FromContext(r.Context()).V(2).Info("Answer was not read to its end", "path", r.URL.Path, "err", err)
	}
}
