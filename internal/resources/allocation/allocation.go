// Package allocation owns the table of the resources that are allocated to the
// pods of this node (KEP-1287). A pod is run with them, whatever its spec asks
// for by now: the spec of a pod that runs can ask for more than the node has.
//
// It reads the file of an earlier run, of the upstream kubelet as well, and
// writes it in the same format (file.go). admission decides what is allocated;
// the pod's worker enters it.
//
// Upstream has a second file, of what containers were given so far. That is
// read, for what was being changed when the node was handed over; this kubelet
// keeps it with the containers.
package allocation

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"kubelet/internal/podspec"
	"kubelet/internal/volume/bounded"
)

const (
	// pause is how long after a write the next one comes, for what nobody waits
	// for: many pods that start together are written down together. It is short:
	// what is allocated to a pod that was not written down before a kill has to
	// be found elsewhere (worker.Pool.recallAllocation).
	pause = 50 * time.Millisecond
	// patience bounds such a write.
	patience = 10 * time.Second
)

// Resources are what is allocated to one pod. The names in JSON are those of
// the upstream kubelet's file.
type Resources struct {
	// Containers by name, init containers included.
	Containers map[string]v1.ResourceRequirements `json:"ContainerResources"`
	// Pod are its own resources, if it has any.
	Pod *v1.ResourceRequirements `json:"PodLevelResources"`
}

// entry is a pod in the table. spec and applied are the last pair that Apply
// was asked for.
type entry struct {
	Resources
	spec, applied *v1.Pod
}

// Config of a Table.
type Config struct {
	// Dir is the kubelet's root directory.
	Dir string
	// Synced is closed when all sources have reported; what is allocated to
	// pods that Exists does not know then is forgotten.
	Synced <-chan struct{}
	Exists func(types.UID) bool
}

// Table is the table. Its methods may be called from any goroutine.
type Table struct {
	config         Config
	path, actuates string
	calls          bounded.Calls
	wake           chan struct{}

	mu   sync.Mutex
	pods map[types.UID]*entry
	// actuated is what upstream's second file has; outdated: it has more.
	actuated map[types.UID]Resources
	outdated bool
	// proposed are written down, but not yet known to be.
	proposed map[types.UID]Resources
}

// New reads what an earlier run has left. A file that cannot be used is an
// error beside a table that lacks it: what is allocated to the pods that run
// is then what their containers tell or their specs ask for.
func New(config Config) (*Table, error) {
	t := &Table{
		config: config, wake: make(chan struct{}, 1),
		path: filepath.Join(config.Dir, fileName), actuates: filepath.Join(config.Dir, actuatedName),
		pods: map[types.UID]*entry{}, proposed: map[types.UID]Resources{},
	}
	entries, err := readIfAny(t.path)
	for uid, r := range entries {
		t.pods[uid] = &entry{Resources: r}
	}
	actuated, actuatedErr := readIfAny(t.actuates)
	t.actuated = actuated
	return t, errors.Join(err, actuatedErr)
}

// of are the resources that a pod asks for.
func of(pod *v1.Pod) Resources {
	r := Resources{Containers: map[string]v1.ResourceRequirements{}, Pod: pod.Spec.Resources.DeepCopy()}
	podspec.EachContainer(pod, func(c *v1.Container, kind podspec.Kind) bool {
		if kind != podspec.Ephemeral {
			r.Containers[c.Name] = *c.Resources.DeepCopy()
		}
		return true
	})
	return r
}

// Actuated returns the pod with the resources that the upstream kubelet had
// given its containers when it handed the node over; nil if it wrote down
// nothing of it.
func (t *Table) Actuated(pod *v1.Pod) *v1.Pod {
	t.mu.Lock()
	defer t.mu.Unlock()
	r, ok := t.actuated[pod.UID]
	if !ok {
		return nil
	}
	return r.apply(pod)
}

// Knows says whether a pod is in the table.
func (t *Table) Knows(uid types.UID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pods[uid] != nil
}

// Accept enters a pod with what its spec asks for, unless it is in the table.
func (t *Table) Accept(pod *v1.Pod) {
	t.mu.Lock()
	_, known := t.pods[pod.UID]
	if !known {
		t.pods[pod.UID] = &entry{Resources: of(pod)}
	}
	t.mu.Unlock()
	if !known {
		t.signal()
	}
}

// Allocate gives a pod what its spec asks for. It is in the file when Allocate
// returns nil, and in the table only then. After an error either may stand in
// the file. Idempotent.
func (t *Table) Allocate(ctx context.Context, pod *v1.Pod) error {
	r := of(pod)
	t.mu.Lock()
	t.proposed[pod.UID] = r
	t.mu.Unlock()
	err := t.save(ctx)
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.proposed, pod.UID)
	if err != nil {
		t.signal() // to take it back
		return fmt.Errorf("allocate resources: %w", err)
	}
	t.pods[pod.UID] = &entry{Resources: r}
	if _, ok := t.actuated[pod.UID]; ok {
		// Upstream, if it comes back, would make the change once more.
		delete(t.actuated, pod.UID)
		t.outdated = true
		t.signal()
	}
	return nil
}

// Apply returns the pod with its allocated resources: the same pod if they are
// those of its spec, or if it is not in the table. Asked again for the same
// version of a pod it returns the same.
func (t *Table) Apply(pod *v1.Pod) *v1.Pod {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.pods[pod.UID]
	if e == nil {
		return pod
	}
	if e.spec != pod {
		e.spec, e.applied = pod, e.apply(pod)
	}
	return e.applied
}

func (r *Resources) apply(pod *v1.Pod) *v1.Pod {
	asks := of(pod)
	kept := Resources{Containers: maps.Clone(asks.Containers), Pod: r.Pod}
	for name := range asks.Containers {
		if has, ok := r.Containers[name]; ok {
			kept.Containers[name] = has
		}
	}
	if equality.Semantic.DeepEqual(asks, kept) {
		return pod
	}
	pod = pod.DeepCopy()
	pod.Spec.Resources = kept.Pod.DeepCopy()
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			has := kept.Containers[list[i].Name]
			list[i].Resources = *has.DeepCopy()
		}
	}
	return pod
}

// Forget drops a pod that has left the node.
func (t *Table) Forget(uid types.UID) {
	t.mu.Lock()
	_, known := t.pods[uid]
	delete(t.pods, uid)
	t.mu.Unlock()
	if known {
		t.signal()
	}
}

func (t *Table) signal() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// Run writes what nobody waits for until ctx ends, once more then.
func (t *Table) Run(ctx context.Context) error {
	synced := t.config.Synced
	last := false
	for {
		select {
		case <-synced:
			synced = nil
			t.prune()
			continue
		case <-t.wake:
		case <-ctx.Done():
			last = true
			select {
			case <-t.wake:
			default:
				return nil
			}
		}
		bound, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		if err := errors.Join(t.save(bound), t.saveActuated(bound)); err != nil {
			klog.FromContext(ctx).Error(err, "Allocated resources cannot be written down, trying again")
			t.signal()
		}
		cancel()
		if last {
			return nil
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

// prune forgets pods that have gone while no kubelet ran.
func (t *Table) prune() {
	t.mu.Lock()
	before := len(t.pods)
	maps.DeleteFunc(t.pods, func(uid types.UID, _ *entry) bool { return !t.config.Exists(uid) })
	gone := before - len(t.pods)
	t.mu.Unlock()
	if gone > 0 {
		t.signal()
	}
}

// save writes the table with what is proposed.
func (t *Table) save(ctx context.Context) error { return t.replace(ctx, t.path, t.snapshot) }

// saveActuated takes from upstream's second file what is not true any more.
func (t *Table) saveActuated(ctx context.Context) error {
	t.mu.Lock()
	outdated := t.outdated
	t.mu.Unlock()
	if !outdated {
		return nil
	}
	written := 0
	err := t.replace(ctx, t.actuates, func() map[types.UID]Resources {
		t.mu.Lock()
		defer t.mu.Unlock()
		written = len(t.actuated)
		return maps.Clone(t.actuated)
	})
	if err == nil {
		t.mu.Lock()
		t.outdated = len(t.actuated) < written
		t.mu.Unlock()
	}
	return err
}

// replace writes a file anew. A write that was begun before does not count.
func (t *Table) replace(ctx context.Context, path string, entries func() map[types.UID]Resources) error {
	for {
		ours := false
		err := t.calls.Do(ctx, path, "write of "+path, func() error {
			ours = true
			return write(path, entries())
		})
		if err != nil || ours {
			return err
		}
	}
}

func (t *Table) snapshot() map[types.UID]Resources {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make(map[types.UID]Resources, len(t.pods)+len(t.proposed))
	for uid, e := range t.pods {
		all[uid] = e.Resources
	}
	maps.Copy(all, t.proposed)
	return all
}
