package worker

import (
	"slices"

	"k8s.io/apimachinery/pkg/types"

	v1 "k8s.io/api/core/v1"

	"kubelet/internal/lifecycle"
	"kubelet/internal/observed"
	"kubelet/internal/podspec"
	"kubelet/internal/probe"
	"kubelet/internal/status"
)

// remembered is the history of a pod as an earlier run of the agent left it.
func (p *Pool) remembered(uid types.UID) lifecycle.History {
	if p.Remembered == nil {
		return lifecycle.History{}
	}
	lives := p.Remembered(uid)
	return lifecycle.History{Lives: lives, Kept: lives}
}

// follow tells the prober which containers run now, and returns what it knows
// of them; what has to outlive the agent is noted. It is nil without a prober,
// and for pods without probes.
func (w *worker) follow(in lifecycle.Input) map[string]probe.Result {
	if w.pool.Probes == nil || !hasProbes(w.pod) {
		return nil
	}
	targets := lifecycle.Targets(in, w.podIP(in.Observed))
	w.pool.Probes.Follow(w.pod, targets)
	results := w.pool.Probes.Results(w.uid)
	for i := range targets {
		c := targets[i].Container
		if c.StartupProbe == nil && c.ReadinessProbe == nil {
			continue
		}
		r := results[targets[i].ID]
		w.history.Know(targets[i].ID, func(l *lifecycle.Life) { l.Started, l.Ready = r.Started, r.Ready })
	}
	if results == nil {
		return map[string]probe.Result{} // followed, and nothing is known
	}
	return results
}

// podIP is the address that probes go to.
func (w *worker) podIP(have observed.Pod) string {
	var ips []string
	if node := w.pool.HostIPs(); podspec.IsHostNetwork(w.pod) {
		ips = node
	} else if s := have.ReadySandbox(); s != nil {
		ips = podspec.OrderIPs(s.IPs, node)
	}
	if len(ips) == 0 {
		return ""
	}
	return ips[0]
}

// probed is what the probes say about the containers that run, by name. One
// that is not followed yet is not started.
func (w *worker) probed(have observed.Pod) map[string]status.ProbeResult {
	if w.pool.Probes == nil || !hasProbes(w.pod) {
		return nil
	}
	results := w.pool.Probes.Results(w.uid)
	probed := map[string]status.ProbeResult{}
	podspec.EachContainer(w.pod, func(c *v1.Container, _ podspec.Kind) bool {
		if latest := have.Latest(c.Name); latest != nil && lifecycle.HasProbe(c) {
			r := results[latest.ID]
			probed[c.Name] = status.ProbeResult{Started: r.Started, Ready: r.Ready}
		}
		return true
	})
	return probed
}

func hasProbes(pod *v1.Pod) bool {
	has := func(c v1.Container) bool { return lifecycle.HasProbe(&c) }
	return slices.ContainsFunc(pod.Spec.Containers, has) || slices.ContainsFunc(pod.Spec.InitContainers, has)
}
