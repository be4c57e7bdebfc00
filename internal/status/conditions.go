package status

import (
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"

	"kubelet/internal/podspec"
)

// Reasons of pod conditions, as upstream has them: controllers and people
// look for them.
const (
	reasonSandboxNotReady     = "PodSandboxNotReady"
	reasonNotInitialized      = "ContainersNotInitialized"
	reasonNotReady            = "ContainersNotReady"
	reasonGatesNotReady       = "ReadinessGatesNotReady"
	reasonPodCompleted        = "PodCompleted"
	reasonPodFailed           = "PodFailed"
	reasonUnknownContainers   = "UnknownContainerStatuses"
	reasonRestartingAll       = "RestartAllContainersStarted"
	messageNoSandbox          = "no pod sandbox exists"
	messageSandboxNotReady    = "pod sandbox is not ready"
	messageSandboxNoIPAddress = "pod sandbox has no IP address"
	messageVolumesNotReady    = "volumes are not mounted"
)

// isOurs says whether only this kubelet sets the condition. All others in the
// API object belong to somebody else and are handed back untouched.
func isOurs(t v1.PodConditionType) bool {
	switch t {
	case v1.PodScheduled, v1.PodReady, v1.PodInitialized, v1.ContainersReady, v1.PodReadyToStartContainers,
		v1.PodResizePending, v1.PodResizeInProgress, v1.AllContainersRestarting:
		return true
	}
	return false
}

func findCondition(list []v1.PodCondition, t v1.PodConditionType) *v1.PodCondition {
	for i := range list {
		if list[i].Type == t {
			return &list[i]
		}
	}
	return nil
}

func (g *generator) conditions(s *v1.PodStatus) {
	for _, c := range g.Pod.Status.Conditions {
		if !isOurs(c.Type) {
			s.Conditions = append(s.Conditions, c)
		}
	}
	g.disruption(s)
	containersReady := g.containersReady(s)
	for _, c := range []v1.PodCondition{
		g.readyToStart(),
		g.initialized(s),
		g.ready(s, containersReady),
		containersReady,
		{Type: v1.PodScheduled, Status: v1.ConditionTrue},
	} {
		g.add(s, c)
	}
	if podspec.CanRestartAll(g.Pod) {
		g.add(s, g.restartingAll(s))
	}
	g.resizing(s, v1.PodResizePending, g.ResizePending)
	g.resizing(s, v1.PodResizeInProgress, g.ResizeInProgress)
}

// resizing adds a condition about a change of resources; it is gone once it
// does not hold.
func (g *generator) resizing(s *v1.PodStatus, t v1.PodConditionType, r *Resize) {
	if r == nil || podspec.IsTerminalPhase(s.Phase) {
		return
	}
	s.Conditions = append(s.Conditions, v1.PodCondition{
		Type: t, Status: v1.ConditionTrue, Reason: r.Reason, Message: r.Message,
		ObservedGeneration: r.Generation, LastTransitionTime: second(r.Since),
	})
}

// restartingAll is True while all containers are being stopped because the
// exit of one restarts them all (KEP-5532).
func (g *generator) restartingAll(s *v1.PodStatus) v1.PodCondition {
	c := v1.PodCondition{Type: v1.AllContainersRestarting, Status: v1.ConditionFalse}
	switch {
	case s.Phase == v1.PodSucceeded:
		c.Reason = reasonPodCompleted
	case s.Phase == v1.PodFailed:
		c.Reason = reasonPodFailed
	case g.RestartingAll != "":
		c.Status, c.Reason = v1.ConditionTrue, reasonRestartingAll
		c.Message = fmt.Sprintf("container %s exited with a code for which its restart policy rules restart all containers", g.RestartingAll)
	}
	return c
}

// add sets the condition, with the time since when it has its status.
func (g *generator) add(s *v1.PodStatus, c v1.PodCondition) {
	c.ObservedGeneration = s.ObservedGeneration
	c.LastTransitionTime = g.now
	if old := findCondition(g.Previous.Conditions, c.Type); old != nil && old.Status == c.Status && !old.LastTransitionTime.IsZero() {
		c.LastTransitionTime = second(old.LastTransitionTime.Time)
	}
	if known := findCondition(s.Conditions, c.Type); known != nil {
		*known = c
		return
	}
	s.Conditions = append(s.Conditions, c)
}

// disruption says why the node ended the pod, once it is over: the condition
// and the terminal phase come in one write, because controllers read them
// together (KEP-3329).
func (g *generator) disruption(s *v1.PodStatus) {
	if !podspec.IsTerminalPhase(s.Phase) {
		return
	}
	if old := findCondition(g.Previous.Conditions, v1.DisruptionTarget); old != nil && old.Status == v1.ConditionTrue {
		if findCondition(s.Conditions, v1.DisruptionTarget) == nil {
			s.Conditions = append(s.Conditions, *old)
		}
		return
	}
	if g.Failure != nil && g.Failure.DisruptionReason != "" {
		g.add(s, v1.PodCondition{
			Type: v1.DisruptionTarget, Status: v1.ConditionTrue,
			Reason: g.Failure.DisruptionReason, Message: g.Failure.DisruptionMessage,
		})
	}
}

// readyToStart is True while sandbox, network and volumes are there
// (KEP-3085). The message says what is in the way.
func (g *generator) readyToStart() v1.PodCondition {
	c := v1.PodCondition{Type: v1.PodReadyToStartContainers, Status: v1.ConditionFalse, Reason: reasonSandboxNotReady}
	sandbox := g.Observed.ReadySandbox()
	switch {
	case sandbox == nil && len(g.Observed.Sandboxes) == 0:
		c.Message = messageNoSandbox
	case sandbox == nil:
		c.Message = messageSandboxNotReady
	case !g.Pod.Spec.HostNetwork && len(g.sandboxIPs(sandbox)) == 0:
		c.Message = messageSandboxNoIPAddress
	case !g.VolumesReady && !g.anyIn(sandbox.ID):
		// Once containers were created their volumes were there, even if a
		// kubelet that was just started has not looked yet.
		c.Message = messageVolumesNotReady
	default:
		return v1.PodCondition{Type: c.Type, Status: v1.ConditionTrue}
	}
	if g.Explanation != "" {
		c.Message = g.Explanation
	}
	return c
}

func (g *generator) anyIn(sandboxID string) bool {
	for i := range g.Observed.Containers {
		if g.Observed.Containers[i].SandboxID == sandboxID {
			return true
		}
	}
	return false
}

func (g *generator) initialized(s *v1.PodStatus) v1.PodCondition {
	c := v1.PodCondition{Type: v1.PodInitialized, Status: v1.ConditionTrue}
	if s.Phase == v1.PodSucceeded {
		c.Reason = reasonPodCompleted
		return c
	}
	if s.InitContainerStatuses == nil && len(g.Pod.Spec.InitContainers) > 0 {
		c.Status, c.Reason = v1.ConditionFalse, reasonUnknownContainers
		return c
	}
	// Once initialized, always initialized: a sidecar or a new sandbox that
	// starts over does not take it back.
	if old := findCondition(g.Previous.Conditions, v1.PodInitialized); old != nil && old.Status == v1.ConditionTrue {
		return c
	}
	for i := range s.ContainerStatuses {
		if st := s.ContainerStatuses[i].State; st.Running != nil || st.Terminated != nil {
			return c
		}
	}
	var incomplete []string
	for i := range s.InitContainerStatuses {
		status := &s.InitContainerStatuses[i]
		done := status.Ready
		if podspec.IsSidecar(&g.Pod.Spec.InitContainers[i]) {
			done = status.Started != nil && *status.Started
		}
		if !done {
			incomplete = append(incomplete, status.Name)
		}
	}
	if len(incomplete) > 0 {
		c.Status, c.Reason = v1.ConditionFalse, reasonNotInitialized
		c.Message = fmt.Sprintf("containers with incomplete status: %s", incomplete)
	}
	return c
}

func (g *generator) containersReady(s *v1.PodStatus) v1.PodCondition {
	c := v1.PodCondition{Type: v1.ContainersReady, Status: v1.ConditionFalse}
	switch {
	case s.Phase == v1.PodFailed:
		c.Reason = reasonPodFailed
		return c
	case s.Phase == v1.PodSucceeded:
		c.Reason = reasonPodCompleted
		return c
	case s.ContainerStatuses == nil:
		c.Reason = reasonUnknownContainers
		return c
	}
	var unready []string
	for i := range g.Pod.Spec.InitContainers {
		spec := &g.Pod.Spec.InitContainers[i]
		if status := find(s.InitContainerStatuses, spec.Name); podspec.IsSidecar(spec) && !status.Ready {
			unready = append(unready, spec.Name)
		}
	}
	for i := range g.Pod.Spec.Containers {
		if name := g.Pod.Spec.Containers[i].Name; !find(s.ContainerStatuses, name).Ready {
			unready = append(unready, name)
		}
	}
	if len(unready) > 0 {
		c.Reason, c.Message = reasonNotReady, fmt.Sprintf("containers with unready status: %s", unready)
		return c
	}
	c.Status = v1.ConditionTrue
	return c
}

// ready is ContainersReady and the pod's readiness gates, which others set in
// the API object (KEP-580).
func (g *generator) ready(s *v1.PodStatus, containersReady v1.PodCondition) v1.PodCondition {
	c := containersReady
	c.Type = v1.PodReady
	if c.Status != v1.ConditionTrue {
		return c
	}
	var closed []string
	for _, gate := range g.Pod.Spec.ReadinessGates {
		switch have := findCondition(s.Conditions, gate.ConditionType); {
		case have == nil:
			closed = append(closed, fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", gate.ConditionType))
		case have.Status != v1.ConditionTrue:
			closed = append(closed, fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %v", gate.ConditionType, have.Status))
		}
	}
	if len(closed) > 0 {
		c.Status, c.Reason, c.Message = v1.ConditionFalse, reasonGatesNotReady, strings.Join(closed, ", ")
	}
	return c
}
