// Package probe runs the startup, liveness and readiness probes of the
// containers that run: one schedule for all of them, bounded pools for what is
// under way, one file per way of asking. It owns the table of probe results;
// it reads nothing but what Follow was told, acts through the runtime's exec
// and the network, and wakes the pod's worker when a result changes.
package probe

import (
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Kind is what a probe decides about.
type Kind int

// Kinds of probe, in the order in which they take part in a container's life.
const (
	Startup Kind = iota
	Liveness
	Readiness
	kinds
)

func (k Kind) String() string { return [...]string{"Startup", "Liveness", "Readiness"}[k] }

// Of returns the container's probe of that kind, nil if it has none.
func (k Kind) Of(c *v1.Container) *v1.Probe {
	return [...]*v1.Probe{c.StartupProbe, c.LivenessProbe, c.ReadinessProbe}[k]
}

// Target is one running container to follow.
type Target struct {
	Container *v1.Container
	// ID in the runtime, without a scheme. Another ID is another life of the
	// container: it begins with nothing known.
	ID        string
	StartedAt time.Time
	// IP of the pod, where probes without a host of their own go. While it is
	// empty, those probes wait.
	IP string
	// Terminating: the container is to end. It is asked for its readiness
	// only, for it still has to leave the endpoints of its services.
	Terminating bool
	// Was is what was last told about this very ID, by an earlier run of the
	// kubelet too. It stands until a probe says otherwise. It is read when
	// the ID is first followed.
	Was State
}

// State is what a container's probes add up to. A container without a probe
// of a kind passes it.
type State struct {
	// Started: the startup probe has succeeded.
	Started bool
	// Ready: started, and the readiness probe succeeds.
	Ready bool
}

// Result is what is known of one life of a container.
type Result struct {
	State
	// Failed, if not nil, says that the container must be restarted: its
	// startup or liveness probe failed as often as its threshold says. It
	// stands for as long as the ID is followed.
	Failed *Failure
	// Obstacle, if not nil, is the probe that keeps the container from being
	// started or ready, and what it said last; for whoever asks why.
	Obstacle *Obstacle
}

// Obstacle is a probe that has not succeeded.
type Obstacle struct {
	Kind    Kind
	Message string
}

// Failure is a probe's verdict that a container has to be restarted.
type Failure struct {
	Kind    Kind
	Message string // what the last probe said
	At      time.Time
	// Grace is the probe's own terminationGracePeriodSeconds, nil if the
	// pod's applies (KEP-2238).
	Grace *int64
}

// initial is what is known of a container before its first probe.
func initial(t *Target) Result {
	var r Result
	r.Started = t.Container.StartupProbe == nil || t.Was.Started
	r.Ready = r.Started && (t.Container.ReadinessProbe == nil || t.Was.Ready)
	return r
}

// Events records Kubernetes events; it never blocks (package status).
type Events interface {
	Event(pod *v1.Pod, container, eventType, reason, message string)
}

// Waker tells the pod's worker that a result changed. It never blocks.
type Waker func(types.UID)
