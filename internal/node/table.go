package node

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/client-go/tools/cache"
)

// table holds the newest Node object. Objects in it are never modified.
type table struct {
	changed func(*v1.Node)

	mu sync.Mutex
	// server is the object as the API server has it, nil if it has none or
	// has not been asked.
	server *v1.Node
	// local has the newest generated status, and the metadata and spec that it
	// was generated from.
	local *v1.Node
	// current is what readers see: the server's metadata and spec, the local
	// status.
	current *v1.Node

	once  sync.Once
	known chan struct{}
}

func newTable(changed func(*v1.Node)) *table {
	if changed == nil {
		changed = func(*v1.Node) {}
	}
	return &table{changed: changed, known: make(chan struct{})}
}

func (t *table) node() *v1.Node {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.current
}

func (t *table) serverNode() *v1.Node {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.server
}

func (t *table) isKnown() bool {
	select {
	case <-t.known:
		return true
	default:
		return false
	}
}

func (t *table) waitKnown(ctx context.Context) error {
	select {
	case <-t.known:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the node object: %w", ctx.Err())
	}
}

// noServer says that the local object is all there will ever be.
func (t *table) noServer() { t.once.Do(func() { close(t.known) }) }

// setLocal takes a newly generated object.
func (t *table) setLocal(node *v1.Node) {
	t.mu.Lock()
	t.local = node
	t.combineLocked()
}

// setServer takes the object as the API server has it, unless a newer one is
// known.
func (t *table) setServer(node *v1.Node) {
	t.mu.Lock()
	if t.server != nil && t.server.UID == node.UID {
		order, err := resourceversion.CompareResourceVersion(node.ResourceVersion, t.server.ResourceVersion)
		if err == nil && order < 0 {
			t.mu.Unlock()
			return
		}
	}
	t.server = node
	t.once.Do(func() { close(t.known) })
	t.combineLocked()
}

// removed says that the API server had no such object at a resource version.
// That is no news if a newer object is known: a list that began before the node
// was registered ends after it. What was known of a removed object goes on to be
// true for the pods of this node.
func (t *table) removed(version string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.server != nil {
		order, err := resourceversion.CompareResourceVersion(version, t.server.ResourceVersion)
		if err == nil && order < 0 {
			return
		}
	}
	t.server = nil
	t.once.Do(func() { close(t.known) })
}

// combineLocked releases the lock.
func (t *table) combineLocked() {
	before := t.current
	switch {
	case t.server == nil:
		t.current = t.local
	case t.local == nil:
		t.current = t.server
	default:
		combined := *t.server
		combined.Status = t.local.Status
		t.current = &combined
	}
	now := t.current
	t.mu.Unlock()
	if before != nil && differsForPods(before, now) {
		t.changed(now)
	}
}

// differsForPods says whether something that pods or their admission depend
// on changed.
func differsForPods(a, b *v1.Node) bool {
	return a.UID != b.UID || !maps.Equal(a.Labels, b.Labels) || !maps.Equal(a.Annotations, b.Annotations) ||
		a.Spec.Unschedulable != b.Spec.Unschedulable || !slices.Equal(a.Spec.PodCIDRs, b.Spec.PodCIDRs) ||
		!equality.Semantic.DeepEqual(a.Spec.Taints, b.Spec.Taints) ||
		!slices.Equal(a.Status.Addresses, b.Status.Addresses) ||
		a.Status.NodeInfo.ContainerRuntimeVersion != b.Status.NodeInfo.ContainerRuntimeVersion ||
		!equality.Semantic.DeepEqual(a.Status.Features, b.Status.Features) ||
		!equality.Semantic.DeepEqual(a.Status.Allocatable, b.Status.Allocatable)
}

// watch keeps the server's object current until ctx ends. It calls appeared
// when there is one where there was none.
func (t *table) watch(ctx context.Context, listWatch cache.ListerWatcher, name string, appeared func()) {
	cache.NewReflectorWithOptions(listWatch, &v1.Node{}, &oneNode{table: t, name: name, appeared: appeared},
		cache.ReflectorOptions{Name: "node"}).RunWithContext(ctx)
}

// oneNode is a reflector's store for a single object.
type oneNode struct {
	table    *table
	name     string
	appeared func()
}

func (s *oneNode) set(obj any) error {
	node, ok := obj.(*v1.Node)
	if !ok || node.Name != s.name {
		return nil
	}
	isNew := s.table.serverNode() == nil
	s.table.setServer(node)
	if isNew {
		s.appeared()
	}
	return nil
}

// Add takes a new object.
func (s *oneNode) Add(obj any) error { return s.set(obj) }

// Update takes a changed object.
func (s *oneNode) Update(obj any) error { return s.set(obj) }

// Delete says that the object is gone. Its resource version is that of the
// deletion.
func (s *oneNode) Delete(obj any) error {
	if node, ok := obj.(*v1.Node); ok && node.Name == s.name {
		s.table.removed(node.ResourceVersion)
	}
	return nil
}

// Replace takes a list as it was at a resource version.
func (s *oneNode) Replace(list []any, version string) error {
	for _, obj := range list {
		if node, ok := obj.(*v1.Node); ok && node.Name == s.name {
			return s.set(node)
		}
	}
	s.table.removed(version)
	return nil
}

// Resync has nothing to do.
func (s *oneNode) Resync() error { return nil }
