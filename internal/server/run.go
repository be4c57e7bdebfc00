package server

import (
	"fmt"
	"net/http"
	"strings"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
)

// runRoutes are /run: run a command to its end and show what it wrote.
func (s *Server) runRoutes() []route {
	return at([]string{"/run/{namespace}/{pod}/{container}", "/run/{namespace}/{pod}/{uid}/{container}"},
		route{bucket: "run", access: proxyAccess, methods: onlyPOST, long: true, serve: s.serveRun})
}

func (s *Server) serveRun(w http.ResponseWriter, r *http.Request) {
	pod, ok := s.findPod(r.PathValue("namespace"), r.PathValue("pod"), types.UID(r.PathValue("uid")))
	if !ok {
		fail(w, http.StatusNotFound, "pod does not exist")
		return
	}
	name := r.PathValue("container")
	c := s.running(r.Context(), pod, name)
	if c == nil {
		fail(w, http.StatusInternalServerError, fmt.Sprintf("container not found (%q)", name))
		return
	}
	// In the query, or as a form in the body.
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	command := strings.Split(r.FormValue("cmd"), " ")
	s.record(r, session{kind: "run", pod: pod, container: name, command: command}, func() error {
		stdout, stderr, code, err := s.cfg.Runtime.ExecSync(r.Context(), c.ID, command, 0)
		if err == nil && code != 0 {
			err = fmt.Errorf("command '%s' exited with %d: %s", strings.Join(command, " "), code, stderr)
		}
		if err != nil {
			fail(w, http.StatusInternalServerError, err.Error())
			return err
		}
		w.Header().Set("Content-Type", "application/json")
		if _, err := w.Write(append(stdout, stderr...)); err != nil {
			klog.FromContext(r.Context()).V(2).Info("Output of a command was not read to its end", "err", err)
		}
		return nil
	})
}

// maxBody bounds what is read of a request's body.
const maxBody = 1 << 20
