// Package status generates pod statuses (generate.go, pure), writes them to
// the API server (writer.go), keeps mirror pods true (mirror.go) and records
// events (events.go). It owns the table of statuses that wait to be accepted.
package status

import (
	"time"

	v1 "k8s.io/api/core/v1"

	"kubelet/internal/observed"
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
	// StopSignals: containers' stop signals are told.
	StopSignals bool

	// RuntimeName is the scheme of container ids ("containerd").
	RuntimeName string
	// HostIPs of the node, primary first; empty while unknown.
	HostIPs []string
	Now     time.Time
}

// ProbeResult is what probes say about one container.
type ProbeResult struct {
	Started bool
	Ready   bool
}
