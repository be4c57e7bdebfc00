package node

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	v1 "k8s.io/api/core/v1"
)

// startupMetrics are kubelet_node_name and how long the node took to start:
// names as upstream's. They are used by one goroutine. The durations are only
// set by the kubelet that created the Node object.
type startupMetrics struct {
	booted, started               time.Time
	attempted, created, readySeen time.Time

	preKubelet, preRegistration, registration, postRegistration, total prometheus.Gauge
}

func newStartupMetrics(reg prometheus.Registerer, name string, started, booted time.Time) (*startupMetrics, error) {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Subsystem: "kubelet", Name: name, Help: help})
	}
	m := &startupMetrics{
		booted: booted, started: started,
		preKubelet: gauge("node_startup_pre_kubelet_duration_seconds",
			"Seconds from the machine's boot to the kubelet's start."),
		preRegistration: gauge("node_startup_pre_registration_duration_seconds",
			"Seconds from the kubelet's start to its first attempt to register the node."),
		registration: gauge("node_startup_registration_duration_seconds",
			"Seconds from the first attempt to register the node to its success."),
		postRegistration: gauge("node_startup_post_registration_duration_seconds",
			"Seconds from the node's registration to its being ready."),
		total: gauge("node_startup_duration_seconds",
			"Seconds from the machine's boot to the node's being ready."),
	}
	if reg == nil {
		return m, nil
	}
	nodeName := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Subsystem: "kubelet", Name: "node_name", Help: "The node's name. The count is always 1.",
	}, []string{"node"})
	nodeName.WithLabelValues(name).Set(1)
	for _, collector := range []prometheus.Collector{
		nodeName, m.preKubelet, m.preRegistration, m.registration, m.postRegistration, m.total,
	} {
		if err := reg.Register(collector); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *startupMetrics) attempt(now time.Time) {
	if m.attempted.IsZero() {
		m.attempted = now
	}
}

func (m *startupMetrics) registered(now time.Time) {
	m.created = now
	if !m.booted.IsZero() {
		m.preKubelet.Set(m.started.Sub(m.booted).Seconds())
	}
	m.preRegistration.Set(m.attempted.Sub(m.started).Seconds())
	m.registration.Set(now.Sub(m.attempted).Seconds())
}

func (m *startupMetrics) ready(node *v1.Node, now time.Time) {
	if m.created.IsZero() || !m.readySeen.IsZero() || !isReady(node) {
		return
	}
	m.readySeen = now
	m.postRegistration.Set(now.Sub(m.created).Seconds())
	if !m.booted.IsZero() {
		m.total.Set(now.Sub(m.booted).Seconds())
	}
}
