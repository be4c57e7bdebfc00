package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"kubelet/internal/podspec"
	"kubelet/internal/volume/mounttable"
)

// Config is what a Reconciler is made of.
type Config struct {
	// Root is the kubelet's root directory, an absolute path.
	Root string
	// Plugins are asked in order whether they support a volume (package
	// builtin has the list).
	Plugins []Plugin
	// Objects tells whether a pod's objects are there.
	Objects Objects
	// Stale is called when a volume keeps older content because it could
	// not be brought up to date, once per distinct message. May be nil. It
	// must not block.
	Stale func(pod *v1.Pod, err *Error)
}

// Reconciler brings the volumes of pods to their wanted state. Safe for
// concurrent use: calls for one pod run one after another, calls for
// different pods never wait for each other.
type Reconciler struct {
	config  Config
	metrics *metrics

	mu   sync.Mutex
	pods map[types.UID]*podEntry

	tableMu sync.Mutex
	table   *mounttable.Table

	// fault, in tests, is called at each step and may end the work there.
	fault func(verb, path string) error
}

// podEntry is what the reconciler knows of one pod.
type podEntry struct {
	// turn holds a token; who takes it works on the pod.
	turn chan struct{}

	// Guarded by turn.
	dirMade bool
	memos   map[string]*Memo

	// Guarded by Reconciler.mu.
	users   int
	refresh time.Time
	doing   map[string]progress // by volume, "" for the pod as a whole
	volumes map[string]standing // those that a container mounts
}

// progress is the change that is being made right now.
type progress struct {
	verb, path string
	since      time.Time
}

func (p progress) String() string {
	return fmt.Sprintf("%s %s, for %s now", p.verb, p.path, time.Since(p.since).Round(time.Millisecond))
}

// settle is how long work that heeds its context has to put its own words to
// why it ends, before the caller is told what it was doing.
const settle = 100 * time.Millisecond

// New returns a Reconciler. It touches nothing on disk.
func New(c Config) (*Reconciler, error) {
	if !filepath.IsAbs(c.Root) {
		return nil, fmt.Errorf("root directory %q is not an absolute path", c.Root)
	}
	if c.Objects == nil {
		return nil, errors.New("no source of objects")
	}
	return &Reconciler{config: c, metrics: newMetrics(), pods: map[types.UID]*podEntry{}}, nil
}

// Mount brings all volumes that the pod's containers use to their wanted
// state, contents included, and returns where they are. Idempotent, and cheap
// when nothing changed. The error is an *Error, or Errors if several volumes
// are not ready.
//
// A volume that holds whole content but cannot be brought up to date, say
// because the API server is away, does not fail Mount: see Config.Stale and
// NextRefresh.
//
// When ctx ends first the error names what hangs. The work is then given up
// at its next step; the next Mount or Unmount of the pod waits for that.
func (r *Reconciler) Mount(ctx context.Context, pod *v1.Pod) (Mounts, error) {
	if err := checkComponent("pod UID", string(pod.UID)); err != nil {
		return nil, err
	}
	e, err := r.acquire(ctx, pod.UID)
	if err != nil {
		return nil, fmt.Errorf("mount volumes: %w", err)
	}
	type outcome struct {
		mounts Mounts
		err    error
	}
	done := make(chan outcome, 1)
	go func() {
		mounts, err := r.mount(ctx, e, pod)
		r.release(pod.UID, e, false)
		done <- outcome{mounts, err}
	}()
	select {
	case o := <-done:
		return o.mounts, o.err
	case <-ctx.Done():
	}
	select {
	case o := <-done:
		return o.mounts, o.err
	case <-time.After(settle):
		return nil, r.unfinished(ctx, e)
	}
}

// acquire waits for the pod's turn.
func (r *Reconciler) acquire(ctx context.Context, uid types.UID) (*podEntry, error) {
	r.mu.Lock()
	e := r.pods[uid]
	if e == nil {
		e = &podEntry{turn: make(chan struct{}, 1), memos: map[string]*Memo{}, doing: map[string]progress{}}
		e.turn <- struct{}{}
		r.pods[uid] = e
	}
	e.users++
	r.mu.Unlock()

	select {
	case <-e.turn:
		return e, nil
	case <-ctx.Done():
	}
	err := r.unfinished(ctx, e)
	r.mu.Lock()
	e.users--
	r.mu.Unlock()
	return nil, fmt.Errorf("earlier work on the pod's volumes is under way: %w", err)
}

// release ends a turn. forget drops what is known of the pod, unless somebody
// waits for his turn.
func (r *Reconciler) release(uid types.UID, e *podEntry, forget bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if forget {
		e.dirMade, e.refresh = false, time.Time{}
		clear(e.memos)
	}
	if e.users--; e.users == 0 && forget {
		delete(r.pods, uid)
	}
	clear(e.doing)
	e.turn <- struct{}{}
}

// unfinished says what the work on a pod hangs in.
func (r *Reconciler) unfinished(ctx context.Context, e *podEntry) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs Errors
	for name, p := range e.doing {
		if name == "" {
			return fmt.Errorf("%s: %w", p, context.Cause(ctx))
		}
		errs = append(errs, &Error{Volume: name, Err: fmt.Errorf("%s: %w", p, context.Cause(ctx))})
	}
	switch len(errs) {
	case 0:
		return context.Cause(ctx)
	case 1:
		return errs[0]
	}
	return errs
}

// step returns the Step of a piece of work: it notes what is being done and
// stops the work when ctx has ended.
func (r *Reconciler) step(ctx context.Context, e *podEntry, volume string) Step {
	return func(verb, path string) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		r.mu.Lock()
		e.doing[volume] = progress{verb, path, time.Now()}
		r.mu.Unlock()
		if r.fault != nil {
			return r.fault(verb, path)
		}
		return nil
	}
}

// mount does the work of Mount, in its turn.
func (r *Reconciler) mount(ctx context.Context, e *podEntry, pod *v1.Pod) (Mounts, error) {
	dir := r.podDir(pod.UID)
	if !e.dirMade {
		for _, d := range []string{dir, filepath.Join(dir, volumesDir), filepath.Join(dir, pluginsDir)} {
			if err := os.MkdirAll(d, 0o750); err != nil {
				return nil, fmt.Errorf("make pod directory: %w", err)
			}
		}
		e.dirMade = true
	}

	used := usedVolumes(pod)
	mounts := make([]Mount, len(used))
	errs := make([]*Error, len(used))
	one := func(i int) { mounts[i], errs[i] = r.mountOne(ctx, e, pod, dir, used[i]) }
	for _, v := range used {
		if e.memos[v.Name] == nil {
			e.memos[v.Name] = &Memo{asked: time.Now()}
		}
	}
	if len(used) == 1 {
		one(0)
	} else {
		var wg sync.WaitGroup
		for i := range used {
			wg.Go(func() { one(i) })
		}
		wg.Wait()
	}

	out := make(Mounts, len(used))
	var failed Errors
	var refresh time.Time
	now := time.Now()
	for i, v := range used {
		memo := e.memos[v.Name]
		next := memo.Refresh
		switch err := errs[i]; {
		case err == nil:
			memo.failures, memo.message = 0, ""
		case err.Stale:
			next = now.Add(retryAfter(memo.failures))
			memo.failures++
			r.reportStale(ctx, pod, memo, err)
		default:
			failed = append(failed, err)
			continue
		}
		out[v.Name] = mounts[i]
		// What is due already was tried just now.
		if soonest := now.Add(retryAfter(0)); !next.IsZero() && next.Before(soonest) {
			next = soonest
		}
		if !next.IsZero() && (refresh.IsZero() || next.Before(refresh)) {
			refresh = next
		}
	}
	standings := make(map[string]standing, len(used))
	for _, v := range used {
		if p := r.plugin(v); p != nil {
			standings[v.Name] = standing{p.Name(), e.memos[v.Name].Ready}
		}
	}
	r.mu.Lock()
	e.refresh, e.volumes = refresh, standings
	r.mu.Unlock()
	switch len(failed) {
	case 0:
		return out, nil
	case 1:
		return nil, failed[0]
	}
	return nil, failed
}

func (r *Reconciler) mountOne(ctx context.Context, e *podEntry, pod *v1.Pod, podDir string, v *v1.Volume) (Mount, *Error) {
	if err := checkComponent("volume name", v.Name); err != nil {
		return Mount{}, &Error{Volume: v.Name, Permanent: true, Err: err}
	}
	defer func() {
		r.mu.Lock()
		delete(e.doing, v.Name)
		r.mu.Unlock()
	}()
	plugin := r.plugin(v)
	if plugin == nil {
		return Mount{}, &Error{Volume: v.Name, Permanent: true,
			Err: fmt.Errorf("volumes of type %s are not supported yet", sourceName(v))}
	}
	memo := e.memos[v.Name]
	known, begun := memo.Ready, time.Now()
	mount, err := plugin.Mount(ctx, Spec{
		Pod:    pod,
		Volume: v,
		PodDir: podDir,
		Dir:    volumeDir(podDir, plugin, v.Name),
		Memo:   memo,
		Step:   r.step(ctx, e, v.Name),
	})
	if !known {
		r.metrics.operation(plugin, "volume_mount", begun, err)
	}
	if err == nil {
		if !known {
			r.metrics.ready(plugin, memo.asked)
		}
		return mount, nil
	}
	out := Error{Err: err}
	if own, ok := errors.AsType[*Error](err); ok {
		out = *own // the plugin's may be shared
	}
	out.Volume = v.Name
	if errors.Is(err, ErrNoAPIServer) {
		out.Permanent = true
	}
	return mount, &out
}

func (r *Reconciler) plugin(v *v1.Volume) Plugin {
	for _, p := range r.config.Plugins {
		if p.Supports(v) {
			return p
		}
	}
	return nil
}

// retryAfter returns when to try again to bring a stale volume up to date:
// after 5 s, doubling to 160 s. A change of its objects comes before that.
func retryAfter(failures int) time.Duration { return 5 * time.Second << min(failures, 5) }

func (r *Reconciler) reportStale(ctx context.Context, pod *v1.Pod, memo *Memo, err *Error) {
	message := err.Err.Error()
	if memo.message == message {
		return
	}
	memo.message = message
	klog.FromContext(ctx).Info("Volume keeps its older content", "pod", klog.KObj(pod), "podUID", pod.UID, "volume", err.Volume, "err", message)
	if r.config.Stale != nil {
		r.config.Stale(pod, err)
	}
}

// NextRefresh returns when Mount should be called for the pod again even if
// nothing changes: a token is due for renewal, or a volume with older content
// for another try. Zero if there is no such time.
func (r *Reconciler) NextRefresh(uid types.UID) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.pods[uid]; e != nil {
		return e.refresh
	}
	return time.Time{}
}

// BesideSandbox says whether the pod's sandbox may start while its volumes are
// being set up: every volume is of a type that is there at once, and so are
// the objects.
func (r *Reconciler) BesideSandbox(pod *v1.Pod) bool {
	for _, v := range usedVolumes(pod) {
		if p := r.plugin(v); p == nil || !p.Immediate(v) {
			return false
		}
	}
	return r.config.Objects.Cached(pod)
}

// ObjectsPending says whether an object that the pod's volumes need is just
// being read for the first time.
func (r *Reconciler) ObjectsPending(pod *v1.Pod) bool { return r.config.Objects.Pending(pod) }

// OnDisk returns the UIDs of the pods that have a directory.
func (r *Reconciler) OnDisk() ([]types.UID, error) {
	entries, err := os.ReadDir(r.podsDir())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("list pod directories: %w", err)
	}
	uids := make([]types.UID, 0, len(entries))
	for _, e := range entries {
		if e.IsDir() {
			uids = append(uids, types.UID(e.Name()))
		}
	}
	return uids, nil
}

// usedVolumes returns the pod's volumes that a container mounts, in spec
// order. The others are not set up, as upstream does not either.
func usedVolumes(pod *v1.Pod) []*v1.Volume {
	names := map[string]bool{}
	podspec.EachContainer(pod, func(c *v1.Container, _ podspec.Kind) bool {
		for _, m := range c.VolumeMounts {
			names[m.Name] = true
		}
		for _, d := range c.VolumeDevices {
			names[d.Name] = true
		}
		return true
	})
	used := make([]*v1.Volume, 0, len(names))
	for i := range pod.Spec.Volumes {
		if v := &pod.Spec.Volumes[i]; names[v.Name] {
			used = append(used, v)
		}
	}
	return used
}
