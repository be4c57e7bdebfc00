package volume

import v1 "k8s.io/api/core/v1"

// Location is where the content of one volume of a pod is.
type Location struct {
	Volume *v1.Volume
	// Plugin is the name of the volume's type, "kubernetes.io/empty-dir".
	Plugin string
	// Dir is the volume's directory. It need not exist yet.
	Dir string
}

// Locations returns the volumes that the pod's containers use and whose type
// the node has, in spec order.
func (r *Reconciler) Locations(pod *v1.Pod) []Location {
	used := usedVolumes(pod)
	out := make([]Location, 0, len(used))
	for _, v := range used {
		p := r.plugin(v)
		if p == nil || checkComponent("volume name", v.Name) != nil {
			continue
		}
		out = append(out, Location{Volume: v, Plugin: p.Name(), Dir: volumeDir(r.podDir(pod.UID), p, v.Name)})
	}
	return out
}
