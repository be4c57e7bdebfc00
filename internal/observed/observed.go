// Package observed owns the table of what the runtime really has: per pod UID
// the sandboxes and containers, as the runtime last told. Only the pod
// lifecycle event generator (package pleg) writes it; everybody else reads
// snapshots. A snapshot is never changed after it was stored.
package observed

import (
	"maps"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// ContainerState is a container's state as the runtime names it.
type ContainerState int

// States of a container.
const (
	Unknown ContainerState = iota
	Created
	Running
	Exited
)

func (s ContainerState) String() string {
	return [...]string{"unknown", "created", "running", "exited"}[s]
}

// Container is one container in the runtime, dead ones included.
type Container struct {
	ID        string
	Name      string
	SandboxID string
	State     ContainerState

	CreatedAt  time.Time
	StartedAt  time.Time // zero until started
	FinishedAt time.Time // zero until exited

	// Exit of a container in state Exited, as the runtime told it.
	ExitCode int32
	Reason   string // "OOMKilled", "Error", "Completed", or what the runtime says
	Message  string // termination message, already cut to the API's limits

	Image    string // as the user named it
	ImageRef string // status.imageID
	ImageID  string // runtime's own id

	// Attempt is how often a container of this name was created in this pod
	// before (0 for the first): the restart count.
	Attempt uint32
	// Hash is the io.kubernetes.container.hash annotation.
	Hash        string
	Annotations map[string]string
	LogPath     string
	// StopSignal that ends the container, as SIGTERM; empty if the runtime
	// does not say.
	StopSignal v1.Signal
	// Pid of the first process, 0 if unknown or not running.
	Pid int

	// User is who the first process runs as; nil if the runtime does not tell.
	User *User
	// Resources are those in force, as far as the runtime tells.
	Resources Resources
	// RecursiveReadOnly lists the paths of mounts in the container that are
	// read-only with all that is mounted below them.
	RecursiveReadOnly []string
}

// User is a process's identity in its container.
type User struct {
	UID, GID int64
	// Groups are the supplementary ones, in the runtime's order.
	Groups []int64
}

// Resources are limits and weights of a container as its cgroup has them; a
// zero is not told.
type Resources struct {
	CPUShares int64
	// CPUQuota of CPUPeriod, both in microseconds.
	CPUQuota, CPUPeriod int64
	// MemoryLimit in bytes.
	MemoryLimit int64
}

// Sandbox is one pod sandbox in the runtime.
type Sandbox struct {
	ID        string
	Ready     bool
	CreatedAt time.Time
	Attempt   uint32
	// IPs as the runtime reports them; empty for the host's network.
	IPs            []string
	RuntimeHandler string
	HostNetwork    bool
	Annotations    map[string]string
	Pid            int
	// Image of the sandbox's own container; "" if the runtime does not tell.
	Image string
}

// Pod is what the runtime has of one pod.
type Pod struct {
	UID       types.UID
	Name      string
	Namespace string
	// Sandboxes and Containers, each newest first (by attempt, then creation).
	Sandboxes  []Sandbox
	Containers []Container
	// At is when the runtime was asked for the oldest part of this answer.
	At time.Time
	// Revision grows with each stored change of this pod.
	Revision uint64
}

// Empty says whether the runtime has nothing of the pod.
func (p Pod) Empty() bool { return len(p.Sandboxes) == 0 && len(p.Containers) == 0 }

// Latest returns the newest container of that name, or nil.
func (p Pod) Latest(name string) *Container {
	for i := range p.Containers {
		if p.Containers[i].Name == name {
			return &p.Containers[i]
		}
	}
	return nil
}

// ReadySandbox returns the newest sandbox if it is ready, or nil.
func (p Pod) ReadySandbox() *Sandbox {
	if len(p.Sandboxes) > 0 && p.Sandboxes[0].Ready {
		return &p.Sandboxes[0]
	}
	return nil
}

// Running counts containers that run or whose state is unknown.
func (p Pod) Running() int {
	n := 0
	for i := range p.Containers {
		if s := p.Containers[i].State; s == Running || s == Unknown {
			n++
		}
	}
	return n
}

// MayRunIn says whether a container that has not ended is in that sandbox.
func (p Pod) MayRunIn(sandboxID string) bool {
	for i := range p.Containers {
		if c := &p.Containers[i]; c.SandboxID == sandboxID && c.State != Exited {
			return true
		}
	}
	return false
}

// Table is the store. The zero value is not usable; see NewTable.
type Table struct {
	mu      sync.RWMutex
	pods    map[types.UID]Pod
	changed func(types.UID)
	synced  chan struct{}
}

// NewTable returns an empty table. changed, if not nil, is called after each
// stored change, outside of the table's lock; it must not block.
func NewTable(changed func(types.UID)) *Table {
	return &Table{pods: map[types.UID]Pod{}, changed: changed, synced: make(chan struct{})}
}

// Get returns the pod's snapshot; a pod that the runtime does not have is
// empty.
func (t *Table) Get(uid types.UID) Pod {
	t.mu.RLock()
	defer t.mu.RUnlock()
	p, ok := t.pods[uid]
	if !ok {
		p.UID = uid
	}
	return p
}

// List returns all pods by UID. The map is the caller's.
func (t *Table) List() map[types.UID]Pod {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return maps.Clone(t.pods)
}

// Synced is closed once a full list of the runtime has been stored: before
// that, an absent pod is unknown rather than absent.
func (t *Table) Synced() <-chan struct{} { return t.synced }

// MarkSynced is called by the writer after each full list.
func (t *Table) MarkSynced() {
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case <-t.synced:
	default:
		close(t.synced)
	}
}

// Set stores what the runtime has of one pod, unless a later answer is stored
// already; an empty pod is removed. It reports whether p was taken.
func (t *Table) Set(p Pod) bool {
	t.mu.Lock()
	old, had := t.pods[p.UID]
	if had && p.At.Before(old.At) {
		t.mu.Unlock()
		return false
	}
	if p.Empty() {
		delete(t.pods, p.UID)
	} else {
		p.Revision = old.Revision + 1
		t.pods[p.UID] = p
	}
	changed := t.changed
	t.mu.Unlock()
	if changed != nil && (had || !p.Empty()) {
		changed(p.UID)
	}
	return true
}
