package lifecycle

import (
	"context"
	"fmt"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"

	"kubelet/internal/podspec"
	"kubelet/internal/volume"
)

// Kind is a step of a pod's life.
type Kind string

// Steps, one file each.
const (
	Prepare         Kind = "Prepare"         // pod directory, cgroup, log directory
	Mount           Kind = "Mount"           // mount, or bring contents up to date
	RunSandbox      Kind = "RunSandbox"      // network and namespaces
	PullImage       Kind = "PullImage"       // make a container's image present
	StartContainer  Kind = "StartContainer"  // create and start
	Look            Kind = "Look"            // what became of a start, asked of the runtime
	PostStart       Kind = "PostStart"       // a started container's hook
	PreStop         Kind = "PreStop"         // the hook before a container's end
	StopContainer   Kind = "StopContainer"   // TERM, grace, KILL
	StopSandbox     Kind = "StopSandbox"     // network torn down
	RemoveContainer Kind = "RemoveContainer" // one dead container
	RemoveSandbox   Kind = "RemoveSandbox"   // with the containers in it
	Allocate        Kind = "Allocate"        // resources granted to a pod that runs, written down
	ResizePod       Kind = "ResizePod"       // the pod's cgroup
	ResizeContainer Kind = "ResizeContainer" // a container that runs
	Remember        Kind = "Remember"        // what the runtime cannot tell, journaled
	FlushStatus     Kind = "FlushStatus"     // the API server has the final status
	Unmount         Kind = "Unmount"         // volumes and pod directory
	RemoveCgroup    Kind = "RemoveCgroup"
	RemoveLogs      Kind = "RemoveLogs"
	DeleteObject    Kind = "DeleteObject" // the API object, grace period 0
)

// aboutContainer says that a step's key has a container's ID.
func (k Kind) aboutContainer() bool {
	switch k {
	case PostStart, PreStop, StopContainer, RemoveContainer, ResizeContainer:
		return true
	}
	return false
}

// Key names one step of one pod: its kind, and the container name, container
// id or sandbox id that it is about. Two actions of the same key are never
// under way at once.
type Key struct {
	Kind Kind
	Name string
}

func (k Key) String() string {
	if k.Name == "" {
		return string(k.Kind)
	}
	return string(k.Kind) + "(" + k.Name + ")"
}

// Action asks for one step. Which fields are set depends on the kind.
type Action struct {
	Key
	// Container of PullImage, StartContainer, PostStart, PreStop,
	// StopContainer and ResizeContainer.
	Container *v1.Container
	// Attempt number of a new sandbox or container.
	Attempt uint32
	// ID of an existing container or sandbox: of StartContainer it is one
	// that is created and not started yet, which is adopted.
	ID string
	// SandboxID that StartContainer creates in.
	SandboxID string
	// ImageRef that StartContainer creates with.
	ImageRef string
	// TargetID of StartContainer: the container whose processes an ephemeral
	// one is to see, if any.
	TargetID string
	// Delay that the next restart will have to wait for if the container that
	// StartContainer creates crashes; zero for none.
	Delay time.Duration
	// Grace of StopContainer; of PreStop, what is left of it for the hook.
	Grace time.Duration
	// Lives that Remember writes down.
	Lives map[string]Life
	// Pod with the resources that Allocate writes down.
	Pod *v1.Pod
	// Amounts that the pod's cgroup (Prepare, ResizePod) or the container
	// (ResizeContainer) is to have. Raise of ResizePod: nothing becomes less.
	Amounts podspec.Amounts
	Raise   bool
	// Was is what the container of ResizeContainer has.
	Was podspec.Amounts
	// Again: the step was begun before and did not reach its goal, or, of
	// StopContainer, its hook was run before.
	Again bool
	// Why is the reason that goes into the Killing event and the log.
	Why string

	gathering *gathering
}

func (a Action) String() string {
	s := a.Key.String()
	switch a.Kind {
	case RunSandbox:
		s += fmt.Sprintf(" attempt=%d", a.Attempt)
	case StartContainer:
		if a.ID != "" {
			s += " created=" + a.ID
		} else {
			s += fmt.Sprintf(" attempt=%d", a.Attempt)
		}
		if a.TargetID != "" {
			s += " target=" + a.TargetID
		}
	case ResizePod:
		s += " " + describe(a.Amounts)
		if a.Raise {
			s += " raise"
		}
	case ResizeContainer:
		s += " " + describe(a.Was) + " to " + describe(a.Amounts)
	case PreStop, StopContainer:
		s += fmt.Sprintf(" grace=%s", a.Grace)
	}
	if a.Why != "" {
		s += fmt.Sprintf(" (%s)", a.Why)
	}
	return s
}

// describe writes amounts as request/limit of CPU and memory.
func describe(a podspec.Amounts) string {
	return fmt.Sprintf("%dm/%dm %d/%d", a.CPURequest, a.CPULimit, a.MemoryRequest, a.MemoryLimit)
}

// gathering is where Mount waits for RunSandbox of the same plan to be let in
// at the start gate.
type gathering struct {
	once sync.Once
	open chan struct{}
}

func newGathering() *gathering { return &gathering{open: make(chan struct{})} }

// begin lets go whoever waits. Like wait it may be called on nil.
func (g *gathering) begin() {
	if g != nil {
		g.once.Do(func() { close(g.open) })
	}
}

func (g *gathering) wait(ctx context.Context) {
	if g == nil {
		return
	}
	select {
	case <-g.open:
	case <-ctx.Done():
	}
}

// Result is how a step ended.
type Result struct {
	Key
	// Err is nil if the step reached its goal.
	Err error
	// Unknown: the deadline passed or the connection broke, so the runtime
	// may still be at it.
	Unknown bool
	// Unseen is when the call ended, if the runtime could not be asked then
	// what it has done: the observed table may be from before it.
	Unseen time.Time
	// Reason and Message for the container's waiting state; without a
	// Message, Err's text.
	Reason, Message string
	// ImageRef that PullImage found.
	ImageRef string
	// RetryAt, if set, is the earliest time that a retry makes sense, told by
	// the step itself (an image's back-off).
	RetryAt time.Time
	// Lives that Remember wrote down, and Pod that Allocate did.
	Lives map[string]Life
	Pod   *v1.Pod
	// Amounts that the pod's cgroup or the container has after Prepare,
	// ResizePod and ResizeContainer. Over: the cgroup may allow more. AtLeast
	// (of ResizePod that failed): it allows no less.
	Amounts       podspec.Amounts
	Over, AtLeast bool
	// CgroupParent that Prepare made, and Mounts that Volumes set up.
	CgroupParent string
	Mounts       volume.Mounts
	// sandboxID and containerID are what the step changed alone, if it did.
	sandboxID, containerID string
	// NextDue is when a successful step wants to be done again (a token that
	// has to be refreshed); zero for never.
	NextDue time.Time
}
