package pleg

import (
	"github.com/prometheus/client_golang/prometheus"

	"kubelet/internal/observed"
)

// metrics are named as upstream's; that of the stalest pod is ours.
type metrics struct {
	relist        prometheus.Histogram
	interval      prometheus.Histogram
	lastSeen      prometheus.Gauge
	discarded     prometheus.Counter
	podRelist     prometheus.Histogram
	streams       prometheus.Counter
	streamErrors  prometheus.Counter
	streamLatency prometheus.Histogram
	stalest       prometheus.GaugeFunc
	running       running
}

func newMetrics(table *observed.Table, stalest func() float64) metrics {
	histogram := func(name, help string) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: prometheus.DefBuckets})
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	return metrics{
		relist:   histogram("kubelet_pleg_relist_duration_seconds", "How long a list of all pods of the runtime took."),
		interval: histogram("kubelet_pleg_relist_interval_seconds", "Time between the beginnings of two lists of all pods of the runtime."),
		lastSeen: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "kubelet_pleg_last_seen_seconds", Help: "Unix time at which the pod lifecycle event generator was last seen active.",
		}),
		// Changes are kept in a table, not in a queue that can be full.
		discarded:     counter("kubelet_pleg_discard_events", "Events that were discarded; always 0."),
		podRelist:     histogram("kubelet_pleg_pod_relist_duration_seconds", "How long it took to read one pod from the runtime."),
		streams:       counter("kubelet_evented_pleg_connection_success_count", "Streams of container events that were opened."),
		streamErrors:  counter("kubelet_evented_pleg_connection_error_count", "Streams of container events that failed or ended."),
		streamLatency: histogram("kubelet_evented_pleg_connection_latency_seconds", "How long it took to open a stream of container events."),
		stalest: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "kubelet_pleg_stalest_pod_seconds", Help: "Age of the newest complete answer about the pod for which it is oldest.",
		}, stalest),
		running: running{table},
	}
}

func (m *metrics) register(r prometheus.Registerer) error {
	if r == nil {
		return nil
	}
	for _, c := range []prometheus.Collector{m.relist, m.interval, m.lastSeen, m.discarded, m.podRelist, m.streams, m.streamErrors, m.streamLatency, m.stalest, m.running} {
		if err := r.Register(c); err != nil {
			return err
		}
	}
	return nil
}

// running counts what runs when it is asked.
type running struct{ table *observed.Table }

func (running) descs() (pods, containers *prometheus.Desc) {
	return prometheus.NewDesc("kubelet_running_pods", "Pods whose sandbox is ready.", nil, nil),
		prometheus.NewDesc("kubelet_running_containers", "Containers in the runtime, by state.", []string{"container_state"}, nil)
}

// Describe implements prometheus.Collector.
func (r running) Describe(ch chan<- *prometheus.Desc) {
	pods, containers := r.descs()
	ch <- pods
	ch <- containers
}

// Collect implements prometheus.Collector.
func (r running) Collect(ch chan<- prometheus.Metric) {
	n, states := 0, map[observed.ContainerState]int{}
	for _, p := range r.table.List() {
		if p.ReadySandbox() != nil {
			n++
		}
		for i := range p.Containers {
			states[p.Containers[i].State]++
		}
	}
	pods, containers := r.descs()
	ch <- prometheus.MustNewConstMetric(pods, prometheus.GaugeValue, float64(n))
	for state, n := range states {
		ch <- prometheus.MustNewConstMetric(containers, prometheus.GaugeValue, float64(n), state.String())
	}
}
