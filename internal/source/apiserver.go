package source

import (
	"context"
	"errors"
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"kubelet/internal/podspec"
)

// APIConfig is what an API needs.
type APIConfig struct {
	// ListWatch lists and watches the pods of this node, in all namespaces;
	// see NodeSelector.
	ListWatch cache.ListerWatcher
	// Gate, if not nil, returns when pods may be taken: once the node's own
	// object is known, without which admission cannot judge them.
	Gate func(ctx context.Context) error
	Sink Sink
}

// NodeSelector is the field selector for the pods bound to a node.
func NodeSelector(node string) fields.Selector {
	return fields.OneTermEqualSelector("spec.nodeName", node)
}

// API is the source of the API server's pods of this node. It lists them
// once, which marks it as having reported, and then watches. While the API
// server is away the pods stay as they are; the first list after that brings
// everything that was missed. The sink's copy is the only one that is kept.
type API struct{ cfg APIConfig }

// NewAPI checks the configuration; Run does the work.
func NewAPI(cfg APIConfig) (*API, error) {
	if cfg.ListWatch == nil || cfg.Sink == nil {
		return nil, errors.New("the API server's pods need a list-watch and a sink")
	}
	return &API{cfg: cfg}, nil
}

// Run lists and watches until ctx ends. It fails only if the gate does.
func (a *API) Run(ctx context.Context) error {
	if a.cfg.Gate != nil {
		if err := a.cfg.Gate(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("wait for the node before taking its pods: %w", err)
		}
	}
	logger := klog.FromContext(ctx)
	logger.Info("Watching the API server's pods of this node")
	st := &store{sink: a.cfg.Sink}
	// The reflector's own loop would pause for up to a minute, and somebody
	// waits for a pod behind each failure. The jitter spreads a cluster's nodes.
	r := cache.NewReflectorWithOptions(a.cfg.ListWatch, &v1.Pod{}, st, cache.ReflectorOptions{
		Logger: &logger, Name: "pods",
		Backoff: &wait.Backoff{Duration: firstPause, Factor: 2, Jitter: 1, Steps: 5, Cap: longestPause},
	})
	pause := firstPause
	for {
		st.listed = false
		err := r.ListAndWatchWithContext(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if st.listed {
			pause = firstPause
		}
		if err != nil && (st.listed || pause == firstPause) {
			logger.Error(err, "Cannot list and watch pods; they stay as they are")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait.Jitter(pause, 1)):
		}
		pause = min(2*pause, longestPause)
	}
}

const (
	firstPause   = 500 * time.Millisecond
	longestPause = 10 * time.Second
)

// store passes on what the reflector would store.
type store struct {
	sink   Sink
	listed bool // since this was last reset
}

// strip drops who wrote which field: nobody here asks, and it is half of an
// object's size. A pod that calls itself a static one is not believed: static
// pods may be allowed more.
func strip(obj any) (*v1.Pod, bool) {
	pod, ok := obj.(*v1.Pod)
	if !ok {
		return nil, false
	}
	pod.ManagedFields = nil
	if podspec.IsStatic(pod) {
		pod.Annotations[podspec.SourceAnnotation] = podspec.SourceAPI
	}
	return pod, true
}

// Add implements cache.ReflectorStore.
func (s *store) Add(obj any) error {
	pod, ok := strip(obj)
	if !ok {
		return fmt.Errorf("watch of pods told of a %T", obj)
	}
	s.sink.Upsert(podspec.SourceAPI, pod)
	return nil
}

// Update implements cache.ReflectorStore.
func (s *store) Update(obj any) error { return s.Add(obj) }

// Delete implements cache.ReflectorStore.
func (s *store) Delete(obj any) error {
	pod, ok := strip(obj)
	if !ok {
		return fmt.Errorf("watch of pods told of a %T", obj)
	}
	s.sink.Delete(podspec.SourceAPI, pod.UID)
	return nil
}

// Replace implements cache.ReflectorStore.
func (s *store) Replace(list []any, _ string) error {
	pods := make([]*v1.Pod, 0, len(list))
	for _, obj := range list {
		pod, ok := strip(obj)
		if !ok {
			return fmt.Errorf("list of pods holds a %T", obj)
		}
		pods = append(pods, pod)
	}
	s.listed = true
	s.sink.Replace(podspec.SourceAPI, pods)
	return nil
}

// Resync implements cache.ReflectorStore.
func (s *store) Resync() error { return nil }
