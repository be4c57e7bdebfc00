package desired

import (
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"kubelet/internal/podspec"
)

// Replace stores the full set of one source's pods and marks the source as
// having reported. Pods of the source that are missing from the set become
// tombstones, its mirrors missing from the set are dropped. The pods become
// the table's: it annotates new ones with source and first-seen time. A pod
// passed again by the same pointer is unchanged.
func (t *Table) Replace(source string, pods []*v1.Pod) {
	var touched []types.UID
	t.mu.Lock()
	wanted := make(map[types.UID]bool, len(pods))
	mirrored := map[podspec.Name]bool{}
	for _, pod := range pods {
		if source == podspec.SourceAPI && podspec.IsMirror(pod) {
			mirrored[podspec.FullName(pod)] = true
			touched = t.setMirror(pod, touched)
			continue
		}
		wanted[pod.UID] = true
		touched = t.set(source, pod, touched)
	}
	for uid, e := range t.pods {
		if e.Source == source && !wanted[uid] {
			touched = t.bury(e, touched)
		}
	}
	for r := range t.rejected {
		if r.source == source && !wanted[r.uid] {
			delete(t.rejected, r)
		}
	}
	if source == podspec.SourceAPI {
		for name := range t.mirrors {
			if !mirrored[name] {
				touched = t.dropMirror(name, touched)
			}
		}
	}
	if t.waiting[source] {
		delete(t.waiting, source)
		if len(t.waiting) == 0 {
			close(t.synced)
		}
	}
	t.mu.Unlock()
	t.notify(touched)
}

// Upsert stores one new or changed pod of a source that has reported its full
// set before.
func (t *Table) Upsert(source string, pod *v1.Pod) {
	t.mu.Lock()
	var touched []types.UID
	if source == podspec.SourceAPI && podspec.IsMirror(pod) {
		touched = t.setMirror(pod, nil)
	} else {
		touched = t.set(source, pod, nil)
	}
	t.mu.Unlock()
	t.notify(touched)
}

// Delete makes the source's pod of that UID a tombstone, or drops the mirror
// of that UID.
func (t *Table) Delete(source string, uid types.UID) {
	t.mu.Lock()
	var touched []types.UID
	delete(t.rejected, rejection{source, uid})
	if e, ok := t.pods[uid]; ok && e.Source == source {
		touched = t.bury(e, nil)
	} else if source == podspec.SourceAPI {
		for name, m := range t.mirrors {
			if m.UID == uid {
				touched = t.dropMirror(name, nil)
			}
		}
	}
	t.mu.Unlock()
	t.notify(touched)
}

// Forget drops a tombstone: the pod's worker is gone. If the source brought
// the UID back meanwhile, the pod is wanted anew from here on. A pod that is
// still wanted is not dropped.
func (t *Table) Forget(uid types.UID) {
	t.mu.Lock()
	e, ok := t.pods[uid]
	if !ok || !e.Removed {
		t.mu.Unlock()
		return
	}
	t.unname(e.Pod.Pod)
	delete(t.pods, uid)
	var touched []types.UID
	if e.next != nil {
		touched = t.set(e.Source, e.next, nil)
	} else {
		for _, source := range []string{podspec.SourceFile, podspec.SourceHTTP, podspec.SourceAPI} {
			r := rejection{source, uid}
			if pod := t.rejected[r]; pod != nil {
				delete(t.rejected, r)
				touched = t.set(source, pod, touched)
				break
			}
		}
	}
	// Pods of the same name may have waited for this one.
	for _, other := range t.names[podspec.FullName(e.Pod.Pod)] {
		if !slices.Contains(touched, other) {
			touched = append(touched, other)
		}
	}
	t.mu.Unlock()
	t.notify(touched)
}

func (t *Table) set(source string, pod *v1.Pod, touched []types.UID) []types.UID {
	e, ok := t.pods[pod.UID]
	switch {
	case !ok:
		stamp(pod, source, nil)
		t.revision++
		t.pods[pod.UID] = &entry{Pod: Pod{Pod: pod, Source: source, Revision: t.revision}}
		name := podspec.FullName(pod)
		t.names[name] = append(t.names[name], pod.UID)
	case e.Source != source:
		t.rejected[rejection{source, pod.UID}] = pod
		return touched
	case e.Removed:
		if source == podspec.SourceAPI {
			return touched // a late event: an object's UID never comes back
		}
		if pod == e.Pod.Pod {
			pod = pod.DeepCopy() // stamped anew when its turn comes
			delete(pod.Annotations, podspec.SeenAnnotation)
		}
		e.next = pod
		return touched
	case e.Pod.Pod == pod:
		return touched
	case pod.ResourceVersion != "" && pod.ResourceVersion == e.Pod.Pod.ResourceVersion:
		return touched // told twice, by a list and by a watch
	default:
		stamp(pod, source, e.Pod.Pod)
		t.revision++
		if podspec.FullName(pod) != podspec.FullName(e.Pod.Pod) {
			t.unname(e.Pod.Pod)
			name := podspec.FullName(pod)
			t.names[name] = append(t.names[name], pod.UID)
		}
		e.Pod.Pod, e.Revision = pod, t.revision
	}
	return append(touched, pod.UID)
}

func (t *Table) bury(e *entry, touched []types.UID) []types.UID {
	e.next = nil
	if e.Removed {
		return touched
	}
	t.revision++
	e.Removed, e.Revision = true, t.revision
	return append(touched, e.Pod.Pod.UID)
}

func (t *Table) unname(pod *v1.Pod) {
	name := podspec.FullName(pod)
	uids := slices.DeleteFunc(t.names[name], func(u types.UID) bool { return u == pod.UID })
	if len(uids) == 0 {
		delete(t.names, name)
		return
	}
	t.names[name] = uids
}

func (t *Table) setMirror(pod *v1.Pod, touched []types.UID) []types.UID {
	name := podspec.FullName(pod)
	old := t.mirrors[name]
	if old == pod || (old != nil && old.UID == pod.UID && pod.ResourceVersion != "" && old.ResourceVersion == pod.ResourceVersion) {
		return touched
	}
	t.mirrors[name] = pod
	return append(touched, t.mirrored(name, pod))
}

func (t *Table) dropMirror(name podspec.Name, touched []types.UID) []types.UID {
	old := t.mirrors[name]
	delete(t.mirrors, name)
	return append(touched, t.mirrored(name, old))
}

// mirrored returns the UID of the static pod that a mirror belongs to: the
// one of its name, or, if there is none, the one it was made for.
func (t *Table) mirrored(name podspec.Name, mirror *v1.Pod) types.UID {
	for _, uid := range t.names[name] {
		if e := t.pods[uid]; e.Source != podspec.SourceAPI && !e.Removed {
			return uid
		}
	}
	return types.UID(mirror.Annotations[podspec.MirrorAnnotation])
}

func (t *Table) notify(touched []types.UID) {
	if t.changed == nil {
		return
	}
	for _, uid := range touched {
		t.changed(uid)
	}
}
