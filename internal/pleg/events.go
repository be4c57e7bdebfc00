package pleg

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"kubelet/internal/cri"
	"kubelet/internal/observed"
)

// A stream that ended is opened again after firstReopen, doubling up to
// lastReopen while it ends without having told anything.
const (
	firstReopen = 100 * time.Millisecond
	lastReopen  = 10 * time.Second
)

// eventLoop keeps the stream of container events open. What a stream does
// not say proves nothing, so nobody relies on it alone.
func (g *Generator) eventLoop(ctx context.Context) error {
	delay := firstReopen
	reopened := false
	for {
		begin := time.Now()
		told := false
		err := g.rt.GetContainerEvents(ctx, func() {
			g.metrics.streams.Inc()
			g.metrics.streamLatency.Observe(time.Since(begin).Seconds())
			if reopened { // what happened in between was not told
				notify(g.relistSoon)
			}
		}, func(e *runtimeapi.ContainerEventResponse) {
			told = true
			g.onEvent(e)
		})
		if ctx.Err() != nil {
			return nil
		}
		reopened = true
		var again <-chan time.Time
		if cri.IsUnimplemented(err) {
			// Another version of the runtime may have it: ask again when the
			// runtime has been away.
			g.log.Info("The runtime has no stream of container events; exits are found by watching processes")
		} else {
			g.metrics.streamErrors.Inc()
			if told {
				delay = firstReopen
			}
			g.log.V(2).Info("The stream of container events ended, will reopen it", "err", err, "after", delay)
			again = time.After(delay)
			delay = min(2*delay, lastReopen)
		}
		select {
		case <-again:
		case <-g.runtimeBack:
		case <-ctx.Done():
			return nil
		}
	}
}

// onEvent acts on one event. The end of a container is read at once. What
// else happens is mostly the agent's own doing, which it follows by a Refresh:
// it is looked at only if that does not come.
func (g *Generator) onEvent(e *runtimeapi.ContainerEventResponse) {
	id := e.GetContainerId()
	p := g.podOf(types.UID(e.GetPodSandboxStatus().GetMetadata().GetUid()), id)
	if p == nil {
		if uid := types.UID(e.GetPodSandboxStatus().GetLabels()[cri.LabelPodUID]); uid != "" {
			g.hint(uid, id)
		} else if e.GetPodSandboxStatus() == nil && e.GetContainerEventType() != runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT {
			notify(g.relistSoon)
		}
		return
	}
	if e.GetContainerEventType() != runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT {
		g.hint(p.uid, id)
		return
	}
	p.store.Lock()
	c, s := findContainer(&p.snap, id), findSandbox(&p.snap, id)
	if c != nil {
		c = new(*c) // what is stored may not be touched without the lock
	}
	ended := c != nil && c.State == observed.Exited || s != nil && !s.Ready
	p.store.Unlock()
	switch {
	case ended:
	case c != nil && g.toldExit(p, c, e):
	case c != nil:
		g.confirmExit(p, id, false)
	case s != nil:
		g.confirmExit(p, id, true)
	default:
		g.ask(p.uid, request{})
	}
}

// toldExit stores the end of a container if the event has its status, which
// is the runtime's own word as much as an answer to a call is.
func (g *Generator) toldExit(p *pod, c *observed.Container, e *runtimeapi.ContainerEventResponse) bool {
	names := map[string]struct{}{}
	var told *runtimeapi.ContainerStatus
	for _, s := range e.GetContainersStatuses() {
		names[s.GetLabels()[cri.LabelContainerName]] = struct{}{}
		if s.GetId() == c.ID {
			told = s
		}
	}
	if told.GetState() != runtimeapi.ContainerState_CONTAINER_EXITED || told.GetFinishedAt() == 0 {
		return false
	}
	ended := readContainer(told, c.SandboxID, 0)
	// Files are read here, which may take a while.
	g.spawn(func(context.Context) {
		ended.Message = terminationMessage(told, len(names))
		if !g.putExit(p, ended) {
			g.ask(p.uid, request{})
		}
	})
	return true
}

// podOf finds the pod of an event: by UID, or, where the runtime could not
// tell that any more, by the id of the container.
func (g *Generator) podOf(uid types.UID, id string) *pod {
	if uid != "" {
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.pods[uid]
	}
	for _, p := range g.snapshot() {
		p.store.Lock()
		found := findContainer(&p.snap, id) != nil || findSandbox(&p.snap, id) != nil
		p.store.Unlock()
		if found {
			return p
		}
	}
	return nil
}
