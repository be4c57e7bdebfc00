// Package podsapi serves the pods of the node to programs on the node (gate
// PodsAPI, KEP-4188): list, get and watch over a socket that only root can
// reach, also while the API server is away. It owns the socket and the open
// watches; pods and statuses it reads through its Config.
//
// A watch never loses a pod and holds little for a client that reads slowly:
// what is kept for it is which pods have changed, not every change, and each
// is sent as it is when its turn comes.
package podsapi

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	podsv1alpha1 "k8s.io/kubelet/pkg/apis/pods/v1alpha1"
)

// SocketPath is where clients look for the socket, below the kubelet's root.
const SocketPath = "pods-api/pods-api.sock"

const (
	// perSecond and burst bound list and get, as upstream does.
	perSecond = 100
	burst     = 10
	// maxWatches bounds the watches that are open at once.
	maxWatches = 64
	// maxRequest is far above what a request needs, in bytes.
	maxRequest = 64 << 10
)

// Config of a Server.
type Config struct {
	// Path of the socket. Its directory is made if it is missing.
	Path string
	// Pods returns all pods of the node, and Pod one of them. They are not
	// modified.
	Pods func() []*v1.Pod
	Pod  func(uid types.UID) (*v1.Pod, bool)
	// Status returns the newest status of a pod that this kubelet has made,
	// ok false before it has made one.
	Status func(uid types.UID) (s v1.PodStatus, ok bool)
	// Ready says whether all sources have reported: before, a list would look
	// whole and not be.
	Ready func() bool
	// Registerer of the metrics.
	Registerer prometheus.Registerer
}

// Server serves the socket.
type Server struct {
	podsv1alpha1.UnimplementedPodsServer
	config  Config
	metrics *metrics
	limiter *rate.Limiter
	seed    maphash.Seed

	mu      sync.Mutex
	watches map[*watch]bool
}

// New returns a server; Run serves it.
func New(config Config) (*Server, error) {
	m, err := newMetrics(config.Registerer)
	if err != nil {
		return nil, fmt.Errorf("set up metrics of the pods API: %w", err)
	}
	return &Server{
		config: config, metrics: m, limiter: rate.NewLimiter(perSecond, burst),
		seed: maphash.MakeSeed(), watches: map[*watch]bool{},
	}, nil
}

// Run listens and serves until ctx ends. Watches end with it.
func (s *Server) Run(ctx context.Context) error {
	listener, err := listen(s.config.Path)
	if err != nil {
		return fmt.Errorf("listen for the pods API on %s: %w", s.config.Path, err)
	}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(maxRequest),
		grpc.UnaryInterceptor(s.unary), grpc.StreamInterceptor(s.stream))
	podsv1alpha1.RegisterPodsServer(server, s)
	stop := context.AfterFunc(ctx, server.Stop)
	defer stop()
	if err := server.Serve(listener); err != nil && ctx.Err() == nil {
		return fmt.Errorf("serve the pods API on %s: %w", s.config.Path, err)
	}
	return nil
}

// listen makes the socket under another name first: what is left of an earlier
// process is replaced at once, and never is there a socket that others than
// root can open.
func listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, err
	}
	fresh := path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: fresh, Net: "unix"})
	if err != nil {
		return nil, err
	}
	listener.SetUnlinkOnClose(false)
	if err = os.Chmod(fresh, 0o600); err == nil {
		err = os.Rename(fresh, path)
	}
	if err != nil {
		_ = listener.Close()
		return nil, err
	}
	return listener, nil
}

// Wake tells that a pod or its status may have changed, or is gone. It never
// blocks. A nil server has nobody to tell.
func (s *Server) Wake(uid types.UID) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.watches {
		w.add(uid)
	}
}

func (s *Server) ready() error {
	if !s.config.Ready() {
		return status.Error(codes.FailedPrecondition, "the kubelet does not know all pods yet")
	}
	return nil
}

// ListPods returns all pods of the node, by UID.
func (s *Server) ListPods(context.Context, *podsv1alpha1.ListPodsRequest) (*podsv1alpha1.ListPodsResponse, error) {
	if err := s.ready(); err != nil {
		return nil, err
	}
	out := &podsv1alpha1.ListPodsResponse{}
	for _, pod := range s.sorted() {
		text, err := s.encode(pod)
		if err != nil {
			return nil, err
		}
		out.Pods = append(out.Pods, text)
	}
	return out, nil
}

// GetPod returns one pod.
func (s *Server) GetPod(_ context.Context, req *podsv1alpha1.GetPodRequest) (*podsv1alpha1.GetPodResponse, error) {
	if err := s.ready(); err != nil {
		return nil, err
	}
	pod, ok := s.config.Pod(types.UID(req.GetPodUID()))
	if !ok {
		return nil, status.Errorf(codes.NotFound, "pod with UID %s not found", req.GetPodUID())
	}
	text, err := s.encode(pod)
	return &podsv1alpha1.GetPodResponse{Pod: text}, err
}

func (s *Server) sorted() []*v1.Pod {
	pods := slices.Clone(s.config.Pods())
	slices.SortFunc(pods, func(a, b *v1.Pod) int { return strings.Compare(string(a.UID), string(b.UID)) })
	return pods
}

func (s *Server) encode(pod *v1.Pod) ([]byte, error) {
	shown := *pod
	shown.Status = s.status(pod)
	text, err := shown.Marshal()
	if err != nil {
		return nil, status.Errorf(codes.Internal, "encode pod %s: %v", pod.UID, err)
	}
	return text, nil
}

// status is the newest one. Until this kubelet has made one, the object's may
// be from before it started: the pod does not count as ready by it.
func (s *Server) status(pod *v1.Pod) v1.PodStatus {
	if made, ok := s.config.Status(pod.UID); ok {
		return made
	}
	known := *pod.Status.DeepCopy()
	if known.Phase == "" {
		known.Phase = v1.PodPending
	}
	for i := range known.Conditions {
		if c := &known.Conditions[i]; c.Type == v1.PodReady && c.Status == v1.ConditionTrue {
			c.Status, c.Reason, c.Message = v1.ConditionFalse, "ContainersNotReady", "The kubelet has not looked at the containers yet"
		}
	}
	return known
}

// watch is one client's. It keeps which pods have changed since they were sent.
type watch struct {
	mu    sync.Mutex
	dirty map[types.UID]bool
	some  chan struct{} // holds one if dirty has any
}

func (w *watch) add(uid types.UID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dirty[uid] = true
	select {
	case w.some <- struct{}{}:
	default:
	}
}

// take returns the pods that have changed, by UID.
func (w *watch) take() []types.UID {
	w.mu.Lock()
	defer w.mu.Unlock()
	uids := make([]types.UID, 0, len(w.dirty))
	for uid := range w.dirty {
		uids = append(uids, uid)
	}
	clear(w.dirty)
	slices.Sort(uids)
	return uids
}

func (s *Server) open() (*watch, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.watches) >= maxWatches {
		return nil, status.Errorf(codes.ResourceExhausted, "%d watches are open, more are not served", maxWatches)
	}
	w := &watch{dirty: map[types.UID]bool{}, some: make(chan struct{}, 1)}
	s.watches[w] = true
	return w, nil
}

func (s *Server) close(w *watch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.watches, w)
}

// WatchPods sends the pods that there are, then what changes.
func (s *Server) WatchPods(_ *podsv1alpha1.WatchPodsRequest, stream podsv1alpha1.Pods_WatchPodsServer) error {
	if err := s.ready(); err != nil {
		return err
	}
	// Before the list, so that nothing falls between.
	w, err := s.open()
	if err != nil {
		return err
	}
	defer s.close(w)
	c := client{server: s, stream: stream, sent: map[types.UID]last{}}
	for _, pod := range s.sorted() {
		if err := c.show(pod); err != nil {
			return err
		}
	}
	if err := stream.Send(&podsv1alpha1.WatchPodsEvent{Type: podsv1alpha1.EventType_INITIAL_SYNC_COMPLETE}); err != nil {
		return err
	}
	for {
		select {
		case <-stream.Context().Done():
			return status.FromContextError(stream.Context().Err()).Err()
		case <-w.some:
		}
		for _, uid := range w.take() {
			if pod, ok := s.config.Pod(uid); ok {
				err = c.show(pod)
			} else {
				err = c.remove(uid)
			}
			if err != nil {
				return err
			}
		}
	}
}

// last is what a client has been sent of a pod.
type last struct {
	namespace, name string
	sum             uint64
}

// client is the sending side of one watch.
type client struct {
	server *Server
	stream podsv1alpha1.Pods_WatchPodsServer
	sent   map[types.UID]last
}

// show sends a pod unless it is what was sent last.
func (c *client) show(pod *v1.Pod) error {
	text, err := c.server.encode(pod)
	if err != nil {
		return err
	}
	before, known := c.sent[pod.UID]
	now := last{pod.Namespace, pod.Name, maphash.Bytes(c.server.seed, text)}
	if known && before == now {
		return nil
	}
	event := podsv1alpha1.EventType_ADDED
	if known {
		event = podsv1alpha1.EventType_MODIFIED
	}
	c.sent[pod.UID] = now
	return c.stream.Send(&podsv1alpha1.WatchPodsEvent{Type: event, Pod: text})
}

// remove tells that a pod is gone: who it was is all that is left.
func (c *client) remove(uid types.UID) error {
	was, known := c.sent[uid]
	if !known {
		return nil
	}
	delete(c.sent, uid)
	text, err := (&v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: was.namespace, Name: was.name, UID: uid}}).Marshal()
	if err != nil {
		return status.Errorf(codes.Internal, "encode pod %s: %v", uid, err)
	}
	return c.stream.Send(&podsv1alpha1.WatchPodsEvent{Type: podsv1alpha1.EventType_DELETED, Pod: text})
}
