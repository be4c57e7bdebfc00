package node

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/klog/v2"
)

const (
	// While the node is not ready, somebody waits for it: the runtime tells
	// nobody when its network becomes ready, so it is asked often at first and
	// less often later.
	soon      = 250 * time.Millisecond
	soonFor   = 30 * time.Second
	lessSoon  = 2 * time.Second
	firstFail = 200 * time.Millisecond
)

// write registers the node and then keeps its status.
func (n *Node) write(ctx context.Context) {
	w := &writer{node: n}
	if n.cfg.API != nil && n.cfg.Register && n.register(ctx) {
		w.seen = initialNode(n.cfg)
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-n.wake:
		}
		timer.Reset(w.step(ctx))
	}
}

// facts gathers what is known at the moment, without asking anybody.
func (n *Node) facts() Facts {
	m := &n.machine
	info := v1.NodeSystemInfo{
		MachineID: m.machineID, SystemUUID: m.systemUUID, BootID: m.bootID,
		KernelVersion: m.kernel, OSImage: m.osImage,
		OperatingSystem: runtime.GOOS, Architecture: runtime.GOARCH,
		KubeletVersion:          kubeletVersion(),
		ContainerRuntimeVersion: n.runtime.version,
	}
	if m.swap > 0 {
		info.Swap = &v1.NodeSwapStatus{Capacity: &m.swap}
	}
	return Facts{
		Info:          info,
		Capacity:      n.capacity,
		Reserved:      n.reserve,
		Addresses:     n.address.found,
		KeepAddresses: n.cfg.ExternalCloudProvider,
		ProvidedIP:    n.address.provided(),
		Port:          n.cfg.Port, DeclaredFeatures: n.cfg.DeclaredFeatures,
		Images:       n.images.last,
		Handlers:     n.runtime.handlers(),
		Features:     n.runtime.features(),
		Problems:     n.runtime.problems(time.Now()),
		NeedsStorage: n.cfg.LocalStorageCapacityIsolation,
	}
}

// generate asks the machine what can have changed and returns the node with
// its newest status. The runtime has been asked before.
func (n *Node) generate(ctx context.Context, previous *v1.Node) *v1.Node {
	now := time.Now()
	if _, err := n.address.find(ctx, now); err != nil {
		klog.FromContext(ctx).Error(err, "Node has no address of its own, will retry", "node", klog.KRef("", n.cfg.Name))
	}
	n.images.get(ctx, now)
	facts := n.facts()
	if facts.Info.ContainerRuntimeVersion == "" {
		// The runtime is away for the moment; it is the same one as before.
		if facts.Info.ContainerRuntimeVersion = previous.Status.NodeInfo.ContainerRuntimeVersion; facts.Info.ContainerRuntimeVersion == "" {
			facts.Info.ContainerRuntimeVersion = "unknown://"
		}
	}
	if err := n.cfg.Healthy(); err != nil {
		facts.Problems = append(facts.Problems, err)
	}
	return Generate(previous, facts, now)
}

// writer is the state of the status loop.
type writer struct {
	node *Node
	// seen is the newest status that events have told of.
	seen *v1.Node
	// unreadySince is zero while the node is ready.
	unreadySince time.Time
	// reported is when the status was last accepted, and report when it is
	// due again if nothing changes.
	reported, report time.Time
	// failures in a row to write it.
	failures int
	// missing: it has been said that there is no Node object.
	missing bool
}

// step computes the status, writes it if it is due, and returns when to do so
// again.
func (w *writer) step(ctx context.Context) time.Duration {
	n := w.node
	n.runtime.ask(ctx)
	previous := n.table.node()
	server := n.table.serverNode()
	if server != nil {
		previous = server
	}
	next := n.generate(ctx, previous)
	n.table.setLocal(next)
	w.tell(next, previous)
	n.metrics.ready(next, time.Now())

	delay := n.cfg.UpdateFrequency
	if server != nil {
		if err := w.writeIfDue(ctx, server, next); err != nil && ctx.Err() == nil {
			delay = min(firstFail<<min(w.failures, 10), n.cfg.UpdateFrequency)
			w.failures++
			klog.FromContext(ctx).Error(err, "Node status is not written, will retry", "node", klog.KObj(next), "retryIn", delay)
			return delay
		}
		w.failures, w.missing = 0, false
	} else if n.cfg.API != nil && n.table.isKnown() && !w.missing {
		w.missing = true
		klog.FromContext(ctx).Error(nil, "The API server has no Node object for this node; pods keep running, and a kubelet that registers itself creates it when it starts",
			"node", klog.KObj(next))
	}
	now := time.Now()
	switch {
	case isReady(next):
		w.unreadySince = time.Time{}
	case w.unreadySince.IsZero():
		w.unreadySince = now
		delay = min(delay, soon)
	case now.Sub(w.unreadySince) < soonFor:
		delay = min(delay, soon)
	default:
		delay = min(delay, lessSoon)
	}
	return delay
}

// tell sends events about what changed since the last ones; at first, since
// the kubelet before this one.
func (w *writer) tell(next, previous *v1.Node) {
	if w.seen == nil {
		w.seen = previous
	}
	for _, e := range transitions(w.seen, next) {
		w.node.cfg.Event(e.kind, e.reason, e.message)
	}
	if w.seen.Spec.Unschedulable != next.Spec.Unschedulable {
		reason := choose(next.Spec.Unschedulable, "NodeNotSchedulable", "NodeSchedulable")
		w.node.cfg.Event(v1.EventTypeNormal, reason, fmt.Sprintf("Node %s status is now: %s", next.Name, reason))
	}
	w.seen = next
}

// writeIfDue patches the status if it differs from the server's or has not
// been reported for long.
func (w *writer) writeIfDue(ctx context.Context, server, next *v1.Node) error {
	n := w.node
	if w.failures > 0 {
		// The cached object may be the reason of the failure.
		fresh, err := n.cfg.API.GetNode(ctx, n.cfg.Name)
		if apierrors.IsNotFound(err) {
			n.table.removed(server.ResourceVersion)
			return fmt.Errorf("node %s was deleted; it is registered again when the kubelet starts: %w", n.cfg.Name, err)
		}
		if err != nil {
			return fmt.Errorf("read node %s: %w", n.cfg.Name, err)
		}
		n.table.setServer(fresh)
		server = fresh
		next = n.generate(ctx, server)
		n.table.setLocal(next)
	}
	changed := !sameStatus(server, next)
	if !changed && !w.reported.IsZero() && time.Now().Before(w.report) {
		return nil
	}
	patch, err := statusPatch(server, next)
	if err != nil {
		return err
	}
	updated, err := n.cfg.API.PatchNodeStatus(ctx, n.cfg.Name, patch)
	if err != nil {
		return fmt.Errorf("write status of node %s: %w", n.cfg.Name, err)
	}
	n.table.setServer(updated)
	every := n.cfg.ReportFrequency
	if changed || w.reported.IsZero() {
		// Nodes that changed together must not report together for ever.
		every = every/2 + rand.N(every)
	}
	w.reported = time.Now()
	w.report = w.reported.Add(every)
	return nil
}

// sleep returns false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
