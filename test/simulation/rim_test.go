package simulation

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"kubelet/internal/cri"
	"kubelet/internal/cri/critest"
	"kubelet/internal/criconfig"
	"kubelet/internal/pleg"
	"kubelet/internal/podspec"
	"kubelet/internal/volume"
)

var errInjected = errors.New("injected failure")

// disk is what pods have on the node besides the runtime: volumes (with the
// pod's directory), cgroups and logs.
type disk struct {
	w *world

	mu      sync.Mutex
	volumes map[types.UID]bool
	cgroups map[types.UID]bool
	logs    map[types.UID]bool
}

// change makes one change at the disk on behalf of an agent: as asked, not at
// all, or without an answer.
func (d *disk) change(ctx context.Context, x *wire, call string, uid types.UID, effect func()) error {
	fate := d.w.fate(call, string(uid))
	there, back := time.Duration(fate.IntN(20))*time.Millisecond, time.Duration(fate.IntN(5))*time.Millisecond
	hangs, fails := false, false
	if d.w.faulty() {
		n := fate.IntN(100)
		hangs, fails = n < 2, n < 6
	}
	ctx, release := x.tie(ctx)
	defer release()
	if err := x.travel(ctx, there); err != nil {
		return err
	}
	if hangs {
		d.w.say("disk: %s %s hangs", call, uid)
		<-ctx.Done()
		return ctx.Err()
	}
	if fails {
		d.w.say("disk: %s %s fails", call, uid)
		return errInjected
	}
	d.mu.Lock()
	effect()
	d.mu.Unlock()
	return x.travel(ctx, back)
}

func (d *disk) list(sets ...map[types.UID]bool) []types.UID {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := map[types.UID]bool{}
	for _, s := range sets {
		maps.Copy(all, s)
	}
	return slices.Sorted(maps.Keys(all))
}

func (d *disk) has(set map[types.UID]bool, uid types.UID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return set[uid]
}

// rim is the disk as one agent reaches it: lifecycle's Volumes, Cgroups and
// Logs.
type rim struct {
	*wire
	d *disk
}

// slowVolumes is the annotation of pods whose volumes come before the sandbox.
const slowVolumes = "simulation/slow-volumes"

func (r rim) ObjectsPending(*v1.Pod) bool { return false }

func (r rim) BesideSandbox(pod *v1.Pod) bool { return pod.Annotations[slowVolumes] == "" }

func (r rim) Mount(ctx context.Context, pod *v1.Pod) (volume.Mounts, error) {
	err := r.d.change(ctx, r.wire, "Mount", pod.UID, func() { r.d.volumes[pod.UID] = true })
	return volume.Mounts{}, err
}

func (r rim) Unmount(ctx context.Context, uid types.UID) error {
	return r.d.change(ctx, r.wire, "Unmount", uid, func() {
		r.w.nothingRuns(uid, "volumes are unmounted")
		delete(r.d.volumes, uid)
	})
}

func (r rim) EnsurePod(ctx context.Context, pod *v1.Pod) (string, bool, error) {
	err := r.d.change(ctx, r.wire, "EnsureCgroup", pod.UID, func() {
		r.d.cgroups[pod.UID] = true
		r.d.logs[pod.UID] = true
	})
	return "/kubepods/pod" + string(pod.UID), false, err
}

func (r rim) ResizePod(ctx context.Context, pod *v1.Pod, _ podspec.Amounts, _ bool) (bool, error) {
	err := r.d.change(ctx, r.wire, "ResizeCgroup", pod.UID, func() {})
	return err == nil, err
}

func (r rim) MemoryUsage(*v1.Pod, string) (int64, error) { return 1 << 20, nil }

func (r rim) RemovePod(ctx context.Context, uid types.UID) error {
	return r.d.change(ctx, r.wire, "RemoveCgroup", uid, func() {
		r.w.nothingRuns(uid, "the cgroup is removed")
		delete(r.d.cgroups, uid)
	})
}

func (r rim) LinkLog(criconfig.ContainerLog) error { return nil }

func (r rim) RemoveLogs(uid types.UID) error {
	// It takes no context: a disk that hangs comes back some time.
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	return r.d.change(ctx, r.wire, "RemoveLogs", uid, func() { delete(r.d.logs, uid) })
}

// configs makes request bodies with what the kubelet needs to find its pods
// again, and writes no files.
type configs struct{}

func (configs) RuntimeHandler(context.Context, *v1.Pod) (string, error) { return "", nil }

func (configs) Resources(*v1.Pod, *v1.Container, podspec.Amounts) *runtimeapi.ContainerResources {
	return &runtimeapi.ContainerResources{}
}

func (configs) Sandbox(pod *v1.Pod, attempt uint32, _ string) (*runtimeapi.PodSandboxConfig, error) {
	c := critest.SandboxConfig(pod.Namespace, pod.Name, string(pod.UID), attempt)
	if podspec.IsHostNetwork(pod) {
		c.Linux.SecurityContext = &runtimeapi.LinuxSandboxSecurityContext{
			NamespaceOptions: &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE},
		}
	}
	return c, nil
}

func (configs) Container(_ context.Context, in criconfig.ContainerInput) (*runtimeapi.ContainerConfig, error) {
	c := critest.ContainerConfig(in.Sandbox, in.Container.Name, in.ImageRef, in.Attempt)
	c.Image.UserSpecifiedImage = in.Container.Image
	c.Annotations[cri.AnnotationHash] = podspec.ContainerHash(in.Container)
	c.Annotations[cri.AnnotationRestartCount] = strconv.Itoa(int(in.Attempt))
	return c, nil
}

// exits is pleg.ProcessExits over the runtime's processes.
type exits struct {
	mu      sync.Mutex
	gone    map[int]bool
	watches map[int]map[*process]func()
}

type process struct {
	e   *exits
	pid int
}

func newExits() *exits {
	return &exits{gone: map[int]bool{}, watches: map[int]map[*process]func(){}}
}

// ended is called inside the runtime.
func (e *exits) ended(pid int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.gone[pid] = true
	for _, f := range e.watches[pid] {
		go f()
	}
	delete(e.watches, pid)
}

// Open implements pleg.ProcessExits.
func (e *exits) Open(pid int) (pleg.Process, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.gone[pid] {
		return nil, syscall.ESRCH
	}
	return &process{e, pid}, nil
}

func (p *process) BelongsTo(...string) (bool, error) { return true, nil }

func (p *process) Leads() (bool, error) { return true, nil }

func (p *process) Notify(f func()) error {
	p.e.mu.Lock()
	defer p.e.mu.Unlock()
	if p.e.gone[p.pid] {
		go f()
		return nil
	}
	if p.e.watches[p.pid] == nil {
		p.e.watches[p.pid] = map[*process]func(){}
	}
	p.e.watches[p.pid][p] = f
	return nil
}

func (p *process) Close() {
	p.e.mu.Lock()
	defer p.e.mu.Unlock()
	delete(p.e.watches[p.pid], p)
	if len(p.e.watches[p.pid]) == 0 {
		delete(p.e.watches, p.pid)
	}
}
