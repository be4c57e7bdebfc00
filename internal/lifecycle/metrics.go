package lifecycle

import (
	"cmp"

	"github.com/prometheus/client_golang/prometheus"
	v1 "k8s.io/api/core/v1"

	"kubelet/internal/podspec"
)

// Metrics count starts, under upstream's names and labels. A nil *Metrics
// counts nothing.
type Metrics struct {
	pods, podErrors             prometheus.Counter
	userns, usernsErrors        prometheus.Counter
	containers, containerErrors *prometheus.CounterVec

	images, imagesMounted, imageErrors prometheus.Counter // volumes of type image
}

// NewMetrics returns counters at zero.
func NewMetrics() *Metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Subsystem: "kubelet", Name: name, Help: help})
	}
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Subsystem: "kubelet", Name: name, Help: help}, labels)
	}
	return &Metrics{
		pods:            counter("started_pods_total", "Pod sandboxes that were asked for."),
		podErrors:       counter("started_pods_errors_total", "Pod sandboxes that could not be started."),
		userns:          counter("started_user_namespaced_pods_total", "Pod sandboxes with a user namespace that were asked for."),
		usernsErrors:    counter("started_user_namespaced_pods_errors_total", "Pod sandboxes with a user namespace that could not be started."),
		containers:      vec("started_containers_total", "Containers that were asked for, by kind.", "container_type"),
		containerErrors: vec("started_containers_errors_total", "Containers that could not be started, by kind and reason.", "container_type", "code"),
		images:          counter("image_volume_requested_total", "Image volumes that containers asked for, each attempt."),
		imagesMounted:   counter("image_volume_mounted_succeed_total", "Image volumes whose image was there to be mounted."),
		imageErrors:     counter("image_volume_mounted_errors_total", "Image volumes whose image could not be had."),
	}
}

// Collectors of the counters, to be registered.
func (m *Metrics) Collectors() []prometheus.Collector {
	return []prometheus.Collector{m.pods, m.podErrors, m.userns, m.usernsErrors, m.containers, m.containerErrors,
		m.images, m.imagesMounted, m.imageErrors}
}

// sandbox counts a sandbox and how its start ended.
func (m *Metrics) sandbox(pod *v1.Pod, err error) {
	if m == nil {
		return
	}
	userns := pod.Spec.HostUsers != nil && !*pod.Spec.HostUsers
	m.pods.Inc()
	if userns {
		m.userns.Inc()
	}
	if err == nil {
		return
	}
	m.podErrors.Inc()
	if userns {
		m.usernsErrors.Inc()
	}
}

// container counts a container and how its start ended.
func (m *Metrics) container(pod *v1.Pod, name string, r *Result) {
	if m == nil {
		return
	}
	kind := containerType(pod, name)
	m.containers.WithLabelValues(kind).Inc()
	if r.Err != nil {
		m.containerErrors.WithLabelValues(kind, cmp.Or(r.Reason, "Unknown")).Inc()
	}
}

// image counts a container that cannot start for want of its image.
func (m *Metrics) image(pod *v1.Pod, name string, r *Result) {
	if m != nil && r.Err != nil {
		m.containerErrors.WithLabelValues(containerType(pod, name), cmp.Or(r.Reason, "Unknown")).Inc()
	}
}

// imageVolume counts an image volume that a container mounts.
func (m *Metrics) imageVolume(err error) {
	switch {
	case m == nil:
		return
	case err != nil:
		m.imageErrors.Inc()
	default:
		m.imagesMounted.Inc()
	}
	m.images.Inc()
}

func containerType(pod *v1.Pod, name string) string {
	switch _, kind := podspec.FindContainer(pod, name); kind {
	case podspec.Init:
		return "init_container"
	case podspec.Ephemeral:
		return "ephemeral_container"
	}
	return "container"
}
