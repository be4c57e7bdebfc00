// Package desired owns the answer to "which pods should exist on this node?":
// one table of the pods that the sources want, with tombstones for those that
// a source no longer has while their worker is still taking them down.
//
// The sources (package source) write it, each only under its own name; the
// workers drop tombstones when they are done; everybody else reads snapshots.
// A pod that was stored is never changed: a new version is a new object.
//
// API objects that only mirror a static pod are kept apart. They are not run;
// they tell the mirror loop what the API server has.
package desired

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"kubelet/internal/podspec"
)

// Pod is one entry of the table.
type Pod struct {
	// Pod is the newest version the source told. Never change it.
	Pod *v1.Pod
	// Source is podspec.SourceFile, SourceHTTP or SourceAPI.
	Source string
	// Revision grows with each stored change of this UID.
	Revision uint64
	// Removed marks a tombstone: the source no longer has the pod, and its
	// worker has not finished. A UID that was removed stays so until Forget,
	// even if the source brings it back meanwhile: a termination is never
	// taken back.
	Removed bool
}

// Table is the store. The zero value is not usable; see NewTable.
type Table struct {
	changed func(types.UID)
	synced  chan struct{}

	mu       sync.RWMutex
	waiting  map[string]bool // sources that have not reported yet
	pods     map[types.UID]*entry
	names    map[podspec.Name][]types.UID
	mirrors  map[podspec.Name]*v1.Pod
	rejected map[rejection]*v1.Pod
	revision uint64
}

type entry struct {
	Pod
	// next is what the source wants under this UID once the tombstone is
	// gone; nil if nothing.
	next *v1.Pod
}

// rejection names a pod that cannot be stored since another source holds its
// UID.
type rejection struct {
	source string
	uid    types.UID
}

// NewTable returns an empty table that waits for the named sources to report.
// changed, if not nil, is called with a pod's UID after each stored change,
// outside of the table's lock; it must not block. For a mirror it is called
// with the UID of the static pod it belongs to, wanted or not.
func NewTable(changed func(uid types.UID), sources ...string) *Table {
	t := &Table{
		changed:  changed,
		synced:   make(chan struct{}),
		waiting:  map[string]bool{},
		pods:     map[types.UID]*entry{},
		names:    map[podspec.Name][]types.UID{},
		mirrors:  map[podspec.Name]*v1.Pod{},
		rejected: map[rejection]*v1.Pod{},
	}
	for _, s := range sources {
		t.waiting[s] = true
	}
	if len(t.waiting) == 0 {
		close(t.synced)
	}
	return t
}

// Get returns the pod's entry.
func (t *Table) Get(uid types.UID) (Pod, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	e, ok := t.pods[uid]
	if !ok {
		return Pod{}, false
	}
	return e.Pod, true
}

// List returns all entries, tombstones included, in no particular order.
func (t *Table) List() []Pod {
	t.mu.RLock()
	defer t.mu.RUnlock()
	list := make([]Pod, 0, len(t.pods))
	for _, e := range t.pods {
		list = append(list, e.Pod)
	}
	return list
}

// ByName returns the entries of one full name in the order in which they may
// run: what has to end first (tombstones, then pods with a deletion
// timestamp), then by source (file, http, api: a node's own manifest cannot
// be kept out by an API object that takes its name), then by age and UID. The
// worker pool lets them run one at a time.
func (t *Table) ByName(name podspec.Name) []Pod {
	t.mu.RLock()
	defer t.mu.RUnlock()
	uids := t.names[name]
	if len(uids) == 0 {
		return nil
	}
	list := make([]Pod, 0, len(uids))
	for _, uid := range uids {
		list = append(list, t.pods[uid].Pod)
	}
	slices.SortFunc(list, order)
	return list
}

// Mirror returns the API object that mirrors the static pod of that name, or
// nil.
func (t *Table) Mirror(name podspec.Name) *v1.Pod {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.mirrors[name]
}

// Mirrors returns all mirror objects of the API server, also those whose
// static pod is gone.
func (t *Table) Mirrors() []*v1.Pod {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return slices.Collect(maps.Values(t.mirrors))
}

// Conflict is a pod that a source wants and that must wait for another one.
type Conflict struct {
	Pod    *v1.Pod
	Source string
	// Holder is the UID of the pod in its way.
	Holder types.UID
	Reason string
}

// Conflicts lists the pods that wait for another of the same full name, and
// those that cannot exist since another source uses their UID.
func (t *Table) Conflicts() []Conflict {
	t.mu.RLock()
	defer t.mu.RUnlock()
	var list []Conflict
	for _, uids := range t.names {
		if len(uids) < 2 {
			continue
		}
		same := make([]Pod, 0, len(uids))
		for _, uid := range uids {
			same = append(same, t.pods[uid].Pod)
		}
		slices.SortFunc(same, order)
		for _, p := range same[1:] {
			list = append(list, Conflict{Pod: p.Pod, Source: p.Source, Holder: same[0].Pod.UID,
				Reason: fmt.Sprintf("pod %s/%s (uid %s) from source %q has the same name", same[0].Pod.Namespace, same[0].Pod.Name, same[0].Pod.UID, same[0].Source)})
		}
	}
	for r, pod := range t.rejected {
		list = append(list, Conflict{Pod: pod, Source: r.source, Holder: r.uid,
			Reason: fmt.Sprintf("uid %s is in use by source %q", r.uid, t.pods[r.uid].Source)})
	}
	slices.SortFunc(list, func(a, b Conflict) int {
		return order(Pod{Pod: a.Pod, Source: a.Source}, Pod{Pod: b.Pod, Source: b.Source})
	})
	return list
}

// Synced says whether every source has reported once. Before that, an unknown
// pod may be one whose source is slow: it must not be touched.
func (t *Table) Synced() bool {
	select {
	case <-t.synced:
		return true
	default:
		return false
	}
}

// SyncedC is closed when every source has reported once.
func (t *Table) SyncedC() <-chan struct{} { return t.synced }

// Unsynced names the sources that have not reported yet, sorted.
func (t *Table) Unsynced() []string {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return slices.Sorted(maps.Keys(t.waiting))
}

// order sorts the pods of one full name; see ByName.
func order(a, b Pod) int {
	if a.Removed != b.Removed {
		return boolFirst(a.Removed)
	}
	if x, y := a.Pod.DeletionTimestamp != nil, b.Pod.DeletionTimestamp != nil; x != y {
		return boolFirst(x)
	}
	if x, y := rank(a.Source), rank(b.Source); x != y {
		return x - y
	}
	if c := a.Pod.CreationTimestamp.Compare(b.Pod.CreationTimestamp.Time); c != 0 {
		return c
	}
	if a.Pod.UID < b.Pod.UID {
		return -1
	} else if a.Pod.UID > b.Pod.UID {
		return 1
	}
	return 0
}

func boolFirst(a bool) int {
	if a {
		return -1
	}
	return 1
}

func rank(source string) int {
	switch source {
	case podspec.SourceFile:
		return 0
	case podspec.SourceHTTP:
		return 1
	default:
		return 2
	}
}

// stamp adds the annotations by which every pod says where it comes from and
// when this agent first saw it. The pod is not shared yet, or (a static pod
// that the table had before) has them already and is not written to.
func stamp(pod *v1.Pod, source string, old *v1.Pod) {
	if pod.Annotations == nil {
		pod.Annotations = make(map[string]string, 2)
	}
	if pod.Annotations[podspec.SourceAnnotation] != source {
		pod.Annotations[podspec.SourceAnnotation] = source
	}
	switch {
	case old != nil && old.Annotations[podspec.SeenAnnotation] != "":
		pod.Annotations[podspec.SeenAnnotation] = old.Annotations[podspec.SeenAnnotation]
	case source == podspec.SourceAPI || pod.Annotations[podspec.SeenAnnotation] == "":
		// What a user wrote there would be mistaken for our own mark.
		pod.Annotations[podspec.SeenAnnotation] = time.Now().Format(time.RFC3339Nano)
	}
}
