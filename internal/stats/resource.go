package stats

import (
	"net/http"
	"time"

	"k8s.io/klog/v2"
)

// ResourceHandler serves /metrics/resource, the node's part of the resource
// metrics pipeline: metrics-server reads CPU time, working sets and start
// times from it.
// https://kubernetes.io/docs/reference/instrumentation/node-metrics/
func (r *Reader) ResourceHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.serveExposition(w, req, func(e *exposition) { r.writeResource(e, klog.FromContext(req.Context())) })
	})
}

// resourceRow is one line of each family.
type resourceRow struct {
	labels  []byte
	s       *sample
	started time.Time
}

func (r *Reader) writeResource(e *exposition, log klog.Logger) {
	r.begin()
	const want = partUsage | partLimits
	buf := make([]byte, 8<<10)
	pods := r.topology()
	containers := make([]resourceRow, 0, 2*len(pods))
	whole := make([]resourceRow, 0, len(pods))
	for i := range pods {
		p := &pods[i]
		labels := e.label(e.label(nil, "namespace", p.Namespace), "pod", p.Name)
		for j := range p.containers {
			c := &p.containers[j]
			if c.group == nil {
				continue
			}
			if s := c.group.sample(want, time.Now(), buf); s != nil {
				containers = append(containers, resourceRow{e.label(labels[:len(labels):len(labels)], "container", c.Name), s, c.started})
			}
		}
		if p.group != nil {
			if s := p.group.sample(want, time.Now(), buf); s != nil {
				whole = append(whole, resourceRow{labels: labels, s: s})
			}
		}
	}
	var node *sample
	if g := r.group("/"); g != nil {
		node = g.sample(want, time.Now(), buf)
	}
	memory, err := r.machine.memory()
	failed := 0.0
	if err != nil || node == nil {
		failed = 1
		log.Error(err, "Usage of the node cannot be read", "topOfCgroups", node != nil)
	}

	e.begin("container_cpu_usage_seconds_total", "CPU time that the container used, in seconds.", true)
	for _, c := range containers {
		e.value(c.labels, c.s.cpu.usage, 1e9, c.s.at)
	}
	e.begin("container_memory_working_set_bytes", "Memory of the container that cannot be reclaimed at once, in bytes.", false)
	for _, c := range containers {
		e.value(c.labels, c.s.mem.workingSet(), 1, c.s.at)
	}
	e.begin("container_start_time_seconds", "Unix time at which the container started.", false)
	for _, c := range containers {
		if c.started.Unix() > 0 {
			e.sample(c.labels, float64(c.started.UnixNano())/1e9, time.Time{})
		}
	}
	e.begin("container_swap_limit_bytes", "Swap that the container may use, in bytes.", false)
	for _, c := range containers {
		e.value(c.labels, c.s.mem.swapLimit, 1, c.s.at)
	}
	e.begin("container_swap_usage_bytes", "Swap that the container uses, in bytes.", false)
	for _, c := range containers {
		e.value(c.labels, c.s.mem.swap, 1, c.s.at)
	}
	if node != nil {
		e.begin("node_cpu_usage_seconds_total", "CPU time that the node used, in seconds.", true)
		e.value(nil, node.cpu.usage, 1e9, node.at)
		e.begin("node_memory_working_set_bytes", "Memory of the node that cannot be reclaimed at once, in bytes.", false)
		e.value(nil, node.mem.workingSet(), 1, node.at)
	}
	if err == nil {
		e.begin("node_swap_usage_bytes", "Swap that the node uses, in bytes.", false)
		e.sample(nil, float64(less(memory.swapTotal, memory.swapFree)), time.Now())
	}
	e.begin("pod_cpu_usage_seconds_total", "CPU time that the pod used, in seconds.", true)
	for _, p := range whole {
		e.value(p.labels, p.s.cpu.usage, 1e9, p.s.at)
	}
	e.begin("pod_memory_working_set_bytes", "Memory of the pod that cannot be reclaimed at once, in bytes.", false)
	for _, p := range whole {
		e.value(p.labels, p.s.mem.workingSet(), 1, p.s.at)
	}
	e.begin("pod_swap_usage_bytes", "Swap that the pod uses, in bytes.", false)
	for _, p := range whole {
		e.value(p.labels, p.s.mem.swap, 1, p.s.at)
	}
	for _, name := range []string{"resource_scrape_error", "scrape_error"} {
		e.begin(name, "1 if the node's own usage could not be read, else 0.", false)
		e.sample(nil, failed, time.Time{})
	}
}
