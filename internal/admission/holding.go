package admission

import (
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	resourcehelper "k8s.io/component-helpers/resource"

	"kubelet/internal/podspec"
)

// Holding is what one accepted pod holds of the node from its acceptance to
// its end.
type Holding struct {
	UID      types.UID
	Pod      string // namespace/name
	Standing Standing
	// amounts in milli-CPUs for cpu and in whole units for all else.
	amounts map[v1.ResourceName]int64
	ports   []port
	// What decides whether, and before whom, it goes for a critical pod.
	critical bool
	priority *int32
	qos      v1.PodQOSClass
}

// Standing says how sure it is that a pod keeps what it holds.
type Standing int

// Standings.
const (
	// Staying pods keep it until further notice.
	Staying Standing = iota
	// Leaving pods are being stopped and give it back soon.
	Leaving
	// Queued pods came first and wait for pods that leave; they will take it
	// or be rejected.
	Queued
)

// Hold computes what a pod holds: its requests with those of sidecars, the
// largest init container and overhead (KEP-753, KEP-2837), and its host
// ports.
func Hold(pod *v1.Pod) Holding {
	h := Holding{
		UID:      pod.UID,
		Pod:      pod.Namespace + "/" + pod.Name,
		amounts:  requests(pod),
		ports:    hostPorts(pod),
		critical: podspec.IsCritical(pod),
		priority: pod.Spec.Priority,
		qos:      podspec.QoS(pod),
	}
	if pod.DeletionTimestamp != nil {
		h.Standing = Leaving
	}
	return h
}

// requests are the countable resources that the pod asks for.
func requests(pod *v1.Pod) map[v1.ResourceName]int64 {
	amounts := map[v1.ResourceName]int64{}
	for name, q := range resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{}) {
		switch {
		case q.Sign() <= 0:
		case name == v1.ResourceCPU:
			amounts[name] = q.MilliValue()
		case name == v1.ResourceMemory, name == v1.ResourceEphemeralStorage, isScalar(name):
			amounts[name] = q.Value()
		}
	}
	return amounts
}

// isScalar says whether a resource beside cpu, memory and ephemeral storage
// is counted: extended resources, huge pages, attachable volumes and those of
// the kubernetes.io domain.
func isScalar(name v1.ResourceName) bool {
	s := string(name)
	return isExtended(name) ||
		strings.HasPrefix(s, v1.ResourceHugePagesPrefix) ||
		strings.HasPrefix(s, v1.ResourceAttachableVolumesPrefix) ||
		strings.Contains(s, v1.ResourceDefaultNamespacePrefix)
}

// isExtended follows the API's rule for extended resources: a domain that is
// not kubernetes.io, and a name that can also be a quota's.
func isExtended(name v1.ResourceName) bool {
	s := string(name)
	return strings.Contains(s, "/") &&
		!strings.Contains(s, v1.ResourceDefaultNamespacePrefix) &&
		!strings.HasPrefix(s, v1.DefaultResourceRequestsPrefix) &&
		len(validation.IsQualifiedName(v1.DefaultResourceRequestsPrefix+s)) == 0
}

// port is a port of the host that a pod binds. An empty or unspecified
// address stands for all of them.
type port struct {
	ip       string
	protocol v1.Protocol
	number   int32
}

const anyIP = "0.0.0.0"

func hostPorts(pod *v1.Pod) []port {
	var ports []port
	podspec.EachContainer(pod, func(c *v1.Container, kind podspec.Kind) bool {
		// A plain init container has ended before others bind.
		if kind == podspec.Ephemeral || kind == podspec.Init && !podspec.IsSidecar(c) {
			return true
		}
		for _, p := range c.Ports {
			if p.HostPort <= 0 {
				continue
			}
			q := port{p.HostIP, p.Protocol, p.HostPort}
			if q.ip == "" {
				q.ip = anyIP
			}
			if q.protocol == "" {
				q.protocol = v1.ProtocolTCP
			}
			ports = append(ports, q)
		}
		return true
	})
	return ports
}

func (p port) conflicts(q port) bool {
	return p.number == q.number && p.protocol == q.protocol &&
		(p.ip == q.ip || p.ip == anyIP || q.ip == anyIP)
}
