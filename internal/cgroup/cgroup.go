// Package cgroup owns the kubepods part of the node's cgroup tree: the
// kubepods level with the node's allocatable resources, the burstable and
// besteffort levels below it, and one level per pod with the pod's requests
// and limits. Guaranteed pods stand directly below kubepods.
//
// It reads pod specs and the cgroup file system, and writes cgroup
// directories and their limits, by itself (driver cgroupfs) or through
// systemd's D-Bus interface (driver systemd), on cgroup v1 and v2. Names and
// values are those of the upstream kubelet, so that either adopts the tree of
// the other. The cgroups of containers belong to the runtime;
// memory.oom.group is a container's and not touched here.
//
// What has been applied is remembered only to save writes: everything can be
// found again on disk after a restart.
package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/prometheus/client_golang/prometheus"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"kubelet/internal/podspec"
)

// Driver says who makes cgroups. It must be the one that the runtime uses.
type Driver string

// Drivers.
const (
	Cgroupfs Driver = "cgroupfs"
	Systemd  Driver = "systemd"
)

// unifiedRoot is where cgroup v2 is mounted (the only place that systemd and
// the runtimes support).
const unifiedRoot = "/sys/fs/cgroup"

// callTimeout bounds each call whose context has no earlier deadline. systemd
// answers within 30 s or not at all.
const callTimeout = 30 * time.Second

// Config of a Tree.
type Config struct {
	Driver Driver
	// Root is the cgroup below which kubepods is made, as a path from the
	// top of the hierarchies ("" or "/" for the top itself), whatever the
	// driver. It is made if it does not exist.
	Root string
	// PerQOS false leaves all cgroups to the runtime: every call succeeds
	// and does nothing.
	PerQOS bool

	// NodeAllocatable is what pods together may use. Its cpu becomes the
	// weight of the kubepods level; with Enforce, its memory, pid and
	// hugepages entries become limits. Without, limits of an earlier run are
	// lifted.
	NodeAllocatable v1.ResourceList
	Enforce         bool

	// PodPidsLimit bounds the processes of each pod; 0 or less for no limit.
	PodPidsLimit int64
	// CPUCFSQuota enforces CPU limits by quota, per CPUCFSQuotaPeriod
	// (100 ms if zero).
	CPUCFSQuota       bool
	CPUCFSQuotaPeriod time.Duration
	// IgnorePodLevelResources makes spec.resources of a pod count for
	// nothing (feature gate PodLevelResources off).
	IgnorePodLevelResources bool

	// Registerer takes the package's metrics; nil for none.
	Registerer prometheus.Registerer
}

// Tree is the kubepods cgroup tree of a node. Its methods may be called from
// any goroutine; calls about the same pod wait for each other.
type Tree struct {
	config Config
	root   name // the kubepods level
	one    flights
	timing *prometheus.HistogramVec

	mu          sync.Mutex
	base        map[string]string // directories of the kubepods level by v1 controller, "" for v2; nil until started
	controllers map[string]bool
	applied     map[types.UID]string // path of pods whose limits were written by this process
	burstable   uint64               // shares last written, 0 for none
	nodePending bool                 // limits of the kubepods level were refused
}

// New checks the configuration and returns a Tree; nothing is read or written
// before Start.
func New(config Config) (*Tree, error) {
	if config.Driver != Cgroupfs && config.Driver != Systemd {
		return nil, fmt.Errorf("cgroup driver %q: must be %s or %s", config.Driver, Cgroupfs, Systemd)
	}
	if config.CPUCFSQuotaPeriod == 0 {
		config.CPUCFSQuotaPeriod = 100 * time.Millisecond
	}
	if p := config.CPUCFSQuotaPeriod; p < time.Millisecond || p > time.Second {
		return nil, fmt.Errorf("CPU quota period %v: the kernel takes 1ms to 1s", p)
	}
	root, err := parseRoot(config.Root)
	if err != nil {
		return nil, err
	}
	t := &Tree{
		config:  config,
		root:    root.child("kubepods"),
		applied: map[types.UID]string{},
		timing:  newTiming(),
	}
	if config.Registerer != nil {
		if err := config.Registerer.Register(t.timing); err != nil {
			return nil, fmt.Errorf("register cgroup metrics: %w", err)
		}
	}
	return t, nil
}

// Version is 2 on a node with only the unified hierarchy, else 1.
func Version() int {
	if cgroups.IsCgroup2UnifiedMode() {
		return 2
	}
	return 1
}

// Start makes the kubepods and QoS levels, or repairs them. It fails if the
// kernel or the parent cgroup lacks a controller without which limits would
// be ignored silently, or if a level cannot be made. Limits that the kernel
// refuses (memory already above them) are a warning here and are tried again
// by UpdateQoS.
func (t *Tree) Start(ctx context.Context) error {
	if !t.config.PerQOS {
		return nil
	}
	return t.one.do(ctx, "levels", func() error { return t.makeLevels(ctx) })
}

func (t *Tree) makeLevels(ctx context.Context) error {
	base, err := t.create(t.root)
	if err != nil {
		return fmt.Errorf("make cgroup %s: %w", t.root.path(t.config.Driver), err)
	}
	controllers, err := availableControllers(base)
	if err != nil {
		return err
	}
	t.mu.Lock()
	t.base, t.controllers = base, controllers
	t.mu.Unlock()

	t.applyNode(ctx)
	for _, class := range []v1.PodQOSClass{v1.PodQOSBurstable, v1.PodQOSBestEffort} {
		level := t.level(class)
		if _, err := t.create(level); err != nil {
			return fmt.Errorf("make cgroup %s: %w", level.path(t.config.Driver), err)
		}
		if err := t.set(level, qosLimits(class)); err != nil {
			klog.FromContext(ctx).Error(err, "Some limits of a QoS level were refused", "cgroup", level.path(t.config.Driver))
		}
	}
	return nil
}

// applyNode writes the limits of the kubepods level and remembers whether
// that has to be tried again.
func (t *Tree) applyNode(ctx context.Context) {
	limits := nodeLimits(t.config.NodeAllocatable, t.config.Enforce)
	if t.config.Driver == Systemd && Version() == 2 {
		// systemd takes controllers away that no unit asks for; a unit that
		// names its CPUs keeps cpuset for the runtime.
		if cpus, err := cgroups.ReadFile(unifiedRoot, "cpuset.cpus.effective"); err == nil {
			limits.CPUs = strings.TrimSpace(cpus)
		}
	}
	err := t.set(t.root, limits)
	if err != nil {
		klog.FromContext(ctx).Error(err, "Some limits of the kubepods level were refused, trying again when pods change", "cgroup", t.root.path(t.config.Driver))
	}
	t.mu.Lock()
	t.nodePending = err != nil
	t.mu.Unlock()
}

// EnsurePod makes the pod's cgroup with its limits and returns the parent to
// name in the sandbox config: the path from the top of the hierarchies, whose
// last element is a slice for the systemd driver; "" if the runtime owns all
// cgroups. Idempotent; a cgroup that exists gets its limits written once by
// each run of the agent, because the one before may have died in between.
//
// A limit on memory or processes that cannot be written is an error; a
// refused CPU or huge page value is a warning, as a parent outside of the
// kubelet's reach may be narrower. A pod that runs may have been on its way to
// lower limits: a memory limit is not set below what is used. held says that
// the cgroup may allow more than the pod does, so that ResizePod has to follow.
func (t *Tree) EnsurePod(ctx context.Context, pod *v1.Pod) (parent string, held bool, err error) {
	if !t.config.PerQOS {
		return "", false, nil
	}
	if err := checkUID(pod.UID); err != nil {
		return "", false, err
	}
	n := t.level(podspec.QoS(pod)).pod(pod.UID)
	parent = n.path(t.config.Driver)
	err = t.one.do(ctx, string(pod.UID), func() error {
		if !t.started() {
			return errNotStarted
		}
		if t.wasApplied(pod.UID, parent) && t.complete(n) {
			return nil
		}
		if _, err := t.create(n); err != nil {
			return err
		}
		limits := podLimits(pod, t.config)
		held = t.hold(n, &limits, false) != nil
		err := t.set(n, limits)
		if e := (*refused)(nil); errors.As(err, &e) && !e.essential() {
			klog.FromContext(ctx).Error(err, "Some limits of the pod's cgroup were refused", "pod", klog.KObj(pod), "podUID", pod.UID)
			err, held = nil, true
		}
		if err == nil {
			t.noteApplied(pod.UID, parent)
		}
		return err
	})
	if err != nil {
		return "", false, fmt.Errorf("ensure cgroup %s: %w", parent, err)
	}
	return parent, held, nil
}

// RemovePod kills whatever still runs in the pod's cgroup and removes it with
// everything below, at whichever QoS level it is found. It succeeds for a pod
// that has none. Idempotent.
func (t *Tree) RemovePod(ctx context.Context, uid types.UID) error {
	if !t.config.PerQOS {
		return nil
	}
	if err := checkUID(uid); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := t.one.do(ctx, string(uid), func() error {
		if !t.started() {
			return errNotStarted
		}
		t.forget(uid)
		var errs []error
		for _, class := range []v1.PodQOSClass{v1.PodQOSGuaranteed, v1.PodQOSBurstable, v1.PodQOSBestEffort} {
			errs = append(errs, t.destroy(ctx, t.level(class).pod(uid)))
		}
		return errors.Join(errs...)
	})
	if err != nil {
		return fmt.Errorf("remove cgroup of pod %s: %w", uid, err)
	}
	return nil
}

// Pods returns the UIDs of the pods that have a cgroup in any hierarchy,
// sorted.
func (t *Tree) Pods() ([]types.UID, error) {
	if !t.config.PerQOS {
		return nil, nil
	}
	if !t.started() {
		return nil, errNotStarted
	}
	found := map[types.UID]bool{}
	for _, class := range []v1.PodQOSClass{v1.PodQOSGuaranteed, v1.PodQOSBurstable, v1.PodQOSBestEffort} {
		level := t.level(class)
		for _, dir := range t.dirs(level) {
			entries, err := os.ReadDir(dir)
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("list pod cgroups: %w", err)
			}
			for _, e := range entries {
				if uid, ok := level.parsePod(e.Name(), t.config.Driver); ok && e.IsDir() {
					found[uid] = true
				}
			}
		}
	}
	uids := make([]types.UID, 0, len(found))
	for uid := range found {
		uids = append(uids, uid)
	}
	slices.Sort(uids)
	return uids, nil
}

// UpdateQoS gives the burstable level the CPU weight of all burstable pods
// together. pods are those that run or are about to; call it when that set
// changes. It writes only when the value does, and then also retries limits
// of the kubepods level that were refused before.
func (t *Tree) UpdateQoS(ctx context.Context, pods []*v1.Pod) error {
	if !t.config.PerQOS {
		return nil
	}
	shares := burstableShares(pods, t.config.IgnorePodLevelResources)
	err := t.one.do(ctx, "levels", func() error {
		t.mu.Lock()
		started, same, pending := t.base != nil, t.burstable == shares, t.nodePending
		t.mu.Unlock()
		if !started {
			return errNotStarted
		}
		if pending {
			t.applyNode(ctx)
		}
		if same {
			return nil
		}
		if err := t.set(t.level(v1.PodQOSBurstable), Limits{CPUShares: shares}); err != nil {
			return err
		}
		t.mu.Lock()
		t.burstable = shares
		t.mu.Unlock()
		return nil
	})
	if err != nil {
		return fmt.Errorf("update QoS cgroups: %w", err)
	}
	return nil
}

var errNotStarted = errors.New("the cgroup tree is not started")

// level is the parent of the pods of a class.
func (t *Tree) level(class v1.PodQOSClass) name {
	if class == v1.PodQOSGuaranteed {
		return t.root
	}
	return t.root.child(strings.ToLower(string(class)))
}

func (t *Tree) started() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.base != nil
}

func (t *Tree) wasApplied(uid types.UID, path string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.applied[uid] == path
}

func (t *Tree) noteApplied(uid types.UID, path string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.applied[uid] = path
}

func (t *Tree) forget(uid types.UID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.applied, uid)
}

// Root is the kubepods level: its path from the top of the hierarchies.
func (t *Tree) Root() string { return t.root.path(t.config.Driver) }

// PodPath is where the pod's cgroup is or will be: its path from the top of
// the hierarchies, "" if the runtime owns all cgroups.
func (t *Tree) PodPath(pod *v1.Pod) string {
	if !t.config.PerQOS || checkUID(pod.UID) != nil {
		return ""
	}
	return t.level(podspec.QoS(pod)).pod(pod.UID).path(t.config.Driver)
}
