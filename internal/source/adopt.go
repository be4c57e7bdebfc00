package source

import (
	"context"
	"maps"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"kubelet/internal/podspec"
)

// Running is a static pod that the runtime has, with a ready sandbox or a
// running container, when this agent starts.
type Running struct {
	UID       types.UID
	Name      string // full, the node's name included
	Namespace string
	// Annotations of its newest sandbox.
	Annotations map[string]string
	// Containers maps the name of each of its newest containers to the
	// io.kubernetes.container.hash annotation.
	Containers map[string]string
	// Mirror is its object in the API, if that is known by now.
	Mirror *v1.Pod
}

// Adopt returns the UID that a static pod gets: its own, unless the same pod
// runs already under another one, which it then keeps so as not to be
// restarted. That is so after a switch from an upstream kubelet of another
// version, which hashes pods in another way.
//
// A pod runs already if one of its full name does, with the same images, and
// either its mirror in the API says the same as the manifest, or the manifest
// was last changed before the one who started it had read it. changed is when
// that was, zero if unknown; an equal image alone is no proof, since what is
// most often changed in a manifest are the arguments.
func Adopt(pod *v1.Pod, changed time.Time, running []Running) types.UID {
	var found []types.UID
	for _, r := range running {
		if r.UID == pod.UID {
			return pod.UID
		}
		if r.Name == pod.Name && r.Namespace == pod.Namespace && sameImages(pod, r.Containers) &&
			(sameAsMirror(pod, r) || unchangedSince(changed, r)) {
			found = append(found, r.UID)
		}
	}
	if len(found) != 1 {
		return pod.UID
	}
	return found[0]
}

// sameImages says whether each container that runs is the manifest's.
func sameImages(pod *v1.Pod, hashes map[string]string) bool {
	regular := 0
	for name, hash := range hashes {
		c, kind := podspec.FindContainer(pod, name)
		if c == nil || podspec.ContainerHash(c) != hash {
			return false
		}
		if kind == podspec.Regular {
			regular++
		}
	}
	return regular > 0
}

func unchangedSince(changed time.Time, r Running) bool {
	if changed.IsZero() || r.Annotations[podspec.SourceAnnotation] != podspec.SourceFile {
		return false
	}
	seen, err := time.Parse(time.RFC3339Nano, r.Annotations[podspec.SeenAnnotation])
	return err == nil && changed.Before(seen)
}

// sameAsMirror compares the manifest with the object that the API has of the
// running pod. What the API server fills in by itself does not count.
func sameAsMirror(pod *v1.Pod, r Running) bool {
	m := r.Mirror
	if m == nil || m.Annotations[podspec.HashAnnotation] != string(r.UID) {
		return false
	}
	spec := m.Spec
	if pod.Spec.Priority == nil {
		spec.Priority = nil
	}
	if pod.Spec.PriorityClassName == "" {
		spec.PriorityClassName = ""
	}
	if pod.Spec.PreemptionPolicy == nil {
		spec.PreemptionPolicy = nil
	}
	asMirrored := *m
	asMirrored.Spec = spec
	return samePod(pod, &asMirrored)
}

// ownAnnotations are those that the manifest's author wrote.
func ownAnnotations(pod *v1.Pod) map[string]string {
	own := maps.Clone(pod.Annotations)
	for _, key := range []string{podspec.SourceAnnotation, podspec.HashAnnotation, podspec.MirrorAnnotation, podspec.SeenAnnotation} {
		delete(own, key)
	}
	return own
}

// adopter gives static pods the UIDs they run under. It asks once, before the
// first pod is handed over: what is changed later gets a new UID.
type adopter struct {
	running func(context.Context) ([]Running, error)
	known   []Running
	asked   bool
	// kept maps the UID of a pod's contents to the one it was adopted under,
	// for the time of this process: reading the same manifest again must give
	// the same UID again.
	kept map[types.UID]types.UID
}

// ask waits until it is known what runs; it fails only when ctx ends.
func (a *adopter) ask(ctx context.Context) error {
	if a.asked || a.running == nil {
		return nil
	}
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		known, err := a.running(ctx)
		if err == nil {
			a.known, a.asked, a.kept = known, true, map[types.UID]types.UID{}
			return nil
		}
		if ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Cannot tell which static pods run; waiting with their manifests")
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// settle gives a pod, not handed over yet, the UID and first-seen time that
// it runs under. first says whether it may be adopted.
func (a *adopter) settle(ctx context.Context, pod *v1.Pod, changed time.Time, first bool) {
	own := pod.UID
	if uid, ok := a.kept[own]; ok {
		setUID(pod, uid)
	} else if first {
		if uid := Adopt(pod, changed, a.known); uid != own {
			klog.FromContext(ctx).Info("Adopted a running static pod", "pod", klog.KObj(pod), "podUID", uid, "hash", own)
			a.kept[own] = uid
			setUID(pod, uid)
		}
	}
	for _, r := range a.known {
		if seen := r.Annotations[podspec.SeenAnnotation]; r.UID == pod.UID && seen != "" {
			pod.Annotations[podspec.SeenAnnotation] = seen
		}
	}
}

// done lets go of what only the start needs.
func (a *adopter) done() {
	if a.asked {
		a.known = nil
	}
}
