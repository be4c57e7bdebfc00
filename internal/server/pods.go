package server

import (
	"net/http"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kubelet/internal/observed"
)

// podRoutes are /runningpods, what the runtime really has, and /allocatedPods,
// what the pods were given.
func (s *Server) podRoutes() []route {
	routes := at(both("/runningpods"), route{bucket: "runningpods", access: podsAccess, methods: onlyGET, serve: s.serveRunningPods})
	if s.cfg.AllocatedPods == nil {
		return routes
	}
	allocated := route{bucket: "allocatedPods", access: podsAccess, methods: onlyGET}
	allocated.serve = s.serveAllocatedPods
	routes = append(routes, at(both("/allocatedPods"), allocated)...)
	allocated.serve = s.serveAllocatedPod
	return append(routes, at([]string{"/allocatedPods/{namespace}/{pod}", "/allocatedPods/{namespace}/{pod}/{uid}"}, allocated)...)
}

// serveRunningPods shows the pods with something that runs: names and images,
// which is all that the runtime knows.
func (s *Server) serveRunningPods(w http.ResponseWriter, r *http.Request) {
	pods := []v1.Pod{}
	for uid, p := range s.cfg.Observed.List() {
		if pod, ok := runningPod(uid, p); ok {
			pods = append(pods, pod)
		}
	}
	slices.SortFunc(pods, func(a, b v1.Pod) int {
		return strings.Compare(a.Namespace+"/"+a.Name+"/"+string(a.UID), b.Namespace+"/"+b.Name+"/"+string(b.UID))
	})
	writePods(w, r, pods)
}

func runningPod(uid types.UID, p observed.Pod) (v1.Pod, bool) {
	pod := v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: p.Name, Namespace: p.Namespace, UID: uid}}
	for i := range p.Containers {
		if c := &p.Containers[i]; c.State == observed.Running {
			pod.Spec.Containers = append(pod.Spec.Containers, v1.Container{Name: c.Name, Image: c.Image})
		}
	}
	return pod, p.ReadySandbox() != nil || len(pod.Spec.Containers) > 0
}

// withoutStatus is how an allocated pod is shown.
func withoutStatus(pod *v1.Pod) v1.Pod {
	shown := *pod
	shown.Status = v1.PodStatus{}
	return shown
}

func (s *Server) serveAllocatedPods(w http.ResponseWriter, r *http.Request) {
	pods := []v1.Pod{}
	for _, pod := range s.cfg.AllocatedPods() {
		pods = append(pods, withoutStatus(pod))
	}
	writePods(w, r, pods)
}

func (s *Server) serveAllocatedPod(w http.ResponseWriter, r *http.Request) {
	namespace, name, uid := r.PathValue("namespace"), r.PathValue("pod"), types.UID(r.PathValue("uid"))
	for _, pod := range s.cfg.AllocatedPods() {
		if pod.Namespace == namespace && pod.Name == name && (uid == "" || pod.UID == uid) {
			shown := withoutStatus(pod)
			shown.TypeMeta = metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"}
			writeJSON(w, r, &shown)
			return
		}
	}
	fail(w, http.StatusNotFound, "pod not found")
}
