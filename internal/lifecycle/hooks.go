package lifecycle

import (
	"context"
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
)

// postStart runs the hook of a container that has just been started. It has
// no limit of its own, as the API has none; it is cut off when the container
// ends or the pod is to. The events hold nothing of what the hook said, which
// may be secret; the container's waiting message does, as upstream's.
func (s *Steps) postStart(ctx context.Context, sc Scene, a Action, r *Result) {
	if s.Hooks == nil {
		return
	}
	err := s.Hooks.Run(ctx, sc.Pod, a.Container, a.ID, s.podIP(sc), a.Container.Lifecycle.PostStart)
	if err == nil {
		return
	}
	r.Err = fmt.Errorf("run postStart hook: %w", err)
	if ctx.Err() != nil {
		r.Err = ctx.Err() // taken back
		return
	}
	r.Reason = "PostStartHookError"
	r.Message = fmt.Sprintf("postStart hook of container %s failed: %v. The container is stopped, and restarted if its restart policy says so: mend the hook's command or address",
		a.Container.Name, err)
	s.Events.Event(sc.Pod, a.Container.Name, v1.EventTypeWarning, "FailedPostStartHook", "PostStartHook failed")
}

// hookSlack is how much longer than its container's grace period a preStop
// hook may take. Nobody waits for it any more then: usually it ends with its
// container.
const hookSlack = MinimumGrace + 5*time.Second

// preStop runs the hook of a container that is to end. Whatever comes of it,
// the container is stopped next.
func (s *Steps) preStop(ctx context.Context, sc Scene, a Action, r *Result) {
	s.killing(sc, a)
	if s.Hooks == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, a.Grace+hookSlack)
	defer cancel()
	err := s.Hooks.Run(ctx, sc.Pod, a.Container, a.ID, s.podIP(sc), a.Container.Lifecycle.PreStop)
	if err != nil && context.Cause(ctx) != context.Canceled {
		s.Events.Event(sc.Pod, a.Container.Name, v1.EventTypeWarning, "FailedPreStopHook", "PreStopHook failed")
	}
}

func (s *Steps) podIP(sc Scene) string {
	sandbox := sc.Observed.ReadySandbox()
	if sandbox == nil {
		return ""
	}
	if ips := s.PodIPs(sc.Pod, sandbox); len(ips) > 0 {
		return ips[0]
	}
	return ""
}
