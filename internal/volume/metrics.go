package volume

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are named and labelled as upstream's.
type metrics struct {
	operations, totals *prometheus.HistogramVec
}

func newMetrics() *metrics {
	buckets := []float64{.1, .25, .5, 1, 2.5, 5, 10, 15, 25, 50, 120, 300, 600}
	return &metrics{
		operations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "storage_operation_duration_seconds",
			Help:    "Seconds that it took to set up a volume or to take it down, by type and outcome; bringing one up to date does not count.",
			Buckets: buckets,
		}, []string{"volume_plugin", "operation_name", "status", "migrated"}),
		totals: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "volume_operation_total_seconds",
			Help:    "Seconds from the first try to set up a volume until it was ready, by type.",
			Buckets: buckets,
		}, []string{"plugin_name", "operation_name"}),
	}
}

func (m *metrics) operation(p Plugin, name string, begun time.Time, err error) {
	status := "success"
	if err != nil {
		status = "fail-unknown"
	}
	m.operations.WithLabelValues(p.Name(), name, status, "false").Observe(time.Since(begun).Seconds())
}

// ready tells that a volume is ready for the first time since it was asked for.
func (m *metrics) ready(p Plugin, asked time.Time) {
	m.totals.WithLabelValues(p.Name(), "overall_volume_mount").Observe(time.Since(asked).Seconds())
}

// Metrics of the reconciler, to be registered.
func (r *Reconciler) Metrics() []prometheus.Collector {
	return []prometheus.Collector{r.metrics.operations, r.metrics.totals, totals{r}}
}

// standing is how far a volume of a pod is.
type standing struct {
	plugin string
	ready  bool
}

// totals counts volumes when it is asked.
type totals struct{ r *Reconciler }

func (totals) desc() *prometheus.Desc {
	return prometheus.NewDesc("volume_manager_total_volumes",
		"Volumes of the pods on the node: those that are wanted (desired_state_of_world) and those that are ready (actual_state_of_world).",
		[]string{"plugin_name", "state"}, nil)
}

// Describe implements prometheus.Collector.
func (t totals) Describe(ch chan<- *prometheus.Desc) { ch <- t.desc() }

// Collect implements prometheus.Collector.
func (t totals) Collect(ch chan<- prometheus.Metric) {
	wanted, ready := map[string]int{}, map[string]int{}
	t.r.mu.Lock()
	for _, e := range t.r.pods {
		for _, s := range e.volumes {
			wanted[s.plugin]++
			if s.ready {
				ready[s.plugin]++
			}
		}
	}
	t.r.mu.Unlock()
	for plugin, n := range wanted {
		ch <- prometheus.MustNewConstMetric(t.desc(), prometheus.GaugeValue, float64(n), plugin, "desired_state_of_world")
		ch <- prometheus.MustNewConstMetric(t.desc(), prometheus.GaugeValue, float64(ready[plugin]), plugin, "actual_state_of_world")
	}
}
