package server

import (
	"fmt"
	"net/http"

	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

// portForwardRoutes are /portForward: connections to ports of a pod.
func (s *Server) portForwardRoutes() []route {
	return at([]string{"/portForward/{namespace}/{pod}", "/portForward/{namespace}/{pod}/{uid}"},
		route{bucket: "portForward", access: proxyAccess, methods: getAndPOST, long: true, executes: true, serve: s.servePortForward})
}

func (s *Server) servePortForward(w http.ResponseWriter, r *http.Request) {
	socket := s.isSocket(r, offersTunnel)
	req := &runtimeapi.PortForwardRequest{}
	if !socket && wsstream.IsWebSocketRequest(r) {
		var err error
		if req.Port, err = parsePorts(r.URL.Query()); err != nil {
			fail(w, http.StatusBadRequest, err.Error())
			return
		}
	}
	if !upgradable(w, r) {
		return
	}
	pod, ok := s.findPod(r.PathValue("namespace"), r.PathValue("pod"), types.UID(r.PathValue("uid")))
	if !ok {
		fail(w, http.StatusNotFound, "pod does not exist")
		return
	}
	sandbox := s.cfg.Observed.Get(pod.UID).ReadySandbox()
	if sandbox == nil {
		fail(w, http.StatusInternalServerError, fmt.Sprintf("pod not found (%q)", pod.Name+"_"+pod.Namespace))
		return
	}
	req.PodSandboxId = sandbox.ID
	location, err := s.cfg.Runtime.PortForward(r.Context(), req)
	if err != nil {
		refuse(w, err)
		return
	}
	s.record(r, session{kind: "portforward", pod: pod}, func() error {
		if socket {
			s.countSocket("portforward")
			return s.forwardSocket(w, r, location)
		}
		return s.passThrough(w, r, location)
	})
}
