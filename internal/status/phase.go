package status

import (
	"slices"

	v1 "k8s.io/api/core/v1"

	"kubelet/internal/observed"
	"kubelet/internal/podspec"
)

// phase sets phase, reason and message
// (https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-phase).
// A terminal phase is final, and comes only when nothing of the pod runs any
// more: whoever sees it may use what the pod has held.
func (g *generator) phase(s *v1.PodStatus) {
	for _, known := range []*v1.PodStatus{&g.Previous, &g.Pod.Status} {
		if podspec.IsTerminalPhase(known.Phase) {
			s.Phase, s.Reason, s.Message = known.Phase, known.Reason, known.Message
			if s.Reason == "" && g.Failure != nil && s.Phase == v1.PodFailed {
				s.Reason, s.Message = g.Failure.Reason, g.Failure.Message
			}
			return
		}
	}
	if (g.Ended || g.Observed.Empty()) && g.Failure != nil && !anyRunning(s) {
		s.Phase, s.Reason, s.Message = v1.PodFailed, g.Failure.Reason, g.Failure.Message
		return
	}
	s.Phase = g.phaseByContainers(s)
	switch {
	case g.Ended && !anyRunning(s):
		if !podspec.IsTerminalPhase(s.Phase) {
			s.Phase = g.finalPhase(s)
		}
	case podspec.IsTerminalPhase(s.Phase) && g.Previous.Phase != "":
		s.Phase = g.Previous.Phase
	case podspec.IsTerminalPhase(s.Phase):
		s.Phase = v1.PodPending
	case s.Phase == v1.PodPending && g.Previous.Phase == v1.PodRunning:
		// A pod that starts over in a new sandbox is being restarted.
		s.Phase = v1.PodRunning
	}
	if s.Phase == g.Previous.Phase {
		s.Reason, s.Message = g.Previous.Reason, g.Previous.Message
	}
}

func anyRunning(s *v1.PodStatus) bool {
	runs := func(c v1.ContainerStatus) bool { return c.State.Running != nil }
	return slices.ContainsFunc(s.ContainerStatuses, runs) || slices.ContainsFunc(s.InitContainerStatuses, runs) ||
		slices.ContainsFunc(s.EphemeralContainerStatuses, runs)
}

// finalPhase is how a pod ended whose containers were stopped: well only if
// all regular containers did.
func (g *generator) finalPhase(s *v1.PodStatus) v1.PodPhase {
	for i := range s.ContainerStatuses {
		if t := s.ContainerStatuses[i].State.Terminated; t == nil || t.ExitCode != 0 {
			return v1.PodFailed
		}
	}
	if len(s.ContainerStatuses) == 0 {
		return v1.PodFailed
	}
	return v1.PodSucceeded
}

// phaseByContainers is the phase as the containers' states and restart
// policies alone have it.
func (g *generator) phaseByContainers(s *v1.PodStatus) v1.PodPhase {
	pending, sidecarPending, running := false, false, false
	for i := range g.Pod.Spec.InitContainers {
		c := &g.Pod.Spec.InitContainers[i]
		status := find(s.InitContainerStatuses, c.Name)
		if status == nil {
			pending = true
			continue
		}
		ended := lastEnd(status)
		if podspec.IsSidecar(c) {
			switch {
			case status.State.Running != nil:
				running = true
				sidecarPending = sidecarPending || status.Started == nil || !*status.Started
			case ended == nil:
				sidecarPending = true
			}
			continue
		}
		switch {
		case ended != nil && ended.ExitCode != 0:
			if !podspec.Restarts(g.Pod, c, podspec.Init, ended.ExitCode) {
				return v1.PodFailed
			}
			pending = true
		case ended == nil:
			pending = true
		}
	}
	// A sidecar that is restarted does not take an initialized pod back.
	if pending || sidecarPending && !g.initializedHere() {
		return v1.PodPending
	}
	stopped, succeeded, restarting := 0, 0, 0
	for i := range g.Pod.Spec.Containers {
		c := &g.Pod.Spec.Containers[i]
		status := find(s.ContainerStatuses, c.Name)
		if status == nil {
			return v1.PodPending
		}
		ended := lastEnd(status)
		switch {
		case status.State.Running != nil:
			running = true
		case ended == nil:
			return v1.PodPending
		default:
			stopped++
			if status.State.Terminated != nil && ended.ExitCode == 0 {
				succeeded++
			}
			if podspec.Restarts(g.Pod, c, podspec.Regular, ended.ExitCode) {
				restarting++
			}
		}
	}
	switch {
	case running || restarting > 0:
		return v1.PodRunning
	case stopped == 0:
		return v1.PodPending
	case stopped == succeeded:
		return v1.PodSucceeded
	default:
		return v1.PodFailed
	}
}

// lastEnd is how a container that does not run has ended last; nil if it runs
// or never ended.
func lastEnd(s *v1.ContainerStatus) *v1.ContainerStateTerminated {
	switch {
	case s.State.Terminated != nil:
		return s.State.Terminated
	case s.State.Waiting != nil:
		return s.LastTerminationState.Terminated
	}
	return nil
}

// initializedHere says whether a regular container was started in the newest
// sandbox.
func (g *generator) initializedHere() bool {
	if len(g.Observed.Sandboxes) == 0 {
		return false
	}
	for i := range g.Pod.Spec.Containers {
		r := g.Observed.Latest(g.Pod.Spec.Containers[i].Name)
		if r != nil && r.State != observed.Created && r.SandboxID == g.Observed.Sandboxes[0].ID {
			return true
		}
	}
	return false
}
