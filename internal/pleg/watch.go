package pleg

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"kubelet/internal/cri"
	"kubelet/internal/observed"
)

// ProcessExits watches processes for their end.
type ProcessExits interface {
	// Open takes hold of the process that has this pid now. The error is
	// ESRCH if there is none.
	Open(pid int) (Process, error)
}

// Process is one process, whoever has its pid later.
type Process interface {
	// BelongsTo says whether the process is in a cgroup whose path names one
	// of ids.
	BelongsTo(ids ...string) (bool, error)
	// Leads says whether the process is the first one of a PID namespace
	// right below ours.
	Leads() (bool, error)
	// Notify has f called, in a goroutine that must not be blocked, when the
	// process has ended, and at once if it has ended already.
	Notify(f func()) error
	// Close ends the watch; f may still be running.
	Close()
}

const (
	// After an exit the status is read again after firstConfirm, then a
	// quarter more each time up to lastConfirm, until the runtime knows of
	// the exit too: what is lost is at most a quarter of what the runtime
	// took. Where it has events, one of them ends the wait early.
	firstConfirm = 5 * time.Millisecond
	lastConfirm  = time.Second
	// confirmFor is how long that goes on before it is left to the full list.
	confirmFor = 10 * time.Minute
	// watchTries is how often a process is tried to be watched.
	watchTries = 3
)

// watch is the state of watching one container's or sandbox's first process.
// It is guarded by pod.store.
type watch struct {
	sandbox bool
	process Process // nil while it is being set up, or if that failed
	setting bool
	tries   int
	ended   bool          // the process has ended: the runtime is being asked
	poke    chan struct{} // asks at once; made when ended becomes true
}

var errNoPid = errors.New("the runtime tells no pid")

// watchNew begins to watch the processes that are known since the last read.
func (g *Generator) watchNew(p *pod) {
	if g.exits.Load() == nil {
		return
	}
	p.store.Lock()
	defer p.store.Unlock()
	begin := func(id string, sandbox bool, pid int) {
		if _, ok := p.watches[id]; ok {
			return
		}
		if p.watches == nil {
			p.watches = map[string]*watch{}
		}
		w := &watch{sandbox: sandbox, setting: true, tries: 1}
		p.watches[id] = w
		g.spawn(func(ctx context.Context) { g.setWatch(ctx, p, id, w, pid) })
	}
	for _, s := range p.snap.Sandboxes {
		if s.Ready {
			if _, unread := p.unread[s.ID]; !unread {
				begin(s.ID, true, s.Pid)
			}
		}
	}
	for _, c := range p.snap.Containers {
		if c.State == observed.Running {
			if _, unread := p.unread[c.ID]; !unread {
				begin(c.ID, false, c.Pid)
			}
		}
	}
}

// retryWatches tries again what could not be watched, some times.
func (g *Generator) retryWatches() {
	if g.exits.Load() == nil {
		return
	}
	for _, p := range g.snapshot() {
		p.store.Lock()
		for id, w := range p.watches {
			if w.process == nil && !w.setting && !w.ended && w.tries < watchTries {
				w.setting = true
				w.tries++
				g.spawn(func(ctx context.Context) { g.setWatch(ctx, p, id, w, 0) })
			}
		}
		p.store.Unlock()
	}
}

// unwatched counts what runs and cannot be watched.
func (g *Generator) unwatched() int {
	n := 0
	for _, p := range g.snapshot() {
		p.store.Lock()
		for _, w := range p.watches {
			if w.process == nil && !w.setting && !w.ended {
				n++
			}
		}
		p.store.Unlock()
	}
	return n
}

// setWatch watches a process, or notes that it cannot be watched. pid 0: it
// is asked for.
func (g *Generator) setWatch(ctx context.Context, p *pod, id string, w *watch, pid int) {
	process, err := g.openProcess(ctx, p, id, w.sandbox, pid)
	p.store.Lock()
	w.setting = false
	first := w.tries == 1
	if p.watches[id] != w { // it ended meanwhile
		p.store.Unlock()
		if process != nil {
			process.Close()
		}
		return
	}
	w.process = process
	p.store.Unlock()
	switch {
	case err == nil:
		if err = process.Notify(func() { g.confirmExit(p, id, w.sandbox) }); err == nil {
			return
		}
		p.store.Lock()
		w.process = nil
		p.store.Unlock()
		process.Close()
	case errors.Is(err, syscall.ESRCH):
		g.confirmExit(p, id, w.sandbox)
		return
	case ctx.Err() != nil:
		return
	}
	if first {
		g.log.V(2).Info("Cannot watch process, listing every second instead", "podUID", p.uid, "id", id, "err", err)
	}
	notify(g.relistSoon)
}

// openProcess takes hold of the first process of a container. The first
// process of a PID namespace right below ours that is in the container's own
// cgroup is that one, and while it is held it lives. Where there is none to be
// seen, the runtime is asked. The pid that it tells may have been given to
// another process since, so once the process is held, the runtime has to say
// that the container still runs (a container has one first process in its
// life, so that is the same one), and the process has to be in the container's
// cgroup.
func (g *Generator) openProcess(ctx context.Context, p *pod, id string, sandbox bool, pid int) (Process, error) {
	if process := g.findProcess(p, id, pid); process != nil {
		return process, nil
	}
	if pid == 0 {
		running, told, err := g.statusOf(ctx, p, id, sandbox, true)
		switch {
		case err != nil:
			return nil, err
		case !running:
			return nil, syscall.ESRCH
		case told == 0:
			return nil, errNoPid
		}
		pid = told
	}
	process, err := (*g.exits.Load()).Open(pid)
	if err != nil {
		return nil, fmt.Errorf("watch process %d: %w", pid, err)
	}
	belongs, err := process.BelongsTo(id, string(p.uid))
	if err == nil && !belongs {
		err = fmt.Errorf("watch process %d: it is in no cgroup of the container", pid)
	}
	running := false
	if err == nil {
		running, _, err = g.statusOf(ctx, p, id, sandbox, false)
	}
	if err == nil && !running {
		err = syscall.ESRCH
	}
	if err != nil {
		process.Close()
		return nil, err
	}
	return process, nil
}

// manyProcesses is how many processes of a container are looked at for the
// first one.
const manyProcesses = 16

// findProcess takes hold of the first process of a container without asking
// the runtime, if it is known or can be seen. It returns nil otherwise.
func (g *Generator) findProcess(p *pod, id string, pid int) Process {
	pids := []int{pid}
	if pid == 0 {
		if g.cfg.Processes == nil {
			return nil
		}
		if pids = g.cfg.Processes(p.uid, id); len(pids) > manyProcesses {
			return nil
		}
	}
	for _, pid := range pids {
		process, err := (*g.exits.Load()).Open(pid)
		if err != nil {
			continue
		}
		leads, err := process.Leads()
		if leads && err == nil {
			if belongs, err := process.BelongsTo(id); belongs && err == nil {
				return process
			}
		}
		process.Close()
	}
	return nil
}

// statusOf asks whether a container or sandbox runs.
func (g *Generator) statusOf(ctx context.Context, p *pod, id string, sandbox, verbose bool) (running bool, pid int, err error) {
	err = g.call(ctx, p, func(ctx context.Context) error {
		if sandbox {
			resp, err := g.rt.PodSandboxStatus(ctx, id, verbose)
			running, pid = resp.GetStatus().GetState() == runtimeapi.PodSandboxState_SANDBOX_READY, cri.Pid(resp.GetInfo())
			return err
		}
		resp, err := g.rt.ContainerStatus(ctx, id, verbose)
		running, pid = resp.GetStatus().GetState() == runtimeapi.ContainerState_CONTAINER_RUNNING, cri.Pid(resp.GetInfo())
		return err
	})
	if cri.IsNotFound(err) {
		return false, 0, nil
	}
	return running && err == nil, pid, err
}

// confirmExit asks the runtime about a container or sandbox whose process is
// said to have ended, until it says so too. Asked again meanwhile, it asks
// the runtime at once.
func (g *Generator) confirmExit(p *pod, id string, sandbox bool) {
	p.store.Lock()
	w := p.watches[id]
	if w == nil {
		if c, s := findContainer(&p.snap, id), findSandbox(&p.snap, id); (c == nil || c.State == observed.Exited) && (s == nil || !s.Ready) {
			p.store.Unlock()
			return
		}
		if p.watches == nil {
			p.watches = map[string]*watch{}
		}
		w = &watch{sandbox: sandbox}
		p.watches[id] = w
	}
	if w.ended {
		notify(w.poke)
		p.store.Unlock()
		return
	}
	w.ended, w.poke = true, make(chan struct{}, 1)
	poke := w.poke
	p.store.Unlock()
	g.spawn(func(ctx context.Context) {
		g.confirmLoop(ctx, p, id, sandbox, poke)
		p.store.Lock()
		w.ended = false
		p.store.Unlock()
	})
}

func (g *Generator) confirmLoop(ctx context.Context, p *pod, id string, sandbox bool, poke <-chan struct{}) {
	delay := firstConfirm
	for begin := time.Now(); time.Since(begin) < confirmFor; {
		over, err := g.readExit(ctx, p, id, sandbox)
		if over {
			return
		}
		if err != nil {
			g.log.V(4).Info("Cannot read how a process ended, will retry", "podUID", p.uid, "id", id, "err", err)
		}
		timer := time.NewTimer(delay)
		select {
		case <-timer.C:
		case <-poke:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		timer.Stop()
		delay = min(delay+delay/4, lastConfirm)
	}
	g.log.Info("The runtime says that a container runs whose process has ended; leaving it to the full list", "podUID", p.uid, "id", id)
	g.ask(p.uid, request{})
}

// readExit stores the end of a container or sandbox, if the runtime knows of
// it.
func (g *Generator) readExit(ctx context.Context, p *pod, id string, sandbox bool) (over bool, err error) {
	if sandbox {
		p.store.Lock()
		s := findSandbox(&p.snap, id)
		lost := s == nil || !s.Ready
		p.store.Unlock()
		if lost {
			return true, nil
		}
		running, _, err := g.statusOf(ctx, p, id, true, false)
		if err == nil && !running {
			// containerd 2 lists a sandbox as ready for a moment longer than its
			// status says so: what is read now may not have the end yet.
			g.ask(p.uid, request{})
		}
		return false, err
	}
	p.store.Lock()
	var sandboxID string
	names := map[string]struct{}{}
	for i := range p.snap.Containers {
		c := &p.snap.Containers[i]
		names[c.Name] = struct{}{}
		if c.ID == id {
			if sandboxID = c.SandboxID; c.State == observed.Exited {
				p.store.Unlock()
				return true, nil // somebody else was faster
			}
		}
	}
	p.store.Unlock()
	var resp *runtimeapi.ContainerStatusResponse
	err = g.call(ctx, p, func(ctx context.Context) (err error) {
		resp, err = g.rt.ContainerStatus(ctx, id, false)
		return err
	})
	switch {
	case cri.IsNotFound(err):
		g.ask(p.uid, request{})
		return true, nil
	case err != nil:
		return false, err
	case resp.GetStatus().GetState() != runtimeapi.ContainerState_CONTAINER_EXITED:
		return false, nil
	}
	c := readContainer(resp.GetStatus(), sandboxID, 0)
	c.Message = terminationMessage(resp.GetStatus(), len(names))
	if !g.putExit(p, c) {
		g.ask(p.uid, request{})
	}
	return true, nil
}

// tidyWatches ends the watches of what no longer runs. p.store is held.
func (g *Generator) tidyWatches(p *pod) {
	for id, w := range p.watches {
		c, s := findContainer(&p.snap, id), findSandbox(&p.snap, id)
		if c != nil && c.State == observed.Running || s != nil && s.Ready {
			continue
		}
		delete(p.watches, id)
		if w.process != nil {
			w.process.Close()
			w.process = nil
		}
	}
}

// closeWatches ends all watches.
func (g *Generator) closeWatches() {
	for _, p := range g.snapshot() {
		p.store.Lock()
		for id, w := range p.watches {
			delete(p.watches, id)
			if w.process != nil {
				w.process.Close()
			}
		}
		p.store.Unlock()
	}
}
