package lifecycle

import (
	"strings"

	v1 "k8s.io/api/core/v1"

	"kubelet/internal/explain"
	"kubelet/internal/podspec"
)

// explainUnready says which probe a pod that runs is not ready for, and what
// it said last.
func (p *planner) explainUnready() explain.Entry {
	e := explain.Entry{Stage: explain.Running}
	podspec.EachContainer(p.Pod, func(c *v1.Container, _ podspec.Kind) bool {
		if !HasProbe(c) {
			return true
		}
		latest := p.Observed.Latest(c.Name)
		if latest == nil || p.Probes[latest.ID].Obstacle == nil {
			return true
		}
		o := p.Probes[latest.ID].Obstacle
		e.Object, e.LastError = c.Name, o.Message
		e.WaitsFor = "the " + strings.ToLower(o.Kind.String()) + " probe of the container to succeed"
		return false
	})
	return e
}
