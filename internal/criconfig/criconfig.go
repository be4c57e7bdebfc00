// Package criconfig turns a pod into the request bodies of the container
// runtime interface: sandbox and container configs with upstream's labels,
// annotations, log paths, DNS, environment, mounts and security settings. It
// owns no table; it reads objects through its interfaces and writes only the
// files that a container mounts (etc-hosts, termination logs) and log
// directories.
package criconfig

import (
	"fmt"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"kubelet/internal/podspec"
	"kubelet/internal/volume"
)

// ContainerInput is everything a container's config is made of.
type ContainerInput struct {
	Pod       *v1.Pod
	Container *v1.Container
	Kind      podspec.Kind
	// Attempt is the restart count that goes into name, labels and log path.
	Attempt uint32
	// ImageRef is what the image service resolved the image to.
	ImageRef string
	// PodIPs of the ready sandbox (the node's for the host network).
	PodIPs []string
	Mounts volume.Mounts
	// Sandbox is the config the pod's sandbox was made with.
	Sandbox *runtimeapi.PodSandboxConfig
	// TargetID is the runtime's id of the container whose process namespace
	// an ephemeral container with a targetContainerName joins; empty if none.
	TargetID string

	// sources of the volume mounts.
	sources map[*v1.VolumeMount]source
}

// Error is why a container cannot be created: a problem of the spec, or of an
// object or file that it refers to, which somebody has to mend, or something
// that could not be read and may be readable later.
type Error struct {
	// Reason for the container's waiting state, for example
	// CreateContainerConfigError or CreateContainerError.
	Reason  string
	Message string
	// Err is the cause, if there is one.
	Err error
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %s", e.Reason, e.Message) }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }
