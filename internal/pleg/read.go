package pleg

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"kubelet/internal/cri"
	"kubelet/internal/observed"
)

// reading is one read of one pod while it is being made.
type reading struct {
	listing
	before  observed.Pod // what was known
	unread  map[string]struct{}
	watched func(id string) bool
	seen    bool // processes can be found without the runtime

	sandboxes  map[string]answer[observed.Sandbox]
	containers map[string]answer[observed.Container]
	// missing are things that were there and are not in the list: whether
	// they are really gone is asked before it is believed.
	missingSandboxes  []*observed.Sandbox
	missingContainers []*observed.Container
}

// answer is what a status call said of one thing.
type answer[T any] struct {
	is  T
	err error // NotFound: it is gone
}

// read reads a pod and stores the answer. What could be read is stored even
// when the rest fails or hangs.
func (g *Generator) read(ctx context.Context, p *pod, req request) error {
	if req.only != nil {
		return g.readParts(ctx, p, req.only)
	}
	g.mu.Lock()
	listedAt := p.listedAt
	g.mu.Unlock()
	l := req.seed
	if l != nil && l.at.Before(listedAt) {
		return nil // a later list of the pod has been read already
	}
	if l == nil {
		var err error
		if l, err = g.list(ctx, p); err != nil {
			return err
		}
	}
	r := g.newReading(p, l)
	err := g.readStatuses(ctx, p, r)
	now, unread := r.pod(p)
	g.put(p, now, unread, req.forced)

	g.mu.Lock()
	p.listedAt = l.at
	if err == nil {
		p.listed, p.confirmed = l.fingerprint(), l.at
	}
	g.mu.Unlock()
	g.watchNew(p)
	return err
}

// list asks what there is of one pod.
func (g *Generator) list(ctx context.Context, p *pod) (*listing, error) {
	l := &listing{}
	labels := map[string]string{cri.LabelPodUID: string(p.uid)}
	err := g.call(ctx, p, func(ctx context.Context) (err error) {
		l.at = time.Now()
		l.sandboxes, err = g.rt.ListPodSandbox(ctx, &runtimeapi.PodSandboxFilter{LabelSelector: labels})
		return err
	})
	if err != nil {
		return nil, err
	}
	err = g.call(ctx, p, func(ctx context.Context) (err error) {
		l.containers, err = g.rt.ListContainers(ctx, &runtimeapi.ContainerFilter{LabelSelector: labels})
		return err
	})
	return l, err
}

func (g *Generator) newReading(p *pod, l *listing) *reading {
	p.store.Lock()
	defer p.store.Unlock()
	r := &reading{
		listing: *l, before: p.snap, unread: maps.Clone(p.unread),
		sandboxes:  map[string]answer[observed.Sandbox]{},
		containers: map[string]answer[observed.Container]{},
	}
	watched := make(map[string]bool, len(p.watches))
	for id := range p.watches {
		watched[id] = true
	}
	r.seen = g.cfg.Processes != nil
	r.watched = func(id string) bool { return g.exits.Load() == nil || watched[id] }
	return r
}

// readStatuses asks for each status that the list does not answer by itself:
// of what is new, changed state or went missing. The calls run side by side,
// and after some patience the answers so far are stored.
func (g *Generator) readStatuses(ctx context.Context, p *pod, r *reading) error {
	type result struct {
		put func()
		err error
	}
	n := 0
	results := make(chan result)
	ask := func(f func(ctx context.Context) (func(), error)) {
		n++
		g.spawn(func(ctx context.Context) {
			var put func()
			err := g.call(ctx, p, func(ctx context.Context) (err error) { put, err = f(ctx); return err })
			if cri.IsNotFound(err) {
				err = nil
			}
			if put == nil {
				put = func() {}
			}
			select {
			case results <- result{put, err}:
			case <-ctx.Done():
			}
		})
	}
	r.eachSandboxToRead(func(id string, verbose bool) {
		ask(func(ctx context.Context) (func(), error) {
			resp, err := g.rt.PodSandboxStatus(ctx, id, verbose)
			if err != nil {
				return func() { r.sandboxes[id] = answer[observed.Sandbox]{err: err} }, err
			}
			s := readSandbox(resp.GetStatus(), resp.GetInfo())
			return func() { r.sandboxes[id] = answer[observed.Sandbox]{is: s} }, nil
		})
	})
	names := r.names()
	r.eachContainerToRead(func(id, sandboxID string, ended, verbose bool) {
		ask(func(ctx context.Context) (func(), error) {
			resp, err := g.rt.ContainerStatus(ctx, id, verbose)
			if err != nil {
				return func() { r.containers[id] = answer[observed.Container]{err: err} }, err
			}
			c := readContainer(resp.GetStatus(), sandboxID, cri.Pid(resp.GetInfo()))
			if c.State == observed.Exited {
				c.Message = terminationMessage(resp.GetStatus(), names)
			}
			if ended && c.State != observed.Exited {
				err = fmt.Errorf("read container %s: its status is %s, but it is listed as exited", id, c.State)
			}
			return func() { r.containers[id] = answer[observed.Container]{is: c} }, err
		})
	})

	var errs []error
	var patient <-chan time.Time
	if n > 0 {
		ticker := time.NewTicker(patience)
		defer ticker.Stop()
		patient = ticker.C
	}
	for ; n > 0; n-- {
		select {
		case res := <-results:
			res.put()
			if res.err != nil {
				errs = append(errs, res.err)
			}
		case <-patient:
			n++ // nothing was answered
			now, unread := r.pod(p)
			g.put(p, now, unread, false)
			g.watchNew(p)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return errors.Join(errs...)
}

// eachSandboxToRead names the sandboxes whose status has to be asked for. A
// sandbox that is known and stopped being ready tells nothing more in its
// status.
func (r *reading) eachSandboxToRead(f func(id string, verbose bool)) {
	listed := map[string]bool{}
	for _, s := range r.listing.sandboxes {
		listed[s.GetId()] = true
		ready := s.GetState() == runtimeapi.PodSandboxState_SANDBOX_READY
		old := findSandbox(&r.before, s.GetId())
		if _, unread := r.unread[s.GetId()]; old == nil || unread || ready && !old.Ready {
			f(s.GetId(), ready && !r.watched(s.GetId()))
		}
	}
	for i := range r.before.Sandboxes {
		if s := &r.before.Sandboxes[i]; s.Ready && !listed[s.ID] {
			r.missingSandboxes = append(r.missingSandboxes, s)
			f(s.ID, false)
		}
	}
}

// eachContainerToRead names the containers whose status has to be asked for.
// The status of a container that ended never changes again.
func (r *reading) eachContainerToRead(f func(id, sandboxID string, ended, verbose bool)) {
	listed := map[string]bool{}
	for _, c := range r.listing.containers {
		listed[c.GetId()] = true
		old := findContainer(&r.before, c.GetId())
		if old != nil && old.State == observed.Exited {
			continue
		}
		if _, unread := r.unread[c.GetId()]; old == nil || unread || old.State != stateOf(c.GetState()) {
			state := stateOf(c.GetState())
			f(c.GetId(), c.GetPodSandboxId(), state == observed.Exited, state == observed.Running && !r.seen && !r.watched(c.GetId()))
		}
	}
	for i := range r.before.Containers {
		if c := &r.before.Containers[i]; c.State == observed.Running && !listed[c.ID] {
			r.missingContainers = append(r.missingContainers, c)
			f(c.ID, c.SandboxID, false, false)
		}
	}
}

// names counts the container names of the pod, which share the limit on
// termination messages.
func (r *reading) names() int {
	names := map[string]struct{}{}
	for _, c := range r.listing.containers {
		names[c.GetLabels()[cri.LabelContainerName]] = struct{}{}
	}
	return len(names)
}

// pod puts together what is known by now: statuses that were read, what the
// list says, and what was known before of things that did not answer. Ids of
// which only the list is known are returned as unread.
func (r *reading) pod(p *pod) (now observed.Pod, unread map[string]struct{}) {
	now = observed.Pod{UID: p.uid, Name: r.before.Name, Namespace: r.before.Namespace, At: r.at}
	carried := false
	mark := func(id string) {
		if unread == nil {
			unread = map[string]struct{}{}
		}
		unread[id] = struct{}{}
	}
	for _, s := range r.listing.sandboxes {
		if m := s.GetMetadata(); m.GetName() != "" {
			now.Name, now.Namespace = m.GetName(), m.GetNamespace()
		}
		id := s.GetId()
		a, asked := r.sandboxes[id]
		old := findSandbox(&r.before, id)
		_, stillUnread := r.unread[id]
		switch {
		case asked && a.err == nil:
			is := a.is
			if old != nil {
				// Not asked for again once they are known.
				if is.Ready && is.Pid == 0 {
					is.Pid = old.Pid
				}
				is.Image = cmp.Or(is.Image, old.Image)
			}
			now.Sandboxes = append(now.Sandboxes, is)
		case asked && cri.IsNotFound(a.err):
		case old == nil || stillUnread:
			now.Sandboxes = append(now.Sandboxes, listedSandbox(s))
			mark(id)
		default:
			is := *old
			if is.Ready = s.GetState() == runtimeapi.PodSandboxState_SANDBOX_READY; !is.Ready {
				is.Pid = 0
			} else if !old.Ready {
				mark(id)
			}
			now.Sandboxes = append(now.Sandboxes, is)
		}
	}
	for _, c := range r.listing.containers {
		if now.Name == "" {
			now.Name, now.Namespace = c.GetLabels()[cri.LabelPodName], c.GetLabels()[cri.LabelPodNamespace]
		}
		id := c.GetId()
		a, asked := r.containers[id]
		old := findContainer(&r.before, id)
		_, stillUnread := r.unread[id]
		switch {
		case asked && a.err == nil:
			is := a.is
			if is.State == observed.Running && is.Pid == 0 && old != nil {
				is.Pid = old.Pid // it was not asked for again
			}
			now.Containers = append(now.Containers, is)
		case asked && cri.IsNotFound(a.err):
		case old == nil || stillUnread && old.State != observed.Exited:
			now.Containers = append(now.Containers, listedContainer(c))
			mark(id)
		default:
			// The same state as before, or a status that did not come: then
			// what was known stands, however old.
			carried = carried || old.State != observed.Exited && old.State != stateOf(c.GetState())
			now.Containers = append(now.Containers, *old)
		}
	}
	for _, s := range r.missingSandboxes {
		switch a, asked := r.sandboxes[s.ID]; {
		case asked && a.err == nil:
			now.Sandboxes = append(now.Sandboxes, a.is)
		case !asked || !cri.IsNotFound(a.err):
			now.Sandboxes = append(now.Sandboxes, *s)
			carried = true
		}
	}
	for _, c := range r.missingContainers {
		switch a, asked := r.containers[c.ID]; {
		case asked && a.err == nil:
			is := a.is
			if is.State == observed.Running {
				is.Pid = c.Pid
			}
			now.Containers = append(now.Containers, is)
		case !asked || !cri.IsNotFound(a.err):
			now.Containers = append(now.Containers, *c)
			carried = true
		}
	}
	if carried && !r.before.At.IsZero() {
		now.At = r.before.At
	}
	sortPod(&now)
	return now, unread
}
