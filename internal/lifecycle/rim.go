package lifecycle

import (
	"context"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"kubelet/internal/criconfig"
	"kubelet/internal/podspec"
	"kubelet/internal/volume"
)

// The rim: what the steps of a pod's life ask of the world. Each call takes a
// context with a deadline, may fail, hang until that deadline or answer late,
// and is idempotent where its comment says so. A deadline that passed means
// that the outcome is unknown, not that the call failed.

// Runtime is the part of the CRI that changes a pod (package cri; critest in
// tests).
type Runtime interface {
	RunPodSandbox(ctx context.Context, config *runtimeapi.PodSandboxConfig, handler string) (id string, err error)
	// StopPodSandbox and RemovePodSandbox succeed for a sandbox that is gone.
	StopPodSandbox(ctx context.Context, id string) error
	RemovePodSandbox(ctx context.Context, id string) error
	CreateContainer(ctx context.Context, sandboxID string, config *runtimeapi.ContainerConfig, sandbox *runtimeapi.PodSandboxConfig) (id string, err error)
	StartContainer(ctx context.Context, id string) error
	// StopContainer sends the stop signal, and SIGKILL after grace (whole
	// seconds). The implementation adds grace to its own call deadline. It
	// succeeds for a container that is gone.
	StopContainer(ctx context.Context, id string, grace time.Duration) error
	RemoveContainer(ctx context.Context, id string) error
	// UpdateContainerResources changes the limits of a container that runs.
	// Idempotent.
	UpdateContainerResources(ctx context.Context, id string, resources *runtimeapi.ContainerResources) error
}

// Refresher re-reads one pod from the runtime into the observed table
// (package pleg). It returns when the table holds an answer that was asked
// for after the call to Refresh.
type Refresher interface {
	Refresh(ctx context.Context, uid types.UID) error
	// RefreshSandbox and RefreshContainer do it for one sandbox or container
	// and leave the rest of the pod as it was known.
	RefreshSandbox(ctx context.Context, uid types.UID, id string) error
	RefreshContainer(ctx context.Context, uid types.UID, sandboxID, id string) error
}

// Volumes sets a pod's volumes up and takes them down (package volume).
type Volumes interface {
	// Mount brings all volumes of the pod to their wanted state, contents
	// included, and returns where they are. Idempotent.
	Mount(ctx context.Context, pod *v1.Pod) (volume.Mounts, error)
	// Unmount takes down and removes everything under the pod's directory,
	// never crossing a mount that could not be undone, and the directory
	// itself. Works from what is on disk, so the pod may be long forgotten.
	// Idempotent.
	Unmount(ctx context.Context, uid types.UID) error
	// BesideSandbox says whether the pod's sandbox may start while its
	// volumes are being set up: nothing of them waits for attach, CSI, the
	// network or an object that is not in the cache.
	BesideSandbox(pod *v1.Pod) bool
	// ObjectsPending says whether an object that the volumes need is just
	// being read; the pod is woken when that is over.
	ObjectsPending(pod *v1.Pod) bool
}

// Images makes a container's image present (package image).
type Images interface {
	// Ensure returns the reference to create the container with. It follows
	// the pull policy, joins a pull of the same image under way and honours
	// the back-off of earlier failures: within it, it returns the back-off
	// error at once. Errors are *image.Error with the API's waiting reason.
	Ensure(ctx context.Context, pod *v1.Pod, c *v1.Container) (ref string, err error)
}

// Cgroups owns the pod level of the cgroup tree (package cgroup).
type Cgroups interface {
	// EnsurePod makes the pod's cgroup with its limits and returns the
	// parent to name in the sandbox config (path or slice, by driver).
	// held says that they may be higher, as a pod that shrank and runs needs
	// them until ResizePod. Idempotent.
	EnsurePod(ctx context.Context, pod *v1.Pod) (parent string, held bool, err error)
	// ResizePod gives the cgroup of a pod that runs other limits; with raise,
	// none becomes lower. atLeast says, also after an error, whether they allow
	// the amounts. Idempotent.
	ResizePod(ctx context.Context, pod *v1.Pod, amounts podspec.Amounts, raise bool) (atLeast bool, err error)
	// MemoryUsage of a container that runs, in bytes.
	MemoryUsage(pod *v1.Pod, id string) (int64, error)
	// RemovePod removes the pod's cgroup with whatever is below it; what
	// still runs in it is killed. Idempotent.
	RemovePod(ctx context.Context, uid types.UID) error
}

// Configs turns a pod into the runtime's request bodies (package criconfig).
type Configs interface {
	Sandbox(pod *v1.Pod, attempt uint32, cgroupParent string) (*runtimeapi.PodSandboxConfig, error)
	// RuntimeHandler resolves the pod's RuntimeClass ("" for the default).
	RuntimeHandler(ctx context.Context, pod *v1.Pod) (string, error)
	// Container also writes the files it mounts (/etc/hosts, termination
	// log) and makes the log directory. Errors that the user has to mend are
	// *criconfig.Error with the API's waiting reason.
	Container(ctx context.Context, in criconfig.ContainerInput) (*runtimeapi.ContainerConfig, error)
	// Resources of a container that runs and had others.
	Resources(pod *v1.Pod, c *v1.Container, had podspec.Amounts) *runtimeapi.ContainerResources
}

// Allocations keeps what is allocated to pods over a restart of the kubelet
// (package resources/allocation).
type Allocations interface {
	// Allocate writes the pod's resources down. Once it has returned nil they
	// are the pod's. Idempotent.
	Allocate(ctx context.Context, pod *v1.Pod) error
}

// Hooks runs the lifecycle hooks of containers (package hook). The deadline is
// the context's. A hook that ran and failed is an error.
type Hooks interface {
	Run(ctx context.Context, pod *v1.Pod, c *v1.Container, containerID, podIP string, h *v1.LifecycleHandler) error
}

// Statuses is the way out to the API server (package status). Without an API
// server every status is accepted at once.
type Statuses interface {
	// Publish takes the newest status of a pod; it never blocks.
	Publish(pod *v1.Pod, status v1.PodStatus)
	// Accepted blocks until the newest published status of the pod is
	// accepted, or its object is gone.
	Accepted(ctx context.Context, uid types.UID) error
	// DeleteObject removes the API object of a pod whose end is complete,
	// only if it still has that UID. Succeeds if it is gone.
	DeleteObject(ctx context.Context, pod *v1.Pod) error
	// Forget drops what is held for the pod.
	Forget(uid types.UID)
}

// Events records Kubernetes events (package status).
type Events interface {
	// Event records an event about the pod; container may be empty. eventType
	// is v1.EventTypeNormal or v1.EventTypeWarning. It never blocks.
	Event(pod *v1.Pod, container, eventType, reason, message string)
}
