package lifecycle

import (
	"time"

	"kubelet/internal/cri"
	"kubelet/internal/observed"
)

// CrashPolicy is how CrashLoopBackOff grows. The first restart is immediate;
// the second waits for Initial, and each further one twice as long as the one
// before, up to Max. A container that ran for longer than crashReset starts
// anew
// (https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#restart-policy).
//
// The state is kept where it cannot be lost or be out of step: each container
// is created with an annotation that says how long its successor will have to
// wait. So it outlives the kubelet, and is written by the very call that
// starts the container.
type CrashPolicy struct {
	Initial, Max time.Duration
}

// crashReset is how long a container has to run to be taken for healthy.
const crashReset = 10 * time.Minute

// delay is how long the restart of a container that exited has to wait, zero
// for not at all.
func (p CrashPolicy) delay(exited *observed.Container) time.Duration {
	d, err := time.ParseDuration(exited.Annotations[cri.AnnotationRestartDelay])
	if err != nil || d < 0 || exited.FinishedAt.Sub(exited.CreatedAt) > crashReset {
		return 0
	}
	return min(d, p.Max)
}

// next is the delay that the restart of a container that exited leaves behind.
func (p CrashPolicy) next(exited *observed.Container) time.Duration {
	d := p.delay(exited)
	if d == 0 {
		return min(p.Initial, p.Max)
	}
	return min(2*d, p.Max)
}
