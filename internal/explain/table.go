package explain

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// Table holds one entry per pod. Each pod's worker writes its own entry;
// everybody may read.
type Table struct {
	mu      sync.RWMutex
	entries map[types.UID]Entry
	changed chan struct{} // closed and replaced at each change, if anybody took it
	taken   bool
}

// NewTable returns an empty table.
func NewTable() *Table {
	return &Table{entries: map[types.UID]Entry{}, changed: make(chan struct{})}
}

// Set stores the pod's entry. As long as stage and object stay the same,
// Since stays what it was; otherwise it is e.Since, or now if that is zero.
func (t *Table) Set(e Entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	old, ok := t.entries[e.UID]
	switch {
	case ok && old.Stage == e.Stage && old.Object == e.Object:
		e.Since = old.Since
	case e.Since.IsZero():
		e.Since = time.Now()
	}
	if ok && old == e {
		return
	}
	t.entries[e.UID] = e
	t.wake()
}

// Get returns the pod's entry.
func (t *Table) Get(uid types.UID) (Entry, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	e, ok := t.entries[uid]
	return e, ok
}

// Delete drops the entry of a pod that is gone.
func (t *Table) Delete(uid types.UID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.entries[uid]; ok {
		delete(t.entries, uid)
		t.wake()
	}
}

// Snapshot returns all entries by namespace, name and UID.
func (t *Table) Snapshot() []Entry {
	t.mu.RLock()
	list := make([]Entry, 0, len(t.entries))
	for _, e := range t.entries {
		list = append(list, e)
	}
	t.mu.RUnlock()
	slices.SortFunc(list, func(a, b Entry) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.UID, b.UID))
	})
	return list
}

// Changed returns a channel that is closed at the next change. Take it before
// the snapshot, so that no change falls between the two.
func (t *Table) Changed() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.taken = true
	return t.changed
}

// wake closes the channel that somebody waits on. Caller holds mu.
func (t *Table) wake() {
	if t.taken {
		close(t.changed)
		t.changed, t.taken = make(chan struct{}), false
	}
}
