package pleg

import (
	"context"
	"time"

	"kubelet/internal/cri"
	"kubelet/internal/observed"
)

// partsRead is what was read of some sandboxes and containers.
type partsRead struct {
	name, namespace string // of the pod, if a sandbox told
	sandboxes       []observed.Sandbox
	containers      []observed.Container
	gone            []string // ids of containers that are no more
}

// readParts reads what an action of the agent has just changed, in a call for
// each, and stores the answers. What cannot be read so is left to a read of
// the whole pod.
func (g *Generator) readParts(ctx context.Context, p *pod, parts []part) error {
	at := time.Now()
	r := &partsRead{}
	p.store.Lock()
	stored := p.stored
	p.store.Unlock()
	for _, part := range parts {
		if part.containerID != "" && !stored { // a pod begins with a sandbox
			return g.read(ctx, p, request{forced: true})
		}
		var err error
		if part.containerID == "" {
			err = g.readSandboxPart(ctx, p, part.sandboxID, r)
		} else {
			err = g.readContainerPart(ctx, p, part, r)
		}
		if err != nil {
			return g.read(ctx, p, request{forced: true})
		}
	}
	listed := g.putParts(p, at, r)
	g.mu.Lock()
	if p.lastErr == nil {
		p.listed = listed
	}
	g.mu.Unlock()
	g.watchNew(p)
	return nil
}

func (g *Generator) readSandboxPart(ctx context.Context, p *pod, id string, r *partsRead) error {
	p.store.Lock()
	old := findSandbox(&p.snap, id)
	known := old != nil && old.Pid > 0
	p.store.Unlock()
	return g.call(ctx, p, func(ctx context.Context) error {
		resp, err := g.rt.PodSandboxStatus(ctx, id, !known && g.exits.Load() != nil)
		if err != nil {
			return err
		}
		s := readSandbox(resp.GetStatus(), resp.GetInfo())
		if known {
			p.store.Lock()
			if old := findSandbox(&p.snap, id); old != nil {
				s.Image = old.Image
				if s.Ready {
					s.Pid = old.Pid
				}
				if len(s.IPs) == 0 { // one that was stopped may tell none
					s.IPs = old.IPs
				}
			}
			p.store.Unlock()
		}
		if m := resp.GetStatus().GetMetadata(); m.GetName() != "" {
			r.name, r.namespace = m.GetName(), m.GetNamespace()
		}
		r.sandboxes = append(r.sandboxes, s)
		return nil
	})
}

func (g *Generator) readContainerPart(ctx context.Context, p *pod, part part, r *partsRead) error {
	p.store.Lock()
	names := map[string]struct{}{}
	over := false
	pid := 0
	for i := range p.snap.Containers {
		c := &p.snap.Containers[i]
		names[c.Name] = struct{}{}
		if c.ID == part.containerID {
			over, pid = c.State == observed.Exited, c.Pid
		}
	}
	p.store.Unlock()
	if over {
		return nil
	}
	verbose := pid == 0 && g.cfg.Processes == nil && g.exits.Load() != nil
	err := g.call(ctx, p, func(ctx context.Context) error {
		resp, err := g.rt.ContainerStatus(ctx, part.containerID, verbose)
		if err != nil {
			return err
		}
		if verbose {
			pid = cri.Pid(resp.GetInfo())
		}
		c := readContainer(resp.GetStatus(), part.sandboxID, pid)
		names[c.Name] = struct{}{}
		if c.State == observed.Exited {
			c.Message = terminationMessage(resp.GetStatus(), len(names))
		}
		r.containers = append(r.containers, c)
		return nil
	})
	if cri.IsNotFound(err) {
		r.gone = append(r.gone, part.containerID)
		return nil
	}
	return err
}
