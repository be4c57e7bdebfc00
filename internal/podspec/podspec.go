// Package podspec is pure vocabulary over a v1.Pod: identity, where it came
// from, kinds of container, QoS class and grace periods. It owns no state,
// reads nothing but its arguments and writes nothing.
package podspec

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/dump"
)

// Annotations by which the kubelet marks where a pod came from. The names are
// shared with the upstream kubelet, so that either can adopt the other's pods.
const (
	SourceAnnotation = "kubernetes.io/config.source"
	HashAnnotation   = "kubernetes.io/config.hash"
	MirrorAnnotation = "kubernetes.io/config.mirror"
	SeenAnnotation   = "kubernetes.io/config.seen"
)

// Values of SourceAnnotation.
const (
	SourceFile = "file"
	SourceHTTP = "http"
	SourceAPI  = "api"
)

// Name is a pod's full name, "name_namespace": what is unique among the pods
// that may run on a node at one time, whatever their source.
type Name string

// FullName returns the pod's full name.
func FullName(pod *v1.Pod) Name { return Name(pod.Name + "_" + pod.Namespace) }

// IsMirror says whether the API object only mirrors a static pod.
func IsMirror(pod *v1.Pod) bool {
	_, ok := pod.Annotations[MirrorAnnotation]
	return ok
}

// IsStatic says whether the pod came from a file or a URL.
func IsStatic(pod *v1.Pod) bool {
	s, ok := pod.Annotations[SourceAnnotation]
	return ok && s != SourceAPI && !IsMirror(pod)
}

// IsHostNetwork says whether the pod shares the node's network namespace.
func IsHostNetwork(pod *v1.Pod) bool { return pod.Spec.HostNetwork }

// OwnUsers says whether the pod has a user namespace of its own
// (hostUsers: false).
func OwnUsers(pod *v1.Pod) bool { return pod.Spec.HostUsers != nil && !*pod.Spec.HostUsers }

// systemCriticalPriority is the least priority of a system-critical pod
// (scheduling.SystemCriticalPriority of the API).
const systemCriticalPriority = 2_000_000_000

// IsCritical says whether the pod is static, mirrored or of a
// system-critical priority.
func IsCritical(pod *v1.Pod) bool {
	return IsStatic(pod) || IsMirror(pod) ||
		(pod.Spec.Priority != nil && *pod.Spec.Priority >= systemCriticalPriority)
}

// Kind is the list of a PodSpec that a container stands in.
type Kind int

// Kinds of container.
const (
	Regular Kind = iota
	Init
	Ephemeral
)

// IsSidecar says whether an init container keeps running beside the regular
// containers (restartPolicy Always, KEP-753).
func IsSidecar(c *v1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways
}

// EachContainer calls f for init, regular and ephemeral containers in spec
// order until f returns false.
func EachContainer(pod *v1.Pod, f func(c *v1.Container, kind Kind) bool) {
	for i := range pod.Spec.InitContainers {
		if !f(&pod.Spec.InitContainers[i], Init) {
			return
		}
	}
	for i := range pod.Spec.Containers {
		if !f(&pod.Spec.Containers[i], Regular) {
			return
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		c := v1.Container(pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		if !f(&c, Ephemeral) {
			return
		}
	}
}

// FindContainer returns the named container and its kind, or nil.
func FindContainer(pod *v1.Pod, name string) (found *v1.Container, kind Kind) {
	EachContainer(pod, func(c *v1.Container, k Kind) bool {
		if c.Name == name {
			found, kind = c, k
			return false
		}
		return true
	})
	return found, kind
}

// ContainerHash is the value of the io.kubernetes.container.hash annotation.
// It covers name and image, as upstream's does, so that a container made by
// either kubelet is recognised by the other.
func ContainerHash(c *v1.Container) string {
	fields := map[string]string{"name": c.Name, "image": c.Image}
	body, _ := json.Marshal(fields) // a map of strings always marshals
	h := fnv.New32a()
	fmt.Fprintf(h, "%v", dump.ForHash(body))
	return strconv.FormatUint(uint64(h.Sum32()), 16)
}

// DefaultGrace is the grace period of a pod that names none.
const DefaultGrace = 30 * time.Second

// Grace returns how long the pod's containers may take to end after SIGTERM:
// the deletion's override if there is one, else the spec's value, else 30 s.
// A deletion with 0 s left means "at once" and is raised to 1 s, as upstream
// does for a pod that still runs.
func Grace(pod *v1.Pod) time.Duration {
	seconds := int64(DefaultGrace / time.Second)
	if pod.Spec.TerminationGracePeriodSeconds != nil {
		seconds = *pod.Spec.TerminationGracePeriodSeconds
	}
	if pod.DeletionTimestamp != nil && pod.DeletionGracePeriodSeconds != nil {
		seconds = *pod.DeletionGracePeriodSeconds
	}
	return time.Duration(max(seconds, 1)) * time.Second
}

// IsTerminalPhase says whether a phase is final.
func IsTerminalPhase(p v1.PodPhase) bool { return p == v1.PodSucceeded || p == v1.PodFailed }
