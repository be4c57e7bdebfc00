package admission

import (
	"fmt"

	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// reasonNodeAffinity is the reason that may rest on stale labels: the queue
// asks for a fresh node before it believes it.
const reasonNodeAffinity = "NodeAffinity"

// NodeAffinity rejects a pod whose node selector or required node affinity
// does not match the node's labels. A term that cannot be parsed matches
// nothing.
func NodeAffinity() Check {
	return Check{Name: "NodeAffinity", NeedsNode: true, Judge: func(in Input) Verdict {
		match, err := nodeaffinity.GetRequiredNodeAffinity(in.Pod).Match(in.Node)
		switch {
		case match:
			return Verdict{}
		case err != nil:
			return reject(reasonNodeAffinity, fmt.Sprintf("the pod's node affinity cannot be used: %v", err))
		}
		for key, value := range in.Pod.Spec.NodeSelector {
			if have, ok := in.Node.Labels[key]; !ok || have != value {
				return reject(reasonNodeAffinity, "the node's labels do not match the pod's nodeSelector")
			}
		}
		return reject(reasonNodeAffinity, "the node's labels do not match the pod's required node affinity")
	}}
}

// NodeName rejects a pod that names another node.
func NodeName() Check {
	return Check{Name: "NodeName", NeedsNode: true, Judge: func(in Input) Verdict {
		if name := in.Pod.Spec.NodeName; name != "" && name != in.Node.Name {
			return reject("NodeName", fmt.Sprintf("the pod names node %s, and this is %s", name, in.Node.Name))
		}
		return Verdict{}
	}}
}
