package status

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"

	"kubelet/internal/podspec"
)

// EventClient is what events need of the API server. It limits the rate
// (eventRecordQPS, eventBurst).
type EventClient interface {
	CreateEvent(ctx context.Context, event *v1.Event) (*v1.Event, error)
	PatchEvent(ctx context.Context, namespace, name string, patch []byte) (*v1.Event, error)
}

// RecorderConfig says what a Recorder is made of.
type RecorderConfig struct {
	// Client is nil in standalone mode: events are logged and remembered.
	Client   EventClient
	NodeName string
	// NodeUID of the Node object, "" until it is known; nil if it never is.
	NodeUID func() types.UID
	// Queue bounds the events that wait to be written; 1000 if 0. What comes
	// when it is full is dropped: events are best effort.
	Queue int
	// Remember is how many events Recent knows; 500 if 0.
	Remember int
	// Timeout of each call; 10 s if 0.
	Timeout time.Duration
}

// Recorder records Kubernetes events. Equal events are counted up in one
// object, similar ones are combined, and an object that has too many gets no
// more for a while, all as client-go's recorder does it for every component.
type Recorder struct {
	config  RecorderConfig
	queue   chan *v1.Event
	dropped prometheus.Counter

	mu     sync.Mutex
	recent []RecentEvent // a ring
	next   int
}

// RecentEvent is an event as the local explanation shows it.
type RecentEvent struct {
	Time      time.Time `json:"time"`
	UID       types.UID `json:"uid"` // of the pod; empty for the node
	Container string    `json:"container,omitempty"`
	Type      string    `json:"type"`
	Reason    string    `json:"reason"`
	Message   string    `json:"message"`
}

const (
	eventComponent = "kubelet"
	// maxEventMessage is the API's limit of an event's text, in bytes.
	maxEventMessage = 1024
	// maxEventTries bounds how often an event is offered to a server that
	// does not answer.
	maxEventTries = 8
	// correlated bounds the objects and messages that counts are kept of.
	correlated = 1024
)

// NewRecorder returns a recorder. Events are written while Run runs.
func NewRecorder(config RecorderConfig) (*Recorder, error) {
	if config.NodeName == "" {
		return nil, errors.New("new event recorder: NodeName is empty")
	}
	if config.Queue <= 0 {
		config.Queue = 1000
	}
	if config.Remember <= 0 {
		config.Remember = 500
	}
	if config.Timeout <= 0 {
		config.Timeout = defaultTimeout
	}
	return &Recorder{
		config: config,
		queue:  make(chan *v1.Event, config.Queue),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kubelet_events_dropped_total",
			Help: "Events that were not written because too many waited or the API server refused them.",
		}),
	}, nil
}

// Metrics of the recorder, to be registered.
func (r *Recorder) Metrics() []prometheus.Collector { return []prometheus.Collector{r.dropped} }

// Event records an event about a pod, or about one of its containers. It
// never blocks. An event of a static pod names the UID that the static pod
// has on the node, by which clients look for the events of its mirror.
func (r *Recorder) Event(pod *v1.Pod, container, eventType, reason, message string) {
	r.record(v1.ObjectReference{
		Kind: "Pod", APIVersion: "v1", Namespace: pod.Namespace, Name: pod.Name,
		UID: pod.UID, ResourceVersion: pod.ResourceVersion, FieldPath: fieldPath(pod, container),
	}, container, eventType, reason, message)
}

// NodeEvent records an event about the node. It never blocks.
func (r *Recorder) NodeEvent(eventType, reason, message string) {
	// Before the object is known its events carry the node's name as UID; who
	// looks for a node's events looks for both.
	uid := types.UID(r.config.NodeName)
	if r.config.NodeUID != nil {
		if known := r.config.NodeUID(); known != "" {
			uid = known
		}
	}
	r.record(v1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: r.config.NodeName, UID: uid}, "", eventType, reason, message)
}

// fieldPath names a container in the pod's spec.
func fieldPath(pod *v1.Pod, container string) string {
	if container == "" {
		return ""
	}
	list := "containers"
	if found, kind := podspec.FindContainer(pod, container); found != nil {
		switch kind {
		case podspec.Init:
			list = "initContainers"
		case podspec.Ephemeral:
			list = "ephemeralContainers"
		}
	}
	return fmt.Sprintf("spec.%s{%s}", list, container)
}

func (r *Recorder) record(about v1.ObjectReference, container, eventType, reason, message string) {
	now := time.Now()
	message = cut(message, maxEventMessage)
	recent := RecentEvent{Time: now, Container: container, Type: eventType, Reason: reason, Message: message}
	if about.Kind == "Pod" {
		recent.UID = about.UID
	}
	r.remember(recent)

	namespace := about.Namespace
	if namespace == "" {
		namespace = metav1.NamespaceDefault
	}
	stamp := metav1.NewTime(now)
	event := &v1.Event{
		ObjectMeta:          metav1.ObjectMeta{Name: fmt.Sprintf("%s.%x", about.Name, now.UnixNano()), Namespace: namespace},
		InvolvedObject:      about,
		Reason:              reason,
		Message:             message,
		Type:                eventType,
		Source:              v1.EventSource{Component: eventComponent, Host: r.config.NodeName},
		ReportingController: eventComponent,
		ReportingInstance:   r.config.NodeName,
		FirstTimestamp:      stamp,
		LastTimestamp:       stamp,
		Count:               1,
	}
	select {
	case r.queue <- event:
	default:
		r.dropped.Inc()
	}
}

// cut shortens text to at most limit bytes, between characters.
func cut(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	for limit > 0 && !utf8.RuneStart(text[limit]) {
		limit--
	}
	return text[:limit]
}

func (r *Recorder) remember(e RecentEvent) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.recent) < r.config.Remember {
		r.recent = append(r.recent, e)
		return
	}
	r.recent[r.next] = e
	r.next = (r.next + 1) % len(r.recent)
}

// Recent returns the remembered events of a pod, or the node's if uid is
// empty, oldest first.
func (r *Recorder) Recent(uid types.UID) []RecentEvent {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []RecentEvent
	for i := range r.recent {
		if e := r.recent[(r.next+i)%len(r.recent)]; e.UID == uid {
			list = append(list, e)
		}
	}
	return list
}

// Run writes events until ctx ends.
func (r *Recorder) Run(ctx context.Context) error {
	correlator := record.NewEventCorrelatorWithOptions(record.CorrelatorOptions{LRUCacheSize: correlated})
	logger := klog.FromContext(ctx)
	for {
		select {
		case <-ctx.Done():
			return nil
		case event := <-r.queue:
			if r.config.Client == nil {
				logger.Info("Event", "kind", event.InvolvedObject.Kind, "object", klog.KRef(event.InvolvedObject.Namespace, event.InvolvedObject.Name),
					"fieldPath", event.InvolvedObject.FieldPath, "type", event.Type, "reason", event.Reason, "message", event.Message)
				continue
			}
			result, err := correlator.EventCorrelate(event)
			if err != nil || result.Skip {
				continue // one event too many about this object
			}
			if err := r.write(ctx, correlator, result); err != nil && ctx.Err() == nil {
				r.dropped.Inc()
				logger.V(2).Info("Event was not recorded", "object", klog.KRef(event.InvolvedObject.Namespace, event.InvolvedObject.Name),
					"reason", event.Reason, "err", err)
			}
		}
	}
}

// write brings one event to the API server. It is tried again only if no
// server answered: a refusal will not change.
func (r *Recorder) write(ctx context.Context, correlator *record.EventCorrelator, result *record.EventCorrelateResult) error {
	var last error
	for try := 1; try <= maxEventTries; try++ {
		written, err := r.writeOnce(ctx, result)
		if err == nil {
			correlator.UpdateState(written)
			return nil
		}
		if !unreachable(err) {
			return err
		}
		last = err
		wait := time.NewTimer(backoff(try, err))
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return ctx.Err()
		}
	}
	return last
}

func (r *Recorder) writeOnce(ctx context.Context, result *record.EventCorrelateResult) (*v1.Event, error) {
	ctx, cancel := context.WithTimeout(ctx, r.config.Timeout)
	defer cancel()
	event := result.Event
	if event.Count > 1 {
		written, err := r.config.Client.PatchEvent(ctx, event.Namespace, event.Name, result.Patch)
		if !apierrors.IsNotFound(err) {
			return written, err
		}
		// It has expired; a new one counts on.
	}
	event.ResourceVersion = ""
	written, err := r.config.Client.CreateEvent(ctx, event)
	if apierrors.IsAlreadyExists(err) {
		return event, nil // an earlier try has arrived
	}
	return written, err
}
