package admission

import (
	"fmt"

	v1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"

	"kubelet/internal/podspec"
)

// Taints rejects a pod that does not tolerate one of the node's NoExecute
// taints. Other effects are the scheduler's business, and static pods were
// put here by whoever owns the node.
func Taints(comparison bool) Check {
	return Check{Name: "Taints", NeedsNode: true, Judge: func(in Input) Verdict {
		if podspec.IsStatic(in.Pod) {
			return Verdict{}
		}
		taint, found := corev1.FindMatchingUntoleratedTaint(klog.Background(), in.Node.Spec.Taints, in.Pod.Spec.Tolerations,
			func(t *v1.Taint) bool { return t.Effect == v1.TaintEffectNoExecute }, comparison)
		if found {
			return reject("TaintToleration", fmt.Sprintf("the pod does not tolerate the node's taint %s", taint.ToString()))
		}
		return Verdict{}
	}}
}
