// Package userns gives pods with hostUsers: false ranges of user and group ids
// of their own (https://kubernetes.io/docs/concepts/workloads/pods/user-namespaces/,
// KEP-127), such that no two pods of the node share an id.
//
// What pod has which range is written in a file of the pod's directory, in
// upstream's form, and read back from there: the range lives as long as the
// directory. A file that is lost or damaged is made anew from the mapping that
// the kernel has of the pod's sandbox. The package owns these files and reads
// /proc/<pid>/uid_map.
package userns

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
)

// Unit is what the length of every range is a multiple of: programs expect
// ids up to 65535 to exist.
const Unit = 65536

// fileName is the file in the pod's directory.
const fileName = "userns"

// Range is a set of ids of the node: Length of them from First.
type Range struct {
	First, Length uint32
}

// end is the first id after the range.
func (r Range) end() uint64 { return uint64(r.First) + uint64(r.Length) }

func (r Range) String() string { return fmt.Sprintf("%d-%d", r.First, r.end()-1) }

func (r Range) overlaps(o Range) bool {
	return uint64(r.First) < o.end() && uint64(o.First) < r.end()
}

// Config says what ranges there are.
type Config struct {
	// PodsDir holds a directory for each pod, named by its UID.
	PodsDir string
	// Ids are the node's that pods may have, and PerPod how many one gets
	// (userNamespaces.idsPerPod).
	IDs    Range
	PerPod uint32
	// MaxPods that may run at once; there has to be a range for each.
	MaxPods int32
	// SandboxPid is the first process of the pod's sandbox, 0 if none is
	// known to run.
	SandboxPid func(types.UID) int
	// ProcDir is where procfs is mounted; /proc if empty.
	ProcDir string
}

// Allocator gives out ranges. It is safe for concurrent use.
type Allocator struct {
	config Config

	// mu is held while the small files of pods are read and written: what
	// one pod gets depends on what all others have.
	mu sync.Mutex
	// held are the ranges of pods whose directory existed when it was looked
	// at last.
	held map[types.UID]Range
	// hostUsers are pods that run without a range, for good.
	hostUsers map[types.UID]bool
}

// New checks that the ids suffice.
func New(c Config) (*Allocator, error) {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.PodsDir == "" || c.SandboxPid == nil {
		bad("PodsDir or SandboxPid is not set")
	}
	if c.PerPod == 0 || c.PerPod%Unit != 0 {
		bad("%d ids per pod is not a multiple of %d", c.PerPod, Unit)
	}
	if len(errs) == 0 {
		switch {
		case c.IDs.First < c.PerPod:
			bad("the ids %v begin below %d: the first %d are the node's own", c.IDs, c.PerPod, c.PerPod)
		case c.IDs.First%c.PerPod != 0 || c.IDs.Length%c.PerPod != 0:
			bad("the ids %v do not begin at a multiple of %d ids, or are not as many", c.IDs, c.PerPod)
		case c.IDs.end() > 1<<32:
			bad("the ids %v exceed 32 bits", c.IDs)
		case int64(c.IDs.Length/c.PerPod) < int64(c.MaxPods):
			bad("the ids %v are enough for %d pods of %d each, and maxPods is %d", c.IDs, c.IDs.Length/c.PerPod, c.PerPod, c.MaxPods)
		}
	}
	if len(errs) > 0 {
		return nil, fmt.Errorf("set up user namespaces: %w", errors.Join(errs...))
	}
	if c.ProcDir == "" {
		c.ProcDir = "/proc"
	}
	return &Allocator{config: c, held: map[types.UID]Range{}, hostUsers: map[types.UID]bool{}}, nil
}

// Mapping returns the pod's mapping, giving it a range if it has none yet. The
// pod's directory is made if need be. Asked again, also by a later kubelet, it
// gives the same mapping.
func (a *Allocator) Mapping(ctx context.Context, pod types.UID) (*runtimeapi.UserNamespace, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r, err := a.rangeOf(ctx, pod)
	if err != nil {
		return nil, err
	}
	ids := func() []*runtimeapi.IDMapping {
		return []*runtimeapi.IDMapping{{ContainerId: 0, HostId: r.First, Length: r.Length}}
	}
	return &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: ids(), Gids: ids()}, nil
}

func (a *Allocator) rangeOf(ctx context.Context, pod types.UID) (Range, error) {
	if pod == "" || pod == "." || !filepath.IsLocal(string(pod)) || filepath.Base(string(pod)) != string(pod) {
		return Range{}, fmt.Errorf("pod UID %q cannot be the name of a directory", pod)
	}
	r, from := a.find(ctx, pod)
	held, ok := a.held[pod]
	if ok {
		if from == inFile && r == held {
			return held, nil
		}
		return held, a.write(pod, held)
	}
	if err := a.look(ctx); err != nil {
		return Range{}, err
	}
	switch found := from != nowhere && a.hold(ctx, pod, r); {
	case found && from == inFile:
		return r, nil
	case !found:
		var err error
		if r, err = a.free(pod); err != nil {
			return Range{}, err
		}
	}
	if err := a.write(pod, r); err != nil {
		return Range{}, err
	}
	a.held[pod] = r
	return r, nil
}

// hold enters a range that was found. Where files say that two pods share
// ids, one that does not run has to give way: it gets others at its start. A
// namespace that exists cannot be changed.
func (a *Allocator) hold(ctx context.Context, pod types.UID, r Range) bool {
	for other, held := range a.held {
		if other == pod || !held.overlaps(r) {
			continue
		}
		klog.FromContext(ctx).Error(nil, "Two pods have the same user ids on disk", "podUID", pod, "ids", r, "other", other)
		switch {
		case a.config.SandboxPid(pod) <= 0:
			return false
		case a.config.SandboxPid(other) <= 0:
			delete(a.held, other)
		}
	}
	a.held[pod] = r
	return true
}

// look brings held up to date with the pods' directories: those of pods that
// are gone free their ranges, and those of pods of an earlier kubelet are
// read.
func (a *Allocator) look(ctx context.Context) error {
	entries, err := os.ReadDir(a.config.PodsDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("list pod directories: %w", err)
	}
	there := make(map[types.UID]bool, len(entries))
	for _, e := range entries {
		uid := types.UID(e.Name())
		there[uid] = true
		if _, held := a.held[uid]; held || a.hostUsers[uid] || !e.IsDir() {
			continue
		}
		switch r, from := a.find(ctx, uid); {
		case from != nowhere:
			a.hold(ctx, uid, r)
		case a.config.SandboxPid(uid) > 0:
			a.hostUsers[uid] = true
		}
	}
	for uid := range a.held {
		if !there[uid] {
			delete(a.held, uid)
		}
	}
	for uid := range a.hostUsers {
		if !there[uid] {
			delete(a.hostUsers, uid)
		}
	}
	return nil
}

// Where a pod's range was found.
type source int

const (
	nowhere source = iota
	inFile
	inKernel
)

// find reads the pod's range from its file, or if that is missing or cannot be
// read from the kernel. A pod that has one in neither place has no process
// that anybody could collide with.
func (a *Allocator) find(ctx context.Context, pod types.UID) (Range, source) {
	file := filepath.Join(a.config.PodsDir, string(pod), fileName)
	content, err := readFile(file)
	if err == nil {
		var r Range
		if r, err = parse(content); err == nil {
			return r, inFile
		}
	}
	if !errors.Is(err, fs.ErrNotExist) {
		klog.FromContext(ctx).Error(err, "A pod's user namespace file is of no use", "podUID", pod, "file", file)
	}
	pid := a.config.SandboxPid(pod)
	if pid <= 0 {
		return Range{}, nowhere
	}
	content, err = readFile(filepath.Join(a.config.ProcDir, strconv.Itoa(pid), "uid_map"))
	if err != nil {
		return Range{}, nowhere // it has just ended
	}
	r, ok := parseIDMap(string(content))
	if !ok {
		return Range{}, nowhere
	}
	klog.FromContext(ctx).Info("A pod's user namespace was read back from its sandbox", "podUID", pod, "ids", r)
	return r, inKernel
}

// free picks a range that no pod holds. The search begins at a place that
// depends on the pod, so that the ids of a pod that ended, which may still own
// files somewhere, are not at once another's.
func (a *Allocator) free(pod types.UID) (Range, error) {
	slots := a.config.IDs.Length / a.config.PerPod
	if a.config.IDs.end() == 1<<32 {
		slots-- // the last id, (uid_t)-1, is no user
	}
	taken := make(map[uint32]bool, len(a.held))
	for _, r := range a.held {
		if !r.overlaps(a.config.IDs) {
			continue
		}
		first := max(r.First, a.config.IDs.First) - a.config.IDs.First
		last := min(r.end(), a.config.IDs.end()) - 1 - uint64(a.config.IDs.First)
		for slot := first / a.config.PerPod; uint64(slot) <= last/uint64(a.config.PerPod); slot++ {
			taken[slot] = true
		}
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(pod)) // never fails
	for i := range slots {
		slot := uint32((uint64(h.Sum32()) + uint64(i)) % uint64(slots))
		if !taken[slot] {
			return Range{First: a.config.IDs.First + slot*a.config.PerPod, Length: a.config.PerPod}, nil
		}
	}
	return Range{}, fmt.Errorf("all %d ranges of user ids are taken by pods of this node; raise the subordinate ids of user %s, or lower maxPods", slots, User)
}

// mappings is the form of the file, upstream's.
type mappings struct {
	UIDs []mapping `json:"uidMappings"`
	GIDs []mapping `json:"gidMappings"`
}

type mapping struct {
	HostID      uint32 `json:"hostId"`
	ContainerID uint32 `json:"containerId"`
	Length      uint32 `json:"length"`
}

// parse reads a file's content.
func parse(content []byte) (Range, error) {
	var m mappings
	if err := json.Unmarshal(content, &m); err != nil {
		return Range{}, fmt.Errorf("decode user namespace: %w", err)
	}
	if len(m.UIDs) != 1 || len(m.GIDs) != 1 || m.UIDs[0] != m.GIDs[0] || m.UIDs[0].ContainerID != 0 {
		return Range{}, errors.New("decode user namespace: not one mapping from id 0 on that users and groups share")
	}
	r := Range{First: m.UIDs[0].HostID, Length: m.UIDs[0].Length}
	// Nothing that is mapped to the node's own ids was ever written here.
	if r.First < Unit || r.Length == 0 || r.end() > 1<<32 {
		return Range{}, fmt.Errorf("decode user namespace: ids %v cannot be a pod's", r)
	}
	return r, nil
}

// parseIDMap reads user_namespaces(7)'s uid_map of a namespace with a single
// mapping from 0 on; that of the node itself maps all ids to themselves.
func parseIDMap(text string) (Range, bool) {
	var inside, outside, length uint64
	if n, err := fmt.Sscan(text, &inside, &outside, &length); err != nil || n != 3 ||
		inside != 0 || outside < Unit || outside > math.MaxUint32 || length == 0 || outside+length > 1<<32 {
		return Range{}, false
	}
	return Range{First: uint32(outside), Length: uint32(length)}, true
}

func (a *Allocator) write(pod types.UID, r Range) error {
	m := []mapping{{HostID: r.First, Length: r.Length}}
	content, err := json.Marshal(mappings{UIDs: m, GIDs: m})
	if err != nil {
		return fmt.Errorf("encode user namespace: %w", err)
	}
	if err := writeFile(filepath.Join(a.config.PodsDir, string(pod)), content); err != nil {
		return fmt.Errorf("write user namespace of pod %s: %w", pod, err)
	}
	return nil
}
