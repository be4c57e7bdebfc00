package server

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
)

// checkpointRoutes are /checkpoint: write the state of a container to a file
// of the node (KEP-2008).
func (s *Server) checkpointRoutes() []route {
	if s.cfg.CheckpointDir == "" {
		return nil
	}
	return []route{{pattern: "/checkpoint/{namespace}/{pod}/{container}", bucket: "checkpoint", access: checkpointAccess,
		methods: onlyPOST, long: true, serve: s.serveCheckpoint}}
}

func (s *Server) serveCheckpoint(w http.ResponseWriter, r *http.Request) {
	pod, ok := s.findPod(r.PathValue("namespace"), r.PathValue("pod"), "")
	if !ok {
		fail(w, http.StatusNotFound, "pod does not exist")
		return
	}
	name := r.PathValue("container")
	if _, ok := containerSpec(pod, name); !ok {
		fail(w, http.StatusNotFound, fmt.Sprintf("container %v does not exist", name))
		return
	}
	var timeout time.Duration
	if values := r.URL.Query()["timeout"]; len(values) > 0 {
		seconds, err := strconv.ParseInt(values[len(values)-1], 10, 32)
		if err != nil || seconds < 0 {
			fail(w, http.StatusNotFound, "cannot parse value of timeout parameter")
			return
		}
		timeout = time.Duration(seconds) * time.Second
	}
	s.record(r, session{kind: "checkpoint", pod: pod, container: name}, func() error {
		path, err := s.checkpoint(r, pod, name, timeout)
		if err != nil {
			fail(w, http.StatusInternalServerError, fmt.Sprintf("checkpointing of %v/%v/%v failed (%v)", pod.Namespace, pod.Name, name, err))
			return err
		}
		writeJSON(w, r, struct {
			Items []string `json:"items"`
		}{[]string{path}})
		return nil
	})
}

func (s *Server) checkpoint(r *http.Request, pod *v1.Pod, name string, timeout time.Duration) (string, error) {
	c := s.running(r.Context(), pod, name)
	if c == nil {
		return "", fmt.Errorf("container %v not found", name)
	}
	if err := os.MkdirAll(s.cfg.CheckpointDir, 0o700); err != nil {
		return "", fmt.Errorf("make checkpoint directory: %w", err)
	}
	path, done := s.checkpoints.reserve(s.cfg.CheckpointDir, fmt.Sprintf("checkpoint-%s_%s-%s-%s", pod.Name, pod.Namespace, name, time.Now().Format(time.RFC3339)))
	defer done()
	return path, s.cfg.Runtime.CheckpointContainer(r.Context(), c.ID, path, timeout)
}

// checkpointNames keeps two checkpoints of one second apart, whose names would
// be the same.
type checkpointNames struct {
	mu   sync.Mutex
	used map[string]bool
}

func (n *checkpointNames) reserve(dir, name string) (path string, done func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.used == nil {
		n.used = map[string]bool{}
	}
	path = filepath.Join(dir, name+".tar")
	for i := 1; ; i++ {
		if _, err := os.Lstat(path); os.IsNotExist(err) && !n.used[path] {
			break
		}
		path = filepath.Join(dir, fmt.Sprintf("%s-%d.tar", name, i))
	}
	n.used[path] = true
	return path, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.used, path)
	}
}
