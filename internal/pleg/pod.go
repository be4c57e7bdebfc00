package pleg

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"kubelet/internal/observed"
)

// Reads of a pod that failed are repeated after firstRetry, doubling up to
// lastRetry, for as long as they fail.
const (
	firstRetry = 500 * time.Millisecond
	lastRetry  = 30 * time.Second
	// ownActionTime is how long an event that the agent's own action caused
	// waits for the Refresh that the agent makes after it. On a busy node the
	// calls of one action are seconds apart.
	ownActionTime = 3 * time.Second
)

// pod is what the generator keeps of one pod in the runtime.
type pod struct {
	uid types.UID
	// slow: the last call about the pod overran the patience.
	slow atomic.Bool
	// places of the bounded set that the pod may hold at one time.
	places chan struct{}

	// Guarded by Generator.mu.
	next      *round // asked for and not begun
	busy      bool   // a worker goroutine is on it
	begun     time.Time
	confirmed time.Time // when the newest complete answer was asked for
	listed    uint64    // fingerprint of the list behind it
	listedAt  time.Time
	failures  int
	lastErr   error
	hinted    bool // a delayed look after an event is due

	// store guards what follows, and is held while the table is written, so
	// that the pod's writers come one after another. The table's change
	// callback runs under it. Nobody takes it who holds Generator.mu.
	store   sync.Mutex
	stored  bool
	snap    observed.Pod        // as in the table
	unread  map[string]struct{} // ids of which only the list is known
	watches map[string]*watch   // by container or sandbox id
}

// listing is what lists say about one pod.
type listing struct {
	at         time.Time // when the first of them was asked for
	sandboxes  []*runtimeapi.PodSandbox
	containers []*runtimeapi.Container
}

// round is one read of a pod, and whoever waits for it.
type round struct {
	request
	done chan struct{}
	err  error // set before done is closed
}

// request says how a pod is to be read.
type request struct {
	// forced: somebody waits for it, so the table is written even if nothing
	// changed, to say when it was asked.
	forced bool
	// seed is the pod's part of a full list, to be used instead of lists of
	// its own; nil if the answer has to be newer than that.
	seed *listing
	// only names what alone is to be read; nil for the whole pod. A whole
	// read that has not begun covers it.
	only []part
}

// part is one sandbox, or one container of it.
type part struct{ sandboxID, containerID string }

// podLocked returns the pod, a new one if need be.
func (g *Generator) podLocked(uid types.UID) *pod {
	p := g.pods[uid]
	if p == nil {
		p = &pod{uid: uid, confirmed: time.Now(), places: make(chan struct{}, max(1, g.cfg.MaxInFlight/4))}
		g.pods[uid] = p
	}
	return p
}

// ask requests a read of a pod: the one that is asked for already and has not
// begun, or else a new one. It returns nil if Run has ended.
func (g *Generator) ask(uid types.UID, req request) *round {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.askLocked(uid, req)
}

func (g *Generator) askLocked(uid types.UID, req request) *round {
	p := g.podLocked(uid)
	if p.next == nil {
		p.next = &round{request: req, done: make(chan struct{})}
	} else {
		p.next.merge(req)
	}
	r := p.next
	if !p.busy {
		if !g.spawnLocked(func(ctx context.Context) { g.serve(ctx, p) }) {
			return nil
		}
		p.busy = true
	}
	return r
}

// merge makes one request do for two.
func (r *request) merge(other request) {
	r.forced = r.forced || other.forced
	switch {
	case r.only != nil && other.only != nil:
		r.only = append(r.only, other.only...)
		return
	case r.only != nil || other.only != nil:
		// The whole pod, and newer than any list that was made already.
		r.only, r.seed = nil, nil
	}
	if r.seed != nil && (other.seed == nil || other.seed.at.After(r.seed.at)) {
		r.seed = other.seed
	}
}

// serve reads a pod for as long as it is asked to. There is one at most per
// pod, and none for a pod at rest.
func (g *Generator) serve(ctx context.Context, p *pod) {
	for {
		p.store.Lock()
		gone := p.stored && p.snap.Empty()
		p.store.Unlock()
		g.mu.Lock()
		r := p.next
		p.next = nil
		if r == nil {
			p.busy = false
			if gone && p.lastErr == nil {
				delete(g.pods, p.uid)
			}
			g.mu.Unlock()
			return
		}
		p.begun = time.Now()
		g.mu.Unlock()

		err := g.read(ctx, p, r.request)

		g.metrics.podRelist.Observe(time.Since(p.begun).Seconds())
		g.mu.Lock()
		if p.lastErr = err; err == nil {
			p.failures = 0
		} else if ctx.Err() == nil {
			delay := min(firstRetry<<min(p.failures, 10), lastRetry)
			p.failures++
			time.AfterFunc(delay, func() { g.ask(p.uid, request{}) })
			g.log.V(2).Info("Cannot read pod from the runtime, will retry", "podUID", p.uid, "err", err, "failures", p.failures, "after", delay)
		}
		g.mu.Unlock()
		r.err = err
		close(r.done)
	}
}

// hint asks for a read in a moment, unless one that begins later than now
// comes before, or the container or sandbox is known to run, or to have run,
// by then.
func (g *Generator) hint(uid types.UID, id string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.podLocked(uid)
	if p.hinted {
		return
	}
	p.hinted = true
	since := time.Now()
	time.AfterFunc(ownActionTime, func() {
		p.store.Lock()
		c, s := findContainer(&p.snap, id), findSandbox(&p.snap, id)
		known := c != nil && c.State != observed.Created || s != nil
		p.store.Unlock()
		g.mu.Lock()
		defer g.mu.Unlock()
		p.hinted = false
		if g.pods[uid] == p && (known || p.listedAt.After(since)) {
			return
		}
		g.askLocked(uid, request{})
	})
}

// put stores what was read of a pod. A container that ended stays ended,
// whatever an answer says that was asked for before that was known.
func (g *Generator) put(p *pod, now observed.Pod, unread map[string]struct{}, forced bool) {
	p.store.Lock()
	defer p.store.Unlock()
	for i := range now.Containers {
		c := &now.Containers[i]
		if old := findContainer(&p.snap, c.ID); old != nil && old.State == observed.Exited && c.State != observed.Exited {
			*c = *old
			delete(unread, c.ID)
		}
	}
	p.unread = unread
	if forced || !p.stored || !samePod(&now, &p.snap) {
		g.set(p, now)
	}
	g.tidyWatches(p)
}

// putParts stores what was read of parts of a pod, and leaves the rest as it
// was. It returns the fingerprint that a list would have now.
func (g *Generator) putParts(p *pod, at time.Time, r *partsRead) (listed uint64) {
	p.store.Lock()
	defer p.store.Unlock()
	now := p.snap
	now.UID = p.uid
	if now.At.IsZero() {
		now.At = at
	}
	now.Sandboxes, now.Containers = slices.Clone(now.Sandboxes), slices.Clone(now.Containers)
	for _, s := range r.sandboxes {
		if r.name != "" {
			now.Name, now.Namespace = r.name, r.namespace
		}
		if old := findSandbox(&now, s.ID); old != nil {
			*old = s
		} else {
			now.Sandboxes = append(now.Sandboxes, s)
		}
		delete(p.unread, s.ID)
	}
	for _, c := range r.containers {
		delete(p.unread, c.ID)
		switch old := findContainer(&now, c.ID); {
		case old == nil:
			now.Containers = append(now.Containers, c)
		case old.State != observed.Exited: // what ended stays ended
			*old = c
		}
	}
	for _, id := range r.gone {
		delete(p.unread, id)
		now.Containers = slices.DeleteFunc(now.Containers, func(c observed.Container) bool { return c.ID == id })
	}
	sortPod(&now)
	g.set(p, now)
	g.tidyWatches(p)
	return fingerprintOf(&now)
}

// set writes the table. p.store is held.
func (g *Generator) set(p *pod, now observed.Pod) {
	p.stored, p.snap = true, now
	g.table.Set(now)
}

// putExit stores the end of one container. It reports whether the pod's
// snapshot has the container at all.
func (g *Generator) putExit(p *pod, ended observed.Container) bool {
	p.store.Lock()
	defer p.store.Unlock()
	old := findContainer(&p.snap, ended.ID)
	if old == nil {
		return false
	}
	if old.State == observed.Exited {
		return true
	}
	now := p.snap
	now.Containers = append([]observed.Container(nil), p.snap.Containers...)
	*findContainer(&now, ended.ID) = ended
	delete(p.unread, ended.ID)
	g.set(p, now)
	g.tidyWatches(p)
	g.log.V(3).Info("Container ended", "pod", klog.KRef(now.Namespace, now.Name), "podUID", p.uid,
		"container", ended.Name, "containerID", ended.ID, "exitCode", ended.ExitCode, "reason", ended.Reason)
	return true
}
