package cgroup

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func newTiming() *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "kubelet_cgroup_manager_duration_seconds",
		Help:    "Seconds that a change of the cgroup tree took, by kind of change (create, update, destroy).",
		Buckets: prometheus.DefBuckets,
	}, []string{"operation_type"})
}

func (t *Tree) timed(operation string, start time.Time) {
	t.timing.WithLabelValues(operation).Observe(time.Since(start).Seconds())
}
