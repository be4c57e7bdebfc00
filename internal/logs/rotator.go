package logs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"kubelet/internal/observed"
)

// Runtime writes the logs.
type Runtime interface {
	// ReopenContainerLog makes the runtime open the container's log by its
	// name again, creating it, and close the file that it wrote to. Idempotent.
	ReopenContainerLog(ctx context.Context, id string) error
}

// Links keeps the links to logs (package criconfig).
type Links interface {
	// UnlinkTarget removes the links of the pod's container that lead to a
	// log that was removed.
	UnlinkTarget(namespace, pod, container, target string) error
}

// Pods is what the runtime has (package observed).
type Pods interface {
	Table
	List() map[types.UID]observed.Pod
}

// RotatorConfig is what a Rotator is made of.
type RotatorConfig struct {
	Runtime Runtime
	Table   Pods
	Links   Links
	// PodLogsDir is the directory of all pods' logs (/var/log/pods).
	PodLogsDir string
	// MaxSize in bytes at which a log is rotated (containerLogMaxSize); a
	// negative one means never.
	MaxSize int64
	// MaxFiles of one container, the one being written to included, at least
	// 2 (containerLogMaxFiles).
	MaxFiles int
	// Workers is how many files are compressed at a time
	// (containerLogMaxWorkers). Renaming and reopening wait for none of them.
	Workers int
	// MonitorInterval is how long a log that is written to may be left alone
	// at most, and how often each is looked at where inotify is exhausted
	// (containerLogMonitorInterval).
	MonitorInterval time.Duration
}

const (
	// reopenings is how many calls to the runtime are under way at a time.
	reopenings = 16
	// firstRetry of a rotation that failed; doubled up to MonitorInterval.
	firstRetry = time.Second
	// reopenDeadline bounds a call to the runtime. Until it answers, the
	// container goes on writing to the file that was renamed.
	reopenDeadline = 10 * time.Second
)

// Rotator keeps the logs of running containers small, and removes those of
// containers that are gone. One goroutine owns all of its state; what may take
// time is done by jobs that it starts and whose results it receives.
type Rotator struct {
	RotatorConfig
	watch    watch
	blind    bool // no inotify
	logs     map[string]*rotated
	pods     map[types.UID][]attempt // as they were when last tidied
	jobs     sync.WaitGroup
	results  chan func()
	reopens  chan struct{}
	zips     chan struct{}
	zippers  sync.Pool
	now      func() time.Time
	ctx      context.Context
	shutdown context.Context // a little longer than ctx

	mu      sync.Mutex
	changed map[types.UID]bool
	touched map[string]bool // container ids whose log inotify told of
	wake    chan struct{}
}

// rotated is one log under watch.
type rotated struct {
	uid  types.UID
	id   string // of the container
	name string // of the container
	path string
	pod  klog.ObjectRef

	forecast
	waiter *waiter
	wd     int32
	armed  bool
	// next is when to look; zero while inotify watches.
	next time.Time
	// busy says that a job renames or reopens, zipping that one compresses.
	busy, zipping bool
	// zipMore says that there is more to compress than when it began.
	zipMore bool
	// half says that the runtime may still write to the renamed file.
	half     bool
	failures int
	known    bool // mended once
}

// NewRotator returns a Rotator.
func NewRotator(c RotatorConfig) (*Rotator, error) {
	switch {
	case c.Runtime == nil || c.Table == nil || c.Links == nil || c.PodLogsDir == "":
		return nil, errors.New("Runtime, Table, Links and PodLogsDir must be set")
	case c.MaxFiles < 2:
		return nil, fmt.Errorf("MaxFiles is %d, must be at least 2", c.MaxFiles)
	case c.Workers < 1:
		return nil, fmt.Errorf("Workers is %d, must be at least 1", c.Workers)
	case c.MonitorInterval <= 0:
		return nil, fmt.Errorf("MonitorInterval is %s, must be positive", c.MonitorInterval)
	}
	return &Rotator{
		RotatorConfig: c,
		logs:          map[string]*rotated{}, pods: map[types.UID][]attempt{},
		results: make(chan func()), reopens: make(chan struct{}, reopenings), zips: make(chan struct{}, c.Workers),
		zippers: sync.Pool{New: newZipper}, now: time.Now,
		changed: map[types.UID]bool{}, touched: map[string]bool{}, wake: make(chan struct{}, 1),
	}, nil
}

// Wake tells that a pod's containers changed. It never blocks.
func (r *Rotator) Wake(uid types.UID) {
	r.mu.Lock()
	r.changed[uid] = true
	r.mu.Unlock()
	signal(r.wake)
}

// Run watches logs until ctx ends. What a killed kubelet left half done is
// mended first.
func (r *Rotator) Run(ctx context.Context) error {
	select {
	case <-r.Table.Synced():
	case <-ctx.Done():
		return nil
	}
	logger := klog.FromContext(ctx)
	if err := r.watch.join(); err != nil {
		logger.Error(err, "Logs are watched without inotify; raise fs.inotify.max_user_instances", "every", r.MonitorInterval)
		r.blind = true
	} else {
		defer r.watch.leave()
	}
	var cancel context.CancelFunc
	r.ctx = ctx
	r.shutdown, cancel = context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(patience, cancel) })()

	for uid := range r.Table.List() {
		r.pod(uid)
	}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		if next := r.lookAtDue(); next.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(max(next.Sub(r.now()), 0))
		}
		select {
		case <-ctx.Done():
			r.end()
			return nil
		case <-r.wake:
			r.mail()
		case done := <-r.results:
			done()
		case <-timer.C:
		}
	}
}

// patience is how long a clean end waits for calls of the runtime under way.
const patience = 3 * time.Second

// end waits for the jobs under way.
func (r *Rotator) end() {
	ended := make(chan struct{})
	go func() {
		r.jobs.Wait()
		close(ended)
	}()
	for {
		select {
		case <-r.results:
		case <-ended:
			return
		}
	}
}

// mail takes in what others told.
func (r *Rotator) mail() {
	r.mu.Lock()
	changed, touched := r.changed, r.touched
	r.changed, r.touched = map[types.UID]bool{}, map[string]bool{}
	r.mu.Unlock()
	for uid := range changed {
		r.pod(uid)
	}
	for id := range touched {
		if l := r.logs[id]; l != nil && l.next.IsZero() {
			l.armed = false
			// size is that of when it became still.
			l.next = r.now().Add(l.begin(r.now(), l.size))
		}
	}
}

// pod brings what is watched in line with the pod's containers.
func (r *Rotator) pod(uid types.UID) {
	pod := r.Table.Get(uid)
	running := map[string]bool{}
	for i := range pod.Containers {
		c := &pod.Containers[i]
		if c.State != observed.Running {
			continue
		}
		running[c.ID] = true
		if r.MaxSize < 0 || r.logs[c.ID] != nil {
			continue
		}
		l := &rotated{uid: uid, id: c.ID, name: c.Name, path: logPath(r.PodLogsDir, pod.Namespace, pod.Name, uid, c),
			pod: klog.KRef(pod.Namespace, pod.Name), forecast: forecast{limit: r.MaxSize}}
		l.waiter = &waiter{func() {
			r.mu.Lock()
			r.touched[l.id] = true
			r.mu.Unlock()
			signal(r.wake)
		}}
		r.logs[c.ID] = l
		r.mend(l)
	}
	for id, l := range r.logs {
		if l.uid == uid && !running[id] {
			r.disarm(l)
			delete(r.logs, id)
		}
	}
	r.tidy(pod)
}

// lookAtDue looks at the logs whose time has come and returns when the next
// one's comes.
func (r *Rotator) lookAtDue() (next time.Time) {
	now := r.now()
	for _, l := range r.logs {
		if !l.next.IsZero() && !l.busy && !l.next.After(now) {
			r.look(l, now)
		}
		if !l.next.IsZero() && !l.busy && (next.IsZero() || l.next.Before(next)) {
			next = l.next
		}
	}
	return next
}

// look rotates a log that is large enough, or says when to look again.
func (r *Rotator) look(l *rotated, now time.Time) {
	if l.half {
		r.rotate(l)
		return
	}
	info, err := os.Lstat(l.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		// Somebody removed it: what the container writes is lost until the
		// runtime makes a new one.
		r.mend(l)
		return
	case err != nil || !info.Mode().IsRegular():
		// A runtime that rotates by itself shows a link here.
		l.next = time.Time{}
		return
	case info.Size() >= r.MaxSize && info.Size() > 0:
		r.rotate(l)
		return
	}
	if delay := l.look(now, info.Size()); delay > 0 {
		l.next = now.Add(min(delay, r.MonitorInterval))
		return
	}
	r.rest(l, now)
}

// rest leaves a log that does not grow to inotify.
func (r *Rotator) rest(l *rotated, now time.Time) {
	if r.arm(l) {
		l.next = time.Time{}
		// Written to before the watch was there?
		if info, err := os.Lstat(l.path); err == nil && info.Size() == l.size {
			return
		}
		r.disarm(l)
		l.next = now.Add(nextLook)
		return
	}
	l.next = now.Add(r.MonitorInterval)
}

func (r *Rotator) arm(l *rotated) bool {
	if r.blind {
		return false
	}
	wd, err := r.watch.arm(l.path, unix.IN_MODIFY|unix.IN_MOVE_SELF|unix.IN_ATTRIB|unix.IN_DONT_FOLLOW, l.waiter)
	if err != nil {
		return false
	}
	l.wd, l.armed = wd, true
	return true
}

func (r *Rotator) disarm(l *rotated) {
	if l.armed {
		r.watch.disarm(l.wd, l.waiter)
		l.armed = false
	}
}

// job runs f beside the loop, when there is a place for it, and then done in
// the loop.
func (r *Rotator) job(places chan struct{}, f func() (done func())) {
	r.jobs.Go(func() {
		select {
		case places <- struct{}{}:
		case <-r.ctx.Done():
			return
		}
		done := f()
		<-places
		r.results <- done
	})
}

// outcome is what a job found out.
type outcome struct {
	err error
	// half: the runtime may still write to a file that was renamed.
	half bool
	// zip: there are files to compress.
	zip bool
	// foreign: the log is not ours to rotate.
	foreign bool
}

// settle takes the outcome of a job that renames and reopens.
func (r *Rotator) settle(l *rotated, what string, o outcome) {
	now := r.now()
	l.busy, l.half = false, o.half
	if r.logs[l.id] != l {
		return // the container has ended meanwhile
	}
	logger := klog.FromContext(r.ctx).WithValues("pod", l.pod, "podUID", l.uid, "container", l.name)
	if o.err != nil {
		l.failures++
		// A runtime that refuses for long is told of now and then.
		if l.failures&(l.failures-1) == 0 {
			logger.Error(o.err, "Log of container is not rotated, trying again", "action", what, "log", l.path, "failures", l.failures)
		}
		l.next = now.Add(min(firstRetry<<min(l.failures-1, 10), r.MonitorInterval))
		return
	}
	if l.failures > 0 {
		logger.Info("Log of container is rotated again", "log", l.path, "failures", l.failures)
		l.failures = 0
	}
	if o.foreign {
		l.next = time.Time{}
		return
	}
	// The new file is written to already.
	rate := l.rate
	l.begin(now, 0)
	l.rate = rate
	l.next = now.Add(min(l.delay(), firstLook, r.MonitorInterval))
	if o.zip {
		r.zip(l)
	}
}

// rotate renames the log and has the runtime open it anew.
func (r *Rotator) rotate(l *rotated) {
	r.disarm(l)
	l.busy = true
	half := l.half
	r.job(r.reopens, func() func() {
		o := r.turn(l.path, l.id, half)
		return func() { r.settle(l, "rotate", o) }
	})
}

// mend finishes what was begun before.
func (r *Rotator) mend(l *rotated) {
	r.disarm(l)
	l.busy = true
	first := !l.known
	l.known = true
	r.job(r.reopens, func() func() {
		o := r.repair(l.path, l.id, first)
		return func() { r.settle(l, "open anew", o) }
	})
}

// zip compresses what is not, in the background.
func (r *Rotator) zip(l *rotated) {
	if l.zipping {
		l.zipMore = true
		return
	}
	l.zipping = true
	r.job(r.zips, func() func() {
		err := r.compressAll(l.path)
		return func() {
			more := l.zipMore
			l.zipping, l.zipMore = false, false
			if more && r.ctx.Err() == nil {
				r.zip(l)
			}
			if err != nil && r.ctx.Err() == nil {
				klog.FromContext(r.ctx).Error(err, "Rotated log of container is not compressed", "pod", l.pod, "podUID", l.uid, "container", l.name)
			}
		}
	})
}

// attempt is a container's log file by what it belongs to.
type attempt struct {
	container string
	attempt   uint32
}

// tidy removes the logs of a pod's containers that the runtime does not have
// any more, if something changed about that.
func (r *Rotator) tidy(pod observed.Pod) {
	var have []attempt
	for i := range pod.Containers {
		have = append(have, attempt{pod.Containers[i].Name, pod.Containers[i].Attempt})
	}
	before, known := r.pods[pod.UID]
	if pod.Empty() {
		// The pod's whole directory goes with it.
		delete(r.pods, pod.UID)
		return
	}
	if known && !slices.ContainsFunc(before, func(a attempt) bool { return !slices.Contains(have, a) }) {
		r.pods[pod.UID] = have
		return
	}
	r.pods[pod.UID] = have
	newest := map[string]uint32{}
	for _, a := range have {
		newest[a.container] = max(newest[a.container], a.attempt)
	}
	// Attempts that are older than one that is there cannot come again.
	for name := range maps.Clone(newest) {
		if newest[name] == 0 {
			delete(newest, name)
		}
	}
	if len(newest) == 0 {
		return
	}
	r.job(r.reopens, func() func() {
		err := r.removeDead(pod, newest, have)
		return func() {
			if err != nil && r.ctx.Err() == nil {
				klog.FromContext(r.ctx).Error(err, "Logs of containers that are gone stay", "pod", klog.KRef(pod.Namespace, pod.Name), "podUID", pod.UID)
			}
		}
	})
}
