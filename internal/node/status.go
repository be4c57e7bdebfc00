package node

import (
	"fmt"
	"maps"
	"runtime"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
)

// annotationProvidedIP tells an external cloud provider which node IP was
// asked for.
const annotationProvidedIP = "alpha.kubernetes.io/provided-node-ip"

// Facts is everything that a node's status is made of, beside the object as
// it was.
type Facts struct {
	Info v1.NodeSystemInfo
	// Capacity that this machine has, and what pods cannot have of it.
	Capacity, Reserved v1.ResourceList
	// Addresses, nil if they could not be found: then the old ones stay.
	Addresses []v1.NodeAddress
	// KeepAddresses: a cloud provider sets them; ours are only for a node
	// that has none.
	KeepAddresses bool
	// ProvidedIP is the value of the annotation for the cloud provider.
	ProvidedIP string
	Port       int32
	// DeclaredFeatures that schedulers and the API server look for, sorted;
	// none is declared before it is there.
	DeclaredFeatures []string
	Images           []v1.ContainerImage
	// Handlers and Features of the runtime, nil if it has not answered yet.
	Handlers []v1.NodeRuntimeHandler
	Features *v1.NodeFeatures
	// Problems keep the node from being ready.
	Problems []error
	// NeedsStorage: a node that does not know its ephemeral storage is not
	// ready.
	NeedsStorage bool
}

// Generate returns the node with its status, and the labels and annotations
// that follow from the machine, at their newest. It is pure; previous is not
// modified.
func Generate(previous *v1.Node, facts Facts, now time.Time) *v1.Node {
	node := previous.DeepCopy()
	if node.Labels == nil {
		node.Labels = make(map[string]string)
	}
	node.Labels[v1.LabelOSStable] = runtime.GOOS
	node.Labels[v1.LabelArchStable] = runtime.GOARCH
	if facts.ProvidedIP != "" {
		setAnnotation(node, annotationProvidedIP, facts.ProvidedIP)
	} else {
		delete(node.Annotations, annotationProvidedIP)
	}

	status := &node.Status
	if facts.Addresses != nil && !(facts.KeepAddresses && len(status.Addresses) > 0) {
		status.Addresses = facts.Addresses
	}
	// Resources that others announce, such as those that an administrator
	// patched in, stay.
	if status.Capacity == nil {
		status.Capacity = make(v1.ResourceList, len(facts.Capacity))
	}
	maps.Copy(status.Capacity, facts.Capacity)
	status.Allocatable = allocatableOf(status.Capacity, facts.Reserved)

	status.NodeInfo = facts.Info
	status.DaemonEndpoints.KubeletEndpoint.Port = facts.Port
	status.Images = facts.Images
	if facts.Handlers != nil {
		status.RuntimeHandlers = facts.Handlers
	}
	if facts.Features != nil {
		status.Features = facts.Features
	}
	status.DeclaredFeatures = facts.DeclaredFeatures

	problems := facts.Problems
	if missing := missingCapacity(status.Capacity, facts.NeedsStorage); missing != "" {
		problems = append(problems[:len(problems):len(problems)], fmt.Errorf("missing node capacity for resources: %s", missing))
	}
	status.Conditions = setConditions(previous.Status.Conditions, problems, now)
	return node
}

func setAnnotation(node *v1.Node, key, value string) {
	if node.Annotations == nil {
		node.Annotations = make(map[string]string)
	}
	node.Annotations[key] = value
}

func missingCapacity(capacity v1.ResourceList, needsStorage bool) string {
	var missing []string
	for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory, v1.ResourcePods, v1.ResourceEphemeralStorage} {
		if _, ok := capacity[name]; !ok && (needsStorage || name != v1.ResourceEphemeralStorage) {
			missing = append(missing, string(name))
		}
	}
	return strings.Join(missing, ", ")
}

// sameStatus says whether nothing but heartbeats differs between a node and
// what was generated from it.
func sameStatus(a, b *v1.Node) bool {
	if !maps.Equal(a.Labels, b.Labels) || !maps.Equal(a.Annotations, b.Annotations) ||
		len(a.Status.Conditions) != len(b.Status.Conditions) {
		return false
	}
	for _, condition := range b.Status.Conditions {
		at := conditionAt(a.Status.Conditions, condition.Type)
		if at < 0 {
			return false
		}
		old := a.Status.Conditions[at]
		old.LastHeartbeatTime = condition.LastHeartbeatTime
		if !equality.Semantic.DeepEqual(old, condition) {
			return false
		}
	}
	left, right := a.Status, b.Status
	left.Conditions, right.Conditions = nil, nil
	return equality.Semantic.DeepEqual(left, right)
}
