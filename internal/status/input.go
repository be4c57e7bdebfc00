// Package status generates pod statuses (generate.go, pure), writes them to
// the API server (writer.go), keeps mirror pods true (mirror.go) and records
// events (events.go). It owns the table of statuses that wait to be accepted.
package status

import (
	"time"

	v1 "k8s.io/api/core/v1"

	"kubelet/internal/observed"
	"kubelet/internal/podspec"
)

// Failure forces the phase Failed: the pod was rejected, evicted or ran past
// its deadline.
type Failure struct {
	Reason  string // Evicted, DeadlineExceeded, OutOfcpu …
	Message string
	// Disruption, if not nil, is the reason and message of the
	// DisruptionTarget condition.
	DisruptionReason  string
	DisruptionMessage string
}

// Input is everything a pod's status is made of. Generate is pure over it.
type Input struct {
	Pod *v1.Pod
	// Previous is the status generated last, or after a start of the agent
	// the one in the API object. Terminated containers that the runtime no
	// longer has, transition times and restart counts are carried over from
	// it.
	Previous v1.PodStatus
	Observed observed.Pod

	// Waiting holds, by container name, why a container that is to be started
	// does not run: reason (ImagePullBackOff, CrashLoopBackOff,
	// CreateContainerConfigError …) and message. Without a reason it is that of
	// a container on its way.
	Waiting map[string]v1.ContainerStateWaiting
	// Failure, if not nil, makes the phase Failed with this reason.
	Failure *Failure
	// Ended: no container of the pod will ever be started again, and none
	// runs (phase becomes Succeeded or Failed).
	Ended bool
	// Terminating: containers are being stopped for good.
	Terminating bool
	// VolumesReady: all volumes are mounted.
	VolumesReady bool
	// Explanation is the one-line form of why the pod is where it is; it
	// becomes the message of PodReadyToStartContainers while that is False.
	Explanation string
	// Probes holds results by container name. A container that is absent is
	// judged by its state alone: started and ready when it runs.
	Probes map[string]ProbeResult

	// RestartingAll names the container whose exit restarts all of the pod's
	// (KEP-5532), while they are being stopped; else empty.
	RestartingAll string
	// ResizePending and ResizeInProgress are the conditions of a pod that asks
	// for other resources, or is on its way to them; nil for none.
	ResizePending, ResizeInProgress *Resize
	// Undecided: whether the pod gets the resources that it asks for is not
	// known yet, so that this version of it is not told to be observed.
	Undecided bool
	// Has are the resources that containers were given, by their ID, as far
	// as it is known.
	Has map[string]podspec.Amounts
	// PodResources: the resources of the pod as a whole are told. PodHas are
	// those that its cgroup has, nil while they are not known.
	PodResources bool
	PodHas       *podspec.Amounts
	// StopSignals: containers' stop signals are told.
	StopSignals bool

	// RuntimeName is the scheme of container ids ("containerd").
	RuntimeName string
	// HostIPs of the node, primary first; empty while unknown.
	HostIPs []string
	Now     time.Time
}

// Resize is a condition about a change of the pod's resources (KEP-1287).
type Resize struct {
	Reason, Message string
	// Generation of the pod's spec that the condition is about.
	Generation int64
	// Since when it has its reason.
	Since time.Time
}

// RecallResize is such a condition as it was told; nil if it was not.
func RecallResize(told v1.PodStatus, t v1.PodConditionType) *Resize {
	c := findCondition(told.Conditions, t)
	if c == nil || c.Status != v1.ConditionTrue {
		return nil
	}
	return &Resize{Reason: c.Reason, Message: c.Message, Generation: c.ObservedGeneration, Since: c.LastTransitionTime.Time}
}

// ProbeResult is what probes say about one container.
type ProbeResult struct {
	Started bool
	Ready   bool
}
