package source

import (
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kubelet/internal/podspec"
)

// origin is where a static pod comes from: which file or URL, for which node.
type origin struct {
	file bool
	name string // path or URL
	node string
}

// identify gives a static pod, decoded and defaulted, what tells it apart
// from others: a UID unless the manifest names one, its node, a name that
// tells the node, and the annotations of a static pod. One from a file also
// gets the toleration that keeps it on a node with problems; one from a URL
// does not, as upstream.
func identify(pod *v1.Pod, o origin) {
	if pod.UID == "" {
		pod.UID = staticUID(pod, o)
	}
	pod.TypeMeta = metav1.TypeMeta{}
	pod.Name += "-" + strings.ToLower(o.node)
	if pod.Namespace == "" {
		pod.Namespace = metav1.NamespaceDefault
	}
	pod.Spec.NodeName = o.node
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	// When it was first seen is for us to say, not for the manifest.
	delete(pod.Annotations, podspec.SeenAnnotation)
	setUID(pod, pod.UID)
	if o.file {
		tolerateNoExecute(&pod.Spec)
	}
	pod.Status.Phase = v1.PodPending
}

// setUID gives the pod its UID, which the hash annotation repeats.
func setUID(pod *v1.Pod, uid types.UID) {
	pod.UID = uid
	pod.Annotations[podspec.HashAnnotation] = string(uid)
}

func tolerateNoExecute(spec *v1.PodSpec) {
	all := v1.Toleration{Operator: v1.TolerationOpExists, Effect: v1.TaintEffectNoExecute}
	found := false
	for i := range spec.Tolerations {
		if all.MatchToleration(&spec.Tolerations[i]) {
			spec.Tolerations[i], found = all, true // for ever, whatever it said
		}
	}
	if !found {
		spec.Tolerations = append(spec.Tolerations, all)
	}
}
