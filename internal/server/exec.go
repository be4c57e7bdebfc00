package server

import (
	"context"
	"fmt"
	"net/http"

	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// execRoutes are /exec: run a command in a container and stream what it reads
// and writes.
func (s *Server) execRoutes() []route {
	return at([]string{"/exec/{namespace}/{pod}/{container}", "/exec/{namespace}/{pod}/{uid}/{container}"},
		route{bucket: "exec", access: proxyAccess, methods: getAndPOST, long: true, executes: true, serve: s.serveExec})
}

func (s *Server) serveExec(w http.ResponseWriter, r *http.Request) {
	s.stream(w, r, "exec", func(ctx context.Context, n session, id string) (string, error) {
		return s.cfg.Runtime.Exec(ctx, &runtimeapi.ExecRequest{
			ContainerId: id, Cmd: n.command, Tty: n.streams.tty,
			Stdin: n.streams.stdin, Stdout: n.streams.stdout, Stderr: n.streams.stderr,
		})
	})
}

// stream is what exec and attach have in common: it finds the container, has
// the runtime prepare a stream, and joins the client to it.
func (s *Server) stream(w http.ResponseWriter, r *http.Request, kind string, prepare func(ctx context.Context, n session, id string) (location string, err error)) {
	query := r.URL.Query()
	o, err := parseStreams(query)
	if err != nil {
		fail(w, http.StatusBadRequest, err.Error())
		return
	}
	if !upgradable(w, r) {
		return
	}
	pod, ok := s.findPod(r.PathValue("namespace"), r.PathValue("pod"), types.UID(r.PathValue("uid")))
	if !ok {
		fail(w, http.StatusNotFound, "pod does not exist")
		return
	}
	n := session{kind: kind, pod: pod, container: r.PathValue("container"), command: query["command"], streams: o}
	c := s.running(r.Context(), pod, n.container)
	if c == nil {
		fail(w, http.StatusInternalServerError, fmt.Sprintf("container not found (%q)", n.container))
		return
	}
	if kind == "attach" {
		// A process has a terminal or has none; the request cannot change that.
		spec, _ := containerSpec(pod, n.container)
		n.streams.tty = spec.TTY
		n.streams.stderr = n.streams.stderr && !spec.TTY
	}
	location, err := prepare(r.Context(), n, c.ID)
	if err != nil {
		refuse(w, err)
		return
	}
	s.record(r, n, func() error {
		if s.isSocket(r, offersTranslation) {
			s.countSocket(kind)
			return s.translate(w, r, location, n.streams)
		}
		return s.passThrough(w, r, location)
	})
}

func (s *Server) countSocket(subresource string) {
	if m := s.cfg.Measured; m != nil {
		m.sockets.WithLabelValues(subresource).Inc()
	}
}
