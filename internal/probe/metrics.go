package probe

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	v1 "k8s.io/api/core/v1"
)

// metrics are named and labelled as upstream's; those of stalls and of waiting
// are ours.
type metrics struct {
	total    *prometheus.CounterVec
	duration *prometheus.HistogramVec
	stalled  *prometheus.CounterVec
	queued   *prometheus.HistogramVec
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "prober_probe_total",
			Help: "Probes of a container that were run, by kind and result.",
		}, []string{"probe_type", "result", "container", "pod", "namespace", "pod_uid"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "prober_probe_duration_seconds",
			Help: "How long successful probes of a container took.",
		}, []string{"probe_type", "container", "pod", "namespace"}),
		stalled: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "prober_probe_stalled_total",
			Help: "Probes that timed out while the node itself was late, and were run again instead of counted.",
		}, []string{"probe_type"}),
		queued: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "prober_probe_queue_duration_seconds",
			Help:    "How long probes that were due waited for a place to run in. No container is billed for it.",
			Buckets: prometheus.ExponentialBuckets(.001, 5, 8),
		}, []string{"pool"}),
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.total, m.duration, m.stalled, m.queued} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return m, nil
}

// results are the values of the label, by what a run came to.
var results = [...]string{passed: "successful", warned: "successful", failed: "failed", unknown: "unknown"}

// series are one probe's. They outlive the container, as counters should, and
// end with the pod.
type series struct {
	total    [len(results)]prometheus.Counter
	duration prometheus.Observer
}

func (m *metrics) count(s *series, pod *v1.Pod, container string, k Kind, v verdict, took time.Duration) {
	if s.total[v] == nil {
		s.total[v] = m.total.WithLabelValues(k.String(), results[v], container, pod.Name, pod.Namespace, string(pod.UID))
	}
	s.total[v].Inc()
	if v == failed || v == unknown {
		return
	}
	if s.duration == nil {
		s.duration = m.duration.WithLabelValues(k.String(), container, pod.Name, pod.Namespace)
	}
	s.duration.Observe(took.Seconds())
}

// forget drops the series of one probe of a pod that is gone.
func (m *metrics) forget(pod *v1.Pod, container string, k Kind) {
	for _, result := range results {
		m.total.DeleteLabelValues(k.String(), result, container, pod.Name, pod.Namespace, string(pod.UID))
	}
	m.duration.DeleteLabelValues(k.String(), container, pod.Name, pod.Namespace)
}
