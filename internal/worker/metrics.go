package worker

import (
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	v1 "k8s.io/api/core/v1"

	"kubelet/internal/observed"
	"kubelet/internal/podspec"
)

// metrics are named and labelled as upstream's.
type metrics struct {
	rounds      *prometheus.HistogramVec
	begin       prometheus.Histogram
	running     prometheus.Histogram
	sli, total  prometheus.Observer
	first       prometheus.Gauge
	firstSeen   atomic.Bool
	containers  prometheus.Histogram
	terminated  *prometheus.CounterVec
	orphans     prometheus.Counter
	restarted   *prometheus.CounterVec
	resizes     resizeMetrics
	registrable []prometheus.Collector
}

func newMetrics() *metrics {
	// From half a second to an hour, as the service level objective of pod
	// starts is judged by.
	startBuckets := []float64{0.5, 1, 2, 3, 4, 5, 6, 8, 10, 20, 30, 45, 60, 120, 180, 240, 300, 360, 480, 600, 900, 1200, 1800, 2700, 3600}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Subsystem: "kubelet", Name: name, Help: help, Buckets: buckets})
	}
	sli := histogram("pod_start_sli_duration_seconds", "Seconds from a pod's creation until the API server's watch showed all its containers running, "+
		"without image pulls and init containers, of pods without persistent volumes.", startBuckets)
	total := histogram("pod_start_total_duration_seconds", "Seconds from a pod's creation until the API server's watch showed all its containers running.", startBuckets)
	m := &metrics{
		rounds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Subsystem: "kubelet", Name: "pod_worker_duration_seconds", Buckets: prometheus.DefBuckets,
			Help: "Seconds from the first step that a pod's worker began until none was under way any more, " +
				"by what it worked on: create, sync, kill or terminated.",
		}, []string{"operation_type"}),
		begin:      histogram("pod_worker_start_duration_seconds", "Seconds from a pod's arrival at the kubelet to its worker's first step.", prometheus.DefBuckets),
		running:    histogram("pod_start_duration_seconds", "Seconds from a pod's arrival at the kubelet until it ran.", startBuckets),
		sli:        sli,
		total:      total,
		first:      prometheus.NewGauge(prometheus.GaugeOpts{Subsystem: "kubelet", Name: "first_network_pod_start_sli_duration_seconds", Help: "Duration as of kubelet_pod_start_sli_duration_seconds of the first pod with a network of its own."}),
		containers: histogram("containers_per_pod_count", "Containers of the pods that came to the kubelet.", prometheus.ExponentialBuckets(1, 2, 5)),
		terminated: prometheus.NewCounterVec(prometheus.CounterOpts{
			Subsystem: "kubelet", Name: "terminated_containers_total", Help: "Containers that ended, by kind, exit code and reason.",
		}, []string{"container_type", "exit_code", "reason"}),
		orphans: prometheus.NewCounter(prometheus.CounterOpts{
			Subsystem: "kubelet", Name: "orphaned_runtime_pods_total", Help: "Pods that were found on the node and that no source wants.",
		}),
		restarted: prometheus.NewCounterVec(prometheus.CounterOpts{
			Subsystem: "kubelet", Name: "restarted_pods_total", Help: "Pods that came back under the UID of one that ended; static for those that are not from the API server.",
		}, []string{"static"}),
	}
	m.resizes = newResizeMetrics()
	m.restarted.WithLabelValues("")
	m.restarted.WithLabelValues("true")
	m.registrable = []prometheus.Collector{m.rounds, m.begin, m.running, sli, total, m.first, m.containers, m.terminated, m.orphans, m.restarted}
	m.registrable = append(m.registrable, m.resizes.collectors()...)
	return m
}

// Metrics of the pool, to be registered.
func (p *Pool) Metrics() []prometheus.Collector { return append(p.metrics.registrable, counts{p}) }

// round is a stretch of work: from the first step until none is under way and
// none is due.
type round struct {
	operation string // "" between rounds
	since     time.Time
	flights   int
}

// launch notes that n steps begin.
func (w *worker) launch(n int, now time.Time) {
	if n == 0 {
		return
	}
	if !w.begun {
		w.begun = true
		if !w.runs {
			w.pool.metrics.begin.Observe(now.Sub(w.arrived).Seconds())
		}
	}
	if w.round.operation == "" {
		operation := "sync"
		switch {
		case w.state.Phase == Terminating:
			operation = "kill"
		case w.state.Phase >= Terminated:
			operation = "terminated"
		case !w.ran && !w.runs:
			operation = "create"
		}
		w.round = round{operation: operation, since: now}
	}
	w.round.flights += n
}

// rest ends the round if there is nothing more to do now.
func (w *worker) rest(now time.Time) {
	if w.round.operation != "" && w.round.flights == 0 {
		w.pool.metrics.rounds.WithLabelValues(w.round.operation).Observe(now.Sub(w.round.since).Seconds())
		w.round = round{}
	}
}

// stopwatch adds up time, of overlapping stretches once.
type stopwatch struct {
	running int
	since   time.Time
	total   time.Duration
}

func (s *stopwatch) start(now time.Time) {
	if s.running++; s.running == 1 {
		s.since = now
	}
}

func (s *stopwatch) stop(now time.Time) {
	if s.running--; s.running == 0 {
		s.total += now.Sub(s.since)
	}
}

// noteRunning notes that the pod runs for the first time.
func (w *worker) noteRunning() {
	if !w.ran && !w.runs {
		w.pool.metrics.running.Observe(w.pool.Now().Sub(w.arrived).Seconds())
	}
	w.ran = true
}

// noteStart observes how long the pod took to start once the API server's
// object shows that it did. https://github.com/kubernetes/community/blob/main/sig-scalability/slos/pod_startup_latency.md
func (w *worker) noteStart(have observed.Pod, now time.Time) {
	if !w.fresh || len(w.pod.Status.ContainerStatuses) < len(w.pod.Spec.Containers) {
		return
	}
	for i := range w.pod.Status.ContainerStatuses {
		if s := w.pod.Status.ContainerStatuses[i].State.Running; s == nil || s.StartedAt.IsZero() {
			return
		}
	}
	w.fresh = false
	took := now.Sub(w.pod.CreationTimestamp.Time)
	m := w.pool.metrics
	m.total.Observe(took.Seconds())
	for i := range w.pod.Spec.Volumes {
		v := &w.pod.Spec.Volumes[i]
		if v.Secret == nil && v.ConfigMap == nil && v.DownwardAPI == nil && v.EmptyDir == nil && v.Projected == nil {
			return
		}
	}
	took -= w.pulls.total
	for i := range w.pod.Spec.InitContainers {
		if podspec.IsSidecar(&w.pod.Spec.InitContainers[i]) {
			continue
		}
		if c := have.Latest(w.pod.Spec.InitContainers[i].Name); c != nil && !c.StartedAt.IsZero() && c.FinishedAt.After(c.StartedAt) {
			took -= c.FinishedAt.Sub(c.StartedAt)
		}
	}
	took = max(took, 0)
	m.sli.Observe(took.Seconds())
	if !podspec.IsHostNetwork(w.pod) && !m.firstSeen.Swap(true) {
		m.first.Set(took.Seconds())
	}
}

// noteTerminated counts the containers that ended since the status before.
func (w *worker) noteTerminated(before, now *v1.PodStatus) {
	each := func(kind string, before, now []v1.ContainerStatus) {
		for i := range now {
			t := now[i].State.Terminated
			if t == nil || i < len(before) && before[i].Name == now[i].Name && before[i].State.Terminated != nil &&
				before[i].State.Terminated.ContainerID == t.ContainerID {
				continue
			}
			w.pool.metrics.terminated.WithLabelValues(kind, strconv.Itoa(int(t.ExitCode)), t.Reason).Inc()
		}
	}
	each("init_container", before.InitContainerStatuses, now.InitContainerStatuses)
	each("container", before.ContainerStatuses, now.ContainerStatuses)
	each("ephemeral_container", before.EphemeralContainerStatuses, now.EphemeralContainerStatuses)
}

// counts are numbers of pods, taken when they are asked for.
type counts struct{ p *Pool }

func countDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("kubelet_"+name, help, labels, nil)
}

func (counts) descs() (desired, active, mirrors, working, ephemeral *prometheus.Desc) {
	const static = "; static for those that are not from the API server."
	return countDesc("desired_pods", "Pods that the sources want"+static, "static"),
		countDesc("active_pods", "Pods that were admitted and have not ended"+static, "static"),
		countDesc("mirror_pods", "Objects of the API server that show a static pod."),
		countDesc("working_pods", "Pods with a worker, by how far they are (sync, terminating, terminated) and whether a source has them "+
			"(desired), had them (orphan) or only the runtime has (runtime_only).", "lifecycle", "config", "static"),
		countDesc("managed_ephemeral_containers", "Ephemeral containers of the pods that the sources want.")
}

// Describe implements prometheus.Collector.
func (c counts) Describe(ch chan<- *prometheus.Desc) {
	desired, active, mirrors, working, ephemeral := c.descs()
	for _, d := range []*prometheus.Desc{desired, active, mirrors, working, ephemeral} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c counts) Collect(ch chan<- prometheus.Metric) {
	states := c.p.States()
	type kind struct{ lifecycle, config, static string }
	desired, active, working := map[string]int{"": 0, "true": 0}, map[string]int{"": 0, "true": 0}, map[kind]int{}
	for _, lifecycle := range []string{"sync", "terminating", "terminated"} {
		for _, static := range []string{"", "true"} {
			working[kind{lifecycle, "desired", static}], working[kind{lifecycle, "orphan", static}] = 0, 0
		}
		working[kind{lifecycle, "runtime_only", "unknown"}] = 0
	}
	ephemeral := 0
	for _, d := range c.p.Desired.List() {
		static := staticLabel(d.Pod)
		config := "orphan"
		if !d.Removed {
			config = "desired"
			desired[static]++
			ephemeral += len(d.Pod.Spec.EphemeralContainers)
		}
		if phase, ok := states[d.Pod.UID]; ok {
			if phase > Waiting && phase < Terminated {
				active[static]++
			}
			working[kind{stageOf(phase), config, static}]++
			delete(states, d.Pod.UID)
		}
	}
	for _, phase := range states {
		working[kind{stageOf(phase), "runtime_only", "unknown"}]++
	}
	desiredDesc, activeDesc, mirrorsDesc, workingDesc, ephemeralDesc := c.descs()
	gauge := func(d *prometheus.Desc, n int, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), labels...)
	}
	for static, n := range desired {
		gauge(desiredDesc, n, static)
	}
	for static, n := range active {
		gauge(activeDesc, n, static)
	}
	for k, n := range working {
		gauge(workingDesc, n, k.lifecycle, k.config, k.static)
	}
	gauge(ephemeralDesc, ephemeral)
	if m, ok := c.p.Desired.(interface{ Mirrors() []*v1.Pod }); ok {
		gauge(mirrorsDesc, len(m.Mirrors()))
	}
}

func staticLabel(pod *v1.Pod) string {
	if podspec.IsStatic(pod) {
		return "true"
	}
	return ""
}

func stageOf(p Phase) string {
	switch {
	case p < Terminating:
		return "sync"
	case p == Terminating:
		return "terminating"
	}
	return "terminated"
}
