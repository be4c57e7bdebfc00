package status

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	v1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/klog/v2"

	"kubelet/internal/podspec"
)

// Client is what the writer needs of the API server. Errors are those of
// apimachinery's api/errors; any other error means that no server answered.
type Client interface {
	GetPod(ctx context.Context, namespace, name string) (*v1.Pod, error)
	// PatchPodStatus applies a strategic merge patch to the status, only if
	// the pod has that UID (Conflict otherwise).
	PatchPodStatus(ctx context.Context, namespace, name string, uid types.UID, patch []byte) (*v1.Pod, error)
	DeletePod(ctx context.Context, namespace, name string, options metav1.DeleteOptions) error
}

// WriterConfig says what a Writer is made of.
type WriterConfig struct {
	// Client is nil in standalone mode: each status is accepted at once.
	Client Client
	// Mirror returns the API object that mirrors the static pod of that
	// name, or nil. It must not call the API server.
	Mirror func(podspec.Name) *v1.Pod
	// Changed, if not nil, is told the UID of a pod whose newest status is
	// another one now. It must not block.
	Changed func(types.UID)
	// Workers bounds the writes in flight, one per pod; 8 if 0.
	Workers int
	// Timeout of each call; 10 s if 0.
	Timeout time.Duration
}

// Writer brings the newest status of each pod to the API server. Per pod it
// holds the status published last, and the status in the API object as far
// as it is known; what lies between the two is what has to be written.
//
// A static pod's status goes to its mirror pod; while there is none the
// status waits for it.
type Writer struct {
	config   WriterConfig
	duration prometheus.Histogram

	queue *queue[types.UID]

	mu      sync.Mutex
	pods    map[types.UID]*entry
	statics map[mirrored]types.UID // of the static pods among them
	away    bool                   // an attempt got no answer since the last success
}

// entry is one pod. Its statuses are shared and never changed in place.
type entry struct {
	pod     *v1.Pod // as published last
	status  v1.PodStatus
	version uint64 // of status
	since   time.Time
	// accepted is the newest version that the API object has.
	accepted uint64
	// changed is closed when accepted or gone change.
	changed chan struct{}
	gone    bool

	// object is what is known of the API object; nil if it has to be read.
	object *object
	// settled is the resource version of the object that was found right.
	settled string

	// writing is set during a write; seen is the newest copy of the object
	// that the watch brought meanwhile.
	writing  bool
	seen     *v1.Pod
	failures int
}

// mirrored is what a mirror pod tells of its static pod. The name alone does
// not do: a static pod may be ending while the next one has it already.
type mirrored struct {
	name podspec.Name
	hash string
}

func mirroredBy(mirror *v1.Pod) mirrored {
	return mirrored{podspec.FullName(mirror), mirror.Annotations[podspec.MirrorAnnotation]}
}

type object struct {
	uid             types.UID
	resourceVersion string
	status          v1.PodStatus
}

const (
	defaultWorkers = 8
	defaultTimeout = 10 * time.Second
)

// NewWriter returns a writer. It takes statuses at once and writes them while
// Run runs.
func NewWriter(config WriterConfig) (*Writer, error) {
	if config.Client != nil && config.Mirror == nil {
		return nil, errors.New("new status writer: Mirror is nil")
	}
	if config.Workers <= 0 {
		config.Workers = defaultWorkers
	}
	if config.Timeout <= 0 {
		config.Timeout = defaultTimeout
	}
	w := &Writer{
		config:  config,
		pods:    map[types.UID]*entry{},
		statics: map[mirrored]types.UID{},
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "kubelet_pod_status_sync_duration_seconds",
			Help:    "Time from the first unwritten change of a pod's status to its acceptance by the API server, in seconds.",
			Buckets: []float64{0.010, 0.050, 0.100, 0.500, 1, 5, 10, 20, 30, 45, 60},
		}),
	}
	w.queue = newQueue(config.Workers, w.write)
	return w, nil
}

// Metrics of the writer, to be registered.
func (w *Writer) Metrics() []prometheus.Collector { return []prometheus.Collector{w.duration} }

// Publish takes the newest status of a pod; it never blocks. Neither pod nor
// status may be changed afterwards. What would go backwards is taken back and
// logged. An equal status is not written again, unless somebody else has
// changed the API object, of which pod may be a newer copy.
func (w *Writer) Publish(pod *v1.Pod, status v1.PodStatus) {
	if w.publish(pod, status) && w.config.Changed != nil {
		w.config.Changed(pod.UID)
	}
}

func (w *Writer) publish(pod *v1.Pod, status v1.PodStatus) (changed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e := w.pods[pod.UID]
	if e == nil {
		e = &entry{changed: make(chan struct{}), pod: pod}
		w.pods[pod.UID] = e
		if podspec.IsStatic(pod) {
			w.statics[mirrored{podspec.FullName(pod), hash(pod)}] = pod.UID
		}
	} else {
		var violations []string
		if status, violations = forward(e.status, status); len(violations) > 0 {
			klog.Background().Error(nil, "Status went backwards, taken back", "pod", klog.KObj(pod), "podUID", pod.UID, "changes", violations)
		}
	}
	e.pod = pod
	if e.version == 0 || !apiequality.Semantic.DeepEqual(e.status, status) {
		if e.accepted == e.version {
			e.since = time.Now()
		}
		e.version++
		changed = true
	}
	e.status = status
	if !podspec.IsStatic(pod) {
		w.learn(e, pod)
	}
	w.settle(pod.UID, e)
	return changed
}

// Observe takes a copy of an API object that the watch has brought: a mirror
// pod that a static pod's status waits for, or a pod whose status somebody
// else has changed. It never blocks.
func (w *Writer) Observe(pod *v1.Pod) {
	w.mu.Lock()
	defer w.mu.Unlock()
	uid := pod.UID
	if podspec.IsMirror(pod) {
		uid = w.statics[mirroredBy(pod)]
	}
	if e := w.pods[uid]; e != nil {
		w.learn(e, pod)
		w.settle(uid, e)
	}
}

// ObserveDeleted takes the last copy of an API object that was deleted: what
// waits for its status to be accepted waits no longer.
func (w *Writer) ObserveDeleted(pod *v1.Pod) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if podspec.IsMirror(pod) {
		if e := w.pods[w.statics[mirroredBy(pod)]]; e != nil && e.object != nil && e.object.uid == pod.UID {
			e.object = nil
		}
		return
	}
	if e := w.pods[pod.UID]; e != nil && !e.gone {
		e.gone = true
		w.announce(e)
	}
}

// learn takes the status of an API object if it is newer than what is known.
func (w *Writer) learn(e *entry, pod *v1.Pod) {
	if pod.ResourceVersion == "" {
		return
	}
	if e.writing {
		e.seen = pod
		return
	}
	if e.object != nil && e.object.uid == pod.UID {
		if order, err := resourceversion.CompareResourceVersion(pod.ResourceVersion, e.object.resourceVersion); err != nil || order <= 0 {
			return
		}
	} else if e.object == nil && e.failures > 0 {
		return // a write may have arrived after this copy was made
	}
	e.object = &object{uid: pod.UID, resourceVersion: pod.ResourceVersion, status: pod.Status}
}

// settle accepts the status if nothing has to be written, and else sees to it
// that it is.
func (w *Writer) settle(uid types.UID, e *entry) {
	switch {
	case w.config.Client == nil || e.gone:
		w.accept(e, e.version)
	case e.isSettled():
	default:
		w.queue.add(uid)
	}
}

// isSettled says whether the API object is known to have the newest status.
func (e *entry) isSettled() bool {
	return e.accepted == e.version && e.object != nil && e.object.resourceVersion == e.settled
}

func (w *Writer) accept(e *entry, version uint64) {
	if e.accepted >= version {
		return
	}
	e.accepted = version
	w.announce(e)
}

func (w *Writer) announce(e *entry) {
	close(e.changed)
	e.changed = make(chan struct{})
}

// Accepted blocks until the status that is newest at the time of the call is
// accepted by the API server, or the pod's object is gone. For a static pod
// it returns at once: its life must not depend on an API server, which it may
// well be itself.
func (w *Writer) Accepted(ctx context.Context, uid types.UID) error {
	w.mu.Lock()
	e := w.pods[uid]
	if e == nil || podspec.IsStatic(e.pod) {
		w.mu.Unlock()
		return nil
	}
	version := e.version
	for e.accepted < version && !e.gone {
		changed := e.changed
		w.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for the API server to accept the status: %w", ctx.Err())
		}
		w.mu.Lock()
	}
	w.mu.Unlock()
	return nil
}

// Get returns the status published last.
func (w *Writer) Get(uid types.UID) (v1.PodStatus, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e := w.pods[uid]
	if e == nil {
		return v1.PodStatus{}, false
	}
	return e.status, true
}

// Forget drops what is held for the pod.
func (w *Writer) Forget(uid types.UID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e := w.pods[uid]
	if e == nil {
		return
	}
	delete(w.pods, uid)
	if podspec.IsStatic(e.pod) {
		delete(w.statics, mirrored{podspec.FullName(e.pod), hash(e.pod)})
	}
	e.gone = true
	w.announce(e)
}

// DeleteObject removes the API object of a pod whose end is complete, only if
// it still has that UID. It succeeds if it is gone or another pod has taken
// the name. Static pods have no object of their own.
func (w *Writer) DeleteObject(ctx context.Context, pod *v1.Pod) error {
	if w.config.Client == nil || podspec.IsStatic(pod) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, w.config.Timeout)
	defer cancel()
	err := w.config.Client.DeletePod(ctx, pod.Namespace, pod.Name, metav1.DeleteOptions{
		GracePeriodSeconds: new(int64),
		Preconditions:      metav1.NewUIDPreconditions(string(pod.UID)),
	})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete API object: %w", err)
	}
	return nil
}

// Retry repeats all failed attempts now, because the API server is known to
// be back.
func (w *Writer) Retry() { w.queue.hurry() }

// Run writes statuses until ctx ends, and returns when no write is under way.
func (w *Writer) Run(ctx context.Context) error {
	w.queue.run(ctx)
	return nil
}
