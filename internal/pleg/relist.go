package pleg

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
)

// relistLoop lists everything from time to time, in case all else missed
// something.
func (g *Generator) relistLoop(ctx context.Context, group *errgroup.Group) error {
	var last time.Time
	known, failing := false, false
	for {
		if !known {
			known = g.findExits(ctx, group)
		}
		begin := time.Now()
		err := g.relist(ctx)
		g.mu.Lock()
		if g.listErr = err; err == nil {
			g.lastList = begin
		}
		g.mu.Unlock()
		g.metrics.lastSeen.Set(float64(time.Now().Unix()))
		g.metrics.relist.Observe(time.Since(begin).Seconds())
		if !last.IsZero() {
			g.metrics.interval.Observe(begin.Sub(last).Seconds())
		}
		last = begin

		period := g.period()
		switch {
		case err != nil:
			if !failing {
				g.log.Error(err, "Cannot list the pods of the runtime, will keep trying")
			}
			period = unwatchedPeriod
		case failing:
			g.log.Info("The runtime lists its pods again")
			notify(g.runtimeBack)
		}
		failing = err != nil

		timer := time.NewTimer(period)
		select {
		case <-timer.C:
		case <-g.relistSoon:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return nil
		}
	}
}

// period is how long the next full list may wait.
func (g *Generator) period() time.Duration {
	if g.exits.Load() == nil || g.unwatched() > 0 {
		return min(unwatchedPeriod, g.cfg.RelistPeriod)
	}
	return g.cfg.RelistPeriod
}

// findExits decides how processes are watched, and says whether it could:
// until the runtime can be asked where it runs, they are not.
func (g *Generator) findExits(ctx context.Context, group *errgroup.Group) bool {
	if g.cfg.Exits != nil {
		g.exits.Store(&g.cfg.Exits)
		return true
	}
	if g.cfg.RuntimePID == nil {
		return true
	}
	pid, err := g.cfg.RuntimePID(ctx)
	if err != nil {
		return false // the runtime is away; the next list will say so
	}
	shared, err := sharesPIDNamespace(pid)
	if err != nil || !shared {
		g.log.Info("The runtime's process ids are not ours: exits are found by events and by a list every second", "runtimePID", pid, "err", err)
		return true
	}
	fds, err := newPidfds()
	if err != nil {
		g.log.Error(err, "Cannot watch processes: exits are found by events and by a list every second")
		return true
	}
	group.Go(func() error { return fds.run(ctx) })
	var exits ProcessExits = fds
	g.exits.Store(&exits)
	return true
}

// relist lists everything and has those pods read that differ from what was
// read last. It waits for no pod, except a little the first time.
func (g *Generator) relist(ctx context.Context) error {
	at := time.Now()
	sandboxes, err := g.rt.ListPodSandbox(ctx, nil)
	if err != nil {
		return err
	}
	containers, err := g.rt.ListContainers(ctx, nil)
	if err != nil {
		return err
	}
	pods := byPod(at, sandboxes, containers)
	rounds := map[types.UID]*round{}
	g.mu.Lock()
	for uid := range g.pods {
		if pods[uid] == nil {
			pods[uid] = &listing{at: at}
		}
	}
	for uid, l := range pods {
		p, sum := g.pods[uid], l.fingerprint()
		switch {
		case p != nil && p.listedAt.After(at): // read by itself meanwhile
		case p != nil && p.listed == sum && p.lastErr == nil && !p.busy:
			p.confirmed = at
		default:
			if r := g.askLocked(uid, request{seed: l}); r != nil {
				rounds[uid] = r
			}
		}
	}
	g.mu.Unlock()
	g.retryWatches()
	select {
	case <-g.table.Synced():
		return nil
	default:
	}

	timer := time.NewTimer(patience)
	defer timer.Stop()
	late := false
	for uid, r := range rounds {
		if !late {
			select {
			case <-r.done:
				continue
			case <-timer.C:
				late = true
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		select {
		case <-r.done:
		default:
			g.putListed(uid, pods[uid])
		}
	}
	g.table.MarkSynced()
	g.log.Info("Listed the pods of the runtime", "pods", len(rounds), "took", time.Since(at).Round(time.Millisecond))
	return nil
}

// putListed stores what the list says of a pod whose statuses do not come, so
// that nobody takes the pod for absent.
func (g *Generator) putListed(uid types.UID, l *listing) {
	g.mu.Lock()
	p := g.pods[uid]
	g.mu.Unlock()
	if p == nil {
		return
	}
	p.store.Lock()
	known := p.stored
	p.store.Unlock()
	if known {
		return
	}
	r := g.newReading(p, l)
	now, unread := r.pod(p)
	p.store.Lock()
	defer p.store.Unlock()
	if !p.stored {
		p.unread = unread
		g.set(p, now)
		g.log.Info("The runtime does not answer about a pod; its list entry is taken for now", "pod", klog.KRef(now.Namespace, now.Name), "podUID", uid)
	}
}

// snapshot returns all pods.
func (g *Generator) snapshot() []*pod {
	g.mu.Lock()
	defer g.mu.Unlock()
	pods := make([]*pod, 0, len(g.pods))
	for _, p := range g.pods {
		pods = append(pods, p)
	}
	return pods
}
