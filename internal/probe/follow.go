package probe

import (
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// followed is one pod that has, or had, containers to follow.
type followed struct {
	pod    *v1.Pod
	lives  []*life
	series map[seriesKey]*series
	lanes  [poolKinds]lane
	// results is the snapshot that readers have; nil if it is out of date.
	results map[string]Result
}

type seriesKey struct {
	container string
	kind      Kind
}

// Follow says which containers of the pod run now; the latest call wins. When
// it returns, Results has a result for each of them and for no other. It never
// blocks, and costs next to nothing if nothing changed. The pod, and the
// containers in targets, must not be changed afterwards.
func (p *Prober) Follow(pod *v1.Pod, targets []Target) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.pods[pod.UID]
	if f == nil {
		if len(targets) == 0 {
			return
		}
		f = &followed{}
		p.pods[pod.UID] = f
	}
	f.pod = pod
	if f.same(targets) {
		return
	}
	now := time.Now()
	lives := make([]*life, 0, len(targets))
	for _, t := range targets {
		l := f.find(t.ID)
		if l == nil {
			l = newLife(f, t, p.cfg.Exec.ContainerPid)
			lives = append(lives, l)
			p.arm(l, now, true)
			continue
		}
		lives = append(lives, l)
		t.Was = l.target.Was
		l.target = t
		for k, task := range l.tasks {
			// What a probe asks may have been changed only for the next life
			// of the container, but the spec that it stands in is a new one.
			if spec := Kind(k).Of(t.Container); task != nil && spec != nil {
				task.probe = spec
			}
		}
		p.arm(l, now, false)
	}
	for _, l := range f.lives {
		if !slices.Contains(lives, l) {
			p.park(l)
		}
	}
	f.lives, f.results = lives, nil
}

// same says whether targets are what is followed already.
func (f *followed) same(targets []Target) bool {
	if len(targets) != len(f.lives) {
		return false
	}
	for i := range targets {
		have, want := &f.lives[i].target, &targets[i]
		if have.ID != want.ID || have.Container != want.Container || have.IP != want.IP || have.Terminating != want.Terminating {
			return false
		}
	}
	return true
}

func (f *followed) find(id string) *life {
	for _, l := range f.lives {
		if l.target.ID == id {
			return l
		}
	}
	return nil
}

// arm schedules the tasks of l that are to be asked and are not, and parks
// those that are not to be asked any more.
func (p *Prober) arm(l *life, now time.Time, spread bool) {
	for _, t := range l.tasks {
		switch {
		case t == nil:
		case !t.wanted():
			p.parkTask(t)
		case t.at == parked:
			t.due = t.first(now, spread)
			p.add(t)
		}
	}
}

// add schedules a task and makes Run look in time.
func (p *Prober) add(t *task) {
	p.schedule.add(t)
	if p.armed.IsZero() || t.due.Before(p.armed) {
		p.look()
	}
}

func (p *Prober) look() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

func (p *Prober) park(l *life) {
	for _, t := range l.tasks {
		if t != nil {
			p.parkTask(t)
		}
	}
}

// parkTask takes a task out of everything. What a run under way says will not
// be heard.
func (p *Prober) parkTask(t *task) {
	switch t.at {
	case scheduled:
		p.schedule.remove(t)
	case waiting:
		p.pools[t.pool].withdraw(t)
	case running:
		t.cancel()
	}
}

// Results returns what is known of the pod's followed containers, by ID. The
// map is a snapshot and must not be changed.
func (p *Prober) Results(uid types.UID) map[string]Result {
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.pods[uid]
	if f == nil {
		return nil
	}
	if f.results == nil {
		f.results = make(map[string]Result, len(f.lives))
		for _, l := range f.lives {
			f.results[l.target.ID] = l.result()
		}
	}
	return f.results
}

// Forget ends all probes of the pod, and its metrics.
func (p *Prober) Forget(uid types.UID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.pods[uid]
	if f == nil {
		return
	}
	delete(p.pods, uid)
	for _, l := range f.lives {
		p.park(l)
	}
	for key := range f.series {
		p.metrics.forget(f.pod, key.container, key.kind)
	}
	f.lives = nil
}
