package status

import (
	"cmp"
	"slices"
	"unicode/utf8"

	v1 "k8s.io/api/core/v1"

	"kubelet/internal/observed"
	"kubelet/internal/podspec"
)

// Reasons of container states.
const (
	reasonCreating     = "ContainerCreating"
	reasonInitializing = "PodInitializing"
	reasonUnknown      = "ContainerStatusUnknown"
	reasonCompleted    = "Completed"
	reasonError        = "Error"
	// lostExitCode is what a container is said to have ended with when nobody
	// knows; it counts as a failure.
	lostExitCode = 137
	// maxTerminationMessages bounds the messages of all containers of a pod
	// together, in bytes (API reference, terminationMessagePath).
	maxTerminationMessages = 12 << 10
)

func (g *generator) containers(s *v1.PodStatus) {
	if g.neverStarted() && g.Failure != nil {
		// The pod was refused. It has no containers to tell of, and made-up
		// exit codes would match the failure policies of jobs.
		return
	}
	podspec.EachContainer(g.Pod, func(c *v1.Container, kind podspec.Kind) bool {
		switch kind {
		case podspec.Init:
			s.InitContainerStatuses = append(s.InitContainerStatuses, g.container(c, kind, g.Previous.InitContainerStatuses))
		case podspec.Regular:
			s.ContainerStatuses = append(s.ContainerStatuses, g.container(c, kind, g.Previous.ContainerStatuses))
		case podspec.Ephemeral:
			s.EphemeralContainerStatuses = append(s.EphemeralContainerStatuses, g.container(c, kind, g.Previous.EphemeralContainerStatuses))
		}
		return true
	})
	if g.Ended {
		g.concludeContainers(s)
	}
	for _, list := range [][]v1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses} {
		for i := range list {
			g.judge(&list[i])
		}
	}
	// The API lists init containers in the order in which they run, and the
	// others by name.
	byName := func(a, b v1.ContainerStatus) int { return cmp.Compare(a.Name, b.Name) }
	slices.SortFunc(s.ContainerStatuses, byName)
	slices.SortFunc(s.EphemeralContainerStatuses, byName)
}

// neverStarted says whether nothing tells of any container of the pod.
func (g *generator) neverStarted() bool {
	for _, list := range [][]v1.ContainerStatus{g.Previous.InitContainerStatuses, g.Previous.ContainerStatuses, g.Previous.EphemeralContainerStatuses} {
		for i := range list {
			if everStarted(&list[i]) {
				return false
			}
		}
	}
	return len(g.Observed.Containers) == 0
}

func everStarted(s *v1.ContainerStatus) bool {
	return s.State.Running != nil || s.State.Terminated != nil || s.LastTerminationState.Terminated != nil
}

func find(list []v1.ContainerStatus, name string) *v1.ContainerStatus {
	for i := range list {
		if list[i].Name == name {
			return &list[i]
		}
	}
	return nil
}

// container makes the status of one container from the newest records that
// the runtime has of it, and from what was reported before.
func (g *generator) container(c *v1.Container, kind podspec.Kind, previous []v1.ContainerStatus) v1.ContainerStatus {
	var records []*observed.Container
	for i := range g.Observed.Containers {
		if g.Observed.Containers[i].Name == c.Name {
			records = append(records, &g.Observed.Containers[i])
		}
	}
	old := find(previous, c.Name)
	var s v1.ContainerStatus
	if len(records) > 0 {
		s = g.fromRecords(c, records, old)
	} else {
		s = g.fromPrevious(c, kind, old)
	}
	over := g.Ended || g.Terminating || s.State.Running != nil || kind == podspec.Ephemeral && s.State.Terminated != nil
	if w, ok := g.Waiting[c.Name]; ok && !over {
		if s.State.Terminated != nil {
			s.LastTerminationState = s.State
		}
		w.Reason = cmp.Or(w.Reason, g.defaultWaiting().Waiting.Reason)
		s.State = v1.ContainerState{Waiting: &w}
	}
	return s
}

func (g *generator) fromRecords(c *v1.Container, records []*observed.Container, old *v1.ContainerStatus) v1.ContainerStatus {
	newest := records[0]
	s := v1.ContainerStatus{
		Name:         c.Name,
		RestartCount: int32(newest.Attempt),
		Image:        newest.Image,
		ImageID:      newest.ImageRef,
		ContainerID:  g.containerID(newest),
		User:         containerUser(newest.User),
		// What the node has set aside: the requests of the spec.
		AllocatedResources: c.Resources.Requests.DeepCopy(),
	}
	if s.Image == "" {
		s.Image = c.Image
	}
	same := old != nil && old.ContainerID == s.ContainerID
	if old != nil {
		s.RestartCount = max(s.RestartCount, old.RestartCount)
		s.VolumeMounts = old.VolumeMounts
		s.AllocatedResourcesStatus = old.AllocatedResourcesStatus
		if same {
			s.StopSignal = old.StopSignal
			if s.User == nil { // only a list told of the container
				s.User = old.User
			}
		}
	}
	s.VolumeMounts = volumeMounts(c, newest, s.VolumeMounts)
	told := old
	if !same {
		told = nil
	}
	var has *podspec.Amounts
	if a, known := g.Has[newest.ID]; known {
		has = &a
	}
	s.Resources = resourcesInForce(c, newest, has, told)
	if newest.StopSignal != "" {
		signal := newest.StopSignal
		s.StopSignal = &signal
	}
	if !g.StopSignals {
		s.StopSignal = nil
	}
	s.State = g.state(newest, old, same)
	switch {
	case len(records) > 1:
		s.LastTerminationState = g.state(records[1], nil, false)
	case old == nil:
	case !same && old.State.Terminated != nil:
		s.LastTerminationState.Terminated = old.State.Terminated
	default:
		s.LastTerminationState = old.LastTerminationState
	}
	if s.LastTerminationState.Terminated == nil {
		s.LastTerminationState = v1.ContainerState{}
	}
	return s
}

func (g *generator) state(r *observed.Container, old *v1.ContainerStatus, same bool) v1.ContainerState {
	if same && r.State != observed.Exited {
		// A container that has ended never runs again; this is a late answer.
		for _, known := range []v1.ContainerState{old.State, old.LastTerminationState} {
			if known.Terminated != nil && known.Terminated.ContainerID == old.ContainerID {
				return known
			}
		}
	}
	switch r.State {
	case observed.Running:
		return v1.ContainerState{Running: &v1.ContainerStateRunning{StartedAt: second(r.StartedAt)}}
	case observed.Exited:
		reason := r.Reason
		if reason == "" {
			reason = reasonCompleted
			if r.ExitCode != 0 {
				reason = reasonError
			}
		}
		return v1.ContainerState{Terminated: &v1.ContainerStateTerminated{
			ExitCode:    r.ExitCode,
			Reason:      reason,
			Message:     g.cutMessage(r.Message),
			StartedAt:   second(r.StartedAt),
			FinishedAt:  second(r.FinishedAt),
			ContainerID: g.containerID(r),
		}}
	case observed.Unknown:
		// The runtime cannot say. What was known last stands until it can.
		if same && old.State.Waiting == nil {
			return old.State
		}
	}
	return g.defaultWaiting()
}

// fromPrevious makes the status of a container that the runtime has no record
// of: it was not created yet, or its record is lost.
func (g *generator) fromPrevious(c *v1.Container, kind podspec.Kind, old *v1.ContainerStatus) v1.ContainerStatus {
	s := v1.ContainerStatus{Name: c.Name, Image: c.Image}
	if old != nil {
		s = *old
	}
	s.VolumeMounts = volumeMounts(c, nil, s.VolumeMounts)
	const gone = "The container is gone from the runtime; it was running when it was last seen"
	switch {
	case s.State.Terminated != nil:
	case kind == podspec.Init && !podspec.IsSidecar(c) && g.regularCreated() && (s.State.Running != nil || !everStarted(&s)):
		// Regular containers exist only once all init containers have ended
		// well; the record was collected.
		s.State = v1.ContainerState{Terminated: &v1.ContainerStateTerminated{
			Reason:  reasonCompleted,
			Message: "The container is gone from the runtime; it has completed, for the pod's containers were started after it",
		}}
	case s.State.Running != nil && (g.Ended || g.Terminating || !podspec.RestartsKilled(g.Pod, c, kind)):
		s.State = lost(gone)
		s.State.Terminated.ContainerID = s.ContainerID
	case s.State.Running != nil:
		// It will be started again, so it waits. That it ran must not be
		// lost, or the pod would go back to Pending. The restart counts when
		// it comes, as any other.
		s.LastTerminationState = lost(gone)
		s.LastTerminationState.Terminated.ContainerID = s.ContainerID
		s.State = g.defaultWaiting()
	default:
		s.State = g.defaultWaiting()
	}
	return s
}

func lost(message string) v1.ContainerState {
	return v1.ContainerState{Terminated: &v1.ContainerStateTerminated{
		ExitCode: lostExitCode, Reason: reasonUnknown, Message: message,
	}}
}

func (g *generator) regularCreated() bool {
	for i := range g.Pod.Spec.Containers {
		if g.Observed.Latest(g.Pod.Spec.Containers[i].Name) != nil {
			return true
		}
	}
	return false
}

func (g *generator) defaultWaiting() v1.ContainerState {
	reason := reasonCreating
	if len(g.Pod.Spec.InitContainers) > 0 {
		reason = reasonInitializing
	}
	return v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: reason}}
}

func (g *generator) containerID(r *observed.Container) string { return g.RuntimeName + "://" + r.ID }

// cutMessage cuts a termination message to the container's part of what a pod
// may have. Like where a message is read, it is its end that stays.
func (g *generator) cutMessage(message string) string {
	n := len(g.Pod.Spec.Containers) + len(g.Pod.Spec.InitContainers) + len(g.Pod.Spec.EphemeralContainers)
	start := max(len(message)-maxTerminationMessages/max(n, 1), 0)
	for start < len(message) && !utf8.RuneStart(message[start]) {
		start++
	}
	return message[start:]
}

// concludeContainers gives the containers of a pod that has ended a final
// state, as far as they ever came. A container that nobody knows the end of
// counts as failed, so that a pod is never called successful by mistake.
func (g *generator) concludeContainers(s *v1.PodStatus) {
	started := 0
	for i := range s.InitContainerStatuses {
		if everStarted(&s.InitContainerStatuses[i]) {
			started = i + 1
		}
	}
	for i := range s.InitContainerStatuses[:started] {
		conclude(&s.InitContainerStatuses[i])
	}
	initialized := len(s.InitContainerStatuses) == 0
	if n := len(s.InitContainerStatuses); n > 0 && started == n {
		last := &s.InitContainerStatuses[n-1]
		initialized = podspec.IsSidecar(&g.Pod.Spec.InitContainers[n-1]) ||
			last.State.Terminated != nil && last.State.Terminated.ExitCode == 0
	}
	for i := range s.ContainerStatuses {
		initialized = initialized || everStarted(&s.ContainerStatuses[i])
	}
	if initialized {
		for i := range s.ContainerStatuses {
			conclude(&s.ContainerStatuses[i])
		}
	}
}

func conclude(s *v1.ContainerStatus) {
	switch {
	case s.State.Terminated != nil, s.State.Running != nil:
	case s.LastTerminationState.Terminated != nil:
		s.State = s.LastTerminationState
	default:
		s.State = lost("The container was not running when the pod ended")
	}
}

// judge sets started and ready.
func (g *generator) judge(s *v1.ContainerStatus) {
	c, kind := podspec.FindContainer(g.Pod, s.Name)
	switch {
	case kind == podspec.Ephemeral: // has neither
		s.Started, s.Ready = nil, false
	case kind == podspec.Init && !podspec.IsSidecar(c):
		started := s.State.Running != nil
		s.Started = &started
		s.Ready = s.State.Terminated != nil && s.State.Terminated.ExitCode == 0
	default:
		started := s.State.Running != nil
		ready := started
		if probe, ok := g.Probes[s.Name]; ok && started {
			started, ready = probe.Started, probe.Started && probe.Ready
		}
		s.Started, s.Ready = &started, ready
	}
}
