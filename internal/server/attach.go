package server

import (
	"context"
	"net/http"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// attachRoutes are /attach: stream what the container's own process reads and
// writes.
func (s *Server) attachRoutes() []route {
	return at([]string{"/attach/{namespace}/{pod}/{container}", "/attach/{namespace}/{pod}/{uid}/{container}"},
		route{bucket: "attach", access: proxyAccess, methods: getAndPOST, long: true, executes: true, serve: s.serveAttach})
}

func (s *Server) serveAttach(w http.ResponseWriter, r *http.Request) {
	s.stream(w, r, "attach", func(ctx context.Context, n session, id string) (string, error) {
		return s.cfg.Runtime.Attach(ctx, &runtimeapi.AttachRequest{
			ContainerId: id, Tty: n.streams.tty,
			Stdin: n.streams.stdin, Stdout: n.streams.stdout, Stderr: n.streams.stderr,
		})
	})
}
