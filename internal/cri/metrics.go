package cri

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are named and labelled as upstream's, so that its dashboards and
// alerts work; the gauge of the oldest call is ours.
type metrics struct {
	total         *prometheus.CounterVec
	errors        *prometheus.CounterVec
	duration      *prometheus.HistogramVec
	sandbox       *prometheus.HistogramVec
	sandboxErrors *prometheus.CounterVec
	oldest        oldestCollector
}

func newMetrics(calls *inFlight) metrics {
	byOperation := []string{"operation_type"}
	return metrics{
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kubelet_runtime_operations_total",
			Help: "Calls to the container runtime that ended, by operation type.",
		}, byOperation),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kubelet_runtime_operations_errors_total",
			Help: "Calls to the container runtime that ended with an error, by operation type.",
		}, byOperation),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "kubelet_runtime_operations_duration_seconds",
			Help:    "How long calls to the container runtime took, by operation type.",
			Buckets: prometheus.ExponentialBuckets(.005, 2.5, 14),
		}, byOperation),
		sandbox: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "kubelet_run_podsandbox_duration_seconds",
			Help:    "How long it took to run a pod sandbox, by runtime handler.",
			Buckets: prometheus.DefBuckets,
		}, []string{"runtime_handler"}),
		sandboxErrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kubelet_run_podsandbox_errors_total",
			Help: "Pod sandboxes that could not be run, by runtime handler.",
		}, []string{"runtime_handler"}),
		oldest: oldestCollector{calls: calls, desc: prometheus.NewDesc(
			"kubelet_runtime_oldest_inflight_seconds",
			"Age of the oldest call that the container runtime has not answered yet, by operation type; absent if there is none.",
			byOperation, nil)},
	}
}

func (m *metrics) register(r prometheus.Registerer) error {
	if r == nil {
		return nil
	}
	for _, c := range []prometheus.Collector{m.total, m.errors, m.duration, m.sandbox, m.sandboxErrors, m.oldest} {
		if err := r.Register(c); err != nil {
			return err
		}
	}
	return nil
}

func (m *metrics) observe(operation string, took time.Duration, err error) {
	m.total.WithLabelValues(operation).Inc()
	m.duration.WithLabelValues(operation).Observe(took.Seconds())
	if err != nil {
		m.errors.WithLabelValues(operation).Inc()
	}
}

// oldestCollector computes the ages when it is asked: a call that hangs shows
// while it hangs, which a histogram of ended calls never can.
type oldestCollector struct {
	calls *inFlight
	desc  *prometheus.Desc
}

func (o oldestCollector) Describe(ch chan<- *prometheus.Desc) { ch <- o.desc }

func (o oldestCollector) Collect(ch chan<- prometheus.Metric) {
	oldest := map[string]time.Time{}
	o.calls.mu.Lock()
	for call := range o.calls.calls {
		if since, ok := oldest[call.Operation]; !ok || call.Since.Before(since) {
			oldest[call.Operation] = call.Since
		}
	}
	o.calls.mu.Unlock()
	for operation, since := range oldest {
		ch <- prometheus.MustNewConstMetric(o.desc, prometheus.GaugeValue, time.Since(since).Seconds(), operation)
	}
}
