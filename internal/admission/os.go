package admission

import (
	"fmt"

	v1 "k8s.io/api/core/v1"
)

// nodeOS is the only operating system that this kubelet runs on.
const nodeOS = "linux"

// OSLabel rejects a pod whose own kubernetes.io/os label names another
// operating system. (The node's label is kept true by the node loop, so it is
// not asked.)
func OSLabel() Check {
	return Check{Name: "OSLabel", NeedsNode: true, Judge: func(in Input) Verdict {
		if os, ok := in.Pod.Labels[v1.LabelOSStable]; ok && os != nodeOS {
			return reject("PodOSSelectorNodeLabelDoesNotMatch", fmt.Sprintf("the pod's label %s=%s does not match this %s node", v1.LabelOSStable, os, nodeOS))
		}
		return Verdict{}
	}}
}

// OSField rejects a pod whose spec.os names another operating system.
func OSField() Check {
	return Check{Name: "OSField", Judge: func(in Input) Verdict {
		if os := in.Pod.Spec.OS; os != nil && string(os.Name) != nodeOS {
			return reject("PodOSNotSupported", fmt.Sprintf("the pod wants the OS %s (spec.os.name), and this node's OS is %s", os.Name, nodeOS))
		}
		return Verdict{}
	}}
}
