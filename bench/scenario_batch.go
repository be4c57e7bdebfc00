package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// batch starts many pods at once. The floor is measured with few pods in
// flight and with all of them; the better one counts.
func (b *bench) batch(ctx context.Context) error {
	if err := b.active(ctx, b.columns...); err != nil {
		return err
	}
	if err := b.warm(ctx, b.columns, withVolumes); err != nil {
		return err
	}
	for _, n := range b.batches {
		what := fmt.Sprintf("%d pods with volumes at once", n)
		speed := b.report.row("2", what+": pods per second", perSecond)
		latency := b.report.row("2", what+": created → Ready", milliseconds)
		cpu := b.report.row("2", what+": CPU of the kubelet", cpuSeconds)
		all := b.report.row("2", what+": CPU of everything, per pod", cpuMilliseconds)
		node := b.report.row("2", what+": of that the runtime and the containers", cpuMilliseconds)
		control := b.report.row("2", what+": of that the control plane", cpuMilliseconds)
		own := b.report.row("2", what+": of that the benchmark, in the floor its client included", cpuMilliseconds)
		requests := b.report.row("2", what+": requests to the API server, per pod", perPod)
		wide := b.report.row("2", what+": pods per second of the floor with all in flight", perSecond)
		wide.note()
		allGone := b.report.row("4", fmt.Sprintf("%d pods deleted at once: all gone", n), milliseconds)
		eachGone := b.report.row("4", fmt.Sprintf("%d pods deleted at once: each gone", n), milliseconds)
		if n == 50 {
			speed.goal(ratio{of: ownColumn, to: floorColumn, least: 0.95})
			latency.goal(ratio{of: ownColumn, to: upstreamColumn, most: 0.5})
		}
		rounds := b.rounds
		if n > 50 {
			rounds = max(1, b.rounds/2)
		}
		for r := range rounds {
			for _, c := range b.rotate(r) {
				if c.floor != nil {
					c.floor.allow(n)
					one, err := b.batchOne(ctx, c, n)
					if err != nil {
						return err
					}
					wide.add(c.name, one.speed)
					c.floor.allow(4)
				}
				one, err := b.batchOne(ctx, c, n)
				if err != nil {
					return err
				}
				speed.add(c.name, one.speed)
				latency.add(c.name, one.started...)
				requests.add(c.name, one.requests/float64(n))
				all.add(c.name, inMilliseconds(one.cpu.all())/float64(n))
				if c.floor == nil {
					cpu.add(c.name, one.cpu.kubelet.Seconds())
				}
				node.add(c.name, inMilliseconds(one.cpu.node)/float64(n))
				control.add(c.name, inMilliseconds(one.cpu.control)/float64(n))
				own.add(c.name, inMilliseconds(one.cpu.own)/float64(n))
				allGone.add(c.name, inMilliseconds(one.gone))
				eachGone.add(c.name, one.ended...)
			}
			b.progress(r, speed, latency, all, requests, allGone)
		}
	}
	return nil
}

// batchResult is one batch in one column.
type batchResult struct {
	speed          float64 // pods per second
	cpu            shares
	requests       float64
	gone           time.Duration
	started, ended []float64 // milliseconds, of each pod
}

func (b *bench) batchOne(ctx context.Context, c *column, n int) (r batchResult, err error) {
	_, mark, err := b.control.Cluster.Requests(b.mark)
	if err != nil {
		return r, err
	}
	before, err := b.used(c)
	if err != nil {
		return r, err
	}
	pods, begun, last, err := b.createAll(ctx, c, withVolumes, n, &r.started)
	if err != nil {
		return r, err
	}
	r.speed = float64(n) / last.Sub(begun).Seconds()
	after, err := b.used(c)
	if err != nil {
		return r, err
	}
	r.cpu = after.since(before)
	kinds, err := b.requests(c, mark)
	if err != nil {
		return r, err
	}
	for _, k := range kinds {
		r.requests += float64(k)
	}
	say("  %s: %v", c.name, kinds)
	time.Sleep(time.Second)
	if r.gone, err = b.deleteAll(ctx, c, pods, &r.ended); err != nil {
		return r, err
	}
	return r, c.quiet(ctx)
}

// shares is CPU time by who used it.
type shares struct{ kubelet, node, control, own time.Duration }

func (s shares) all() time.Duration { return s.kubelet + s.node + s.control + s.own }

func (s shares) since(t shares) shares {
	return shares{s.kubelet - t.kubelet, s.node - t.node, s.control - t.control, s.own - t.own}
}

// used is the CPU time of all that has a part in a column's pods: the kubelet,
// the rest of the node, the control plane, and the benchmark itself, in which
// the floor's client runs. Where the CPU is what pods wait for, pods per
// second follow from it, and other programs on the machine do not show in it.
func (b *bench) used(c *column) (s shares, err error) {
	var err1, err2, err3, err4 error
	s.kubelet, err1 = c.cpu()
	s.node, err2 = c.node.CPU()
	s.node -= s.kubelet
	s.control, err3 = b.control.CPU()
	s.own, err4 = cpuTime(os.Getpid())
	for _, child := range children(os.Getpid()) { // counted already
		if t, err := cpuTime(child); err == nil {
			s.own -= t
		}
	}
	return s, errors.Join(err1, err2, err3, err4)
}

// requests counts what the column's node asked of the API server since the
// mark, costs of the node apart.
func (b *bench) requests(c *column, mark int64) (map[string]int, error) {
	requests, mark, err := b.control.Cluster.Requests(mark)
	if err != nil {
		return nil, err
	}
	b.mark = mark
	kinds := map[string]int{}
	for _, r := range requests {
		if r.User != "system:node:"+c.node.Name {
			continue
		}
		switch r.Resource {
		case "leases", "nodes", "nodes/status", "csinodes":
		default:
			kinds[r.Verb+" "+r.Resource]++
		}
	}
	return kinds, nil
}

// createAll creates pods at once and waits until all are Ready. It returns
// when the first was asked for and when the last was Ready.
func (b *bench) createAll(ctx context.Context, c *column, s shape, n int, latencies *[]float64) (pods []*v1.Pod, begun, last time.Time, err error) {
	waiters := make([]*waiter, n)
	for i := range n {
		p := s.pod(b.name(s.name), c)
		pods = append(pods, p)
		waiters[i] = b.observer.expect(p.Name, ready)
	}
	begins := make([]time.Time, n)
	errs := make([]error, n)
	var group sync.WaitGroup
	begun = time.Now()
	for i, p := range pods {
		group.Go(func() {
			begins[i] = time.Now()
			_, errs[i] = b.client.CoreV1().Pods(namespace).Create(ctx, p, metav1.CreateOptions{})
		})
	}
	group.Wait()
	for i := range pods {
		if errs[i] != nil {
			return nil, begun, last, fmt.Errorf("make pod: %w", errs[i])
		}
		seen, err := waiters[i].wait(ctx, "Ready on "+c.name)
		if err != nil {
			return nil, begun, last, err
		}
		if latencies != nil {
			*latencies = append(*latencies, inMilliseconds(seen.at.Sub(begins[i])))
		}
		if seen.at.After(last) {
			last = seen.at
		}
	}
	return pods, begun, last, nil
}

// deleteAll deletes pods by one request and waits until all are gone.
func (b *bench) deleteAll(ctx context.Context, c *column, pods []*v1.Pod, latencies *[]float64) (time.Duration, error) {
	var waiters []*waiter
	for _, p := range pods {
		waiters = append(waiters, b.observer.expect(p.Name, gone))
	}
	begin := time.Now()
	if err := b.client.CoreV1().Pods(namespace).DeleteCollection(ctx, metav1.DeleteOptions{},
		metav1.ListOptions{LabelSelector: "column=" + c.name}); err != nil {
		return 0, fmt.Errorf("delete pods: %w", err)
	}
	var last time.Time
	for _, w := range waiters {
		seen, err := w.wait(ctx, "its end")
		if err != nil {
			return 0, err
		}
		if latencies != nil {
			*latencies = append(*latencies, inMilliseconds(seen.at.Sub(begin)))
		}
		if seen.at.After(last) {
			last = seen.at
		}
	}
	return last.Sub(begin), nil
}

// deleteEverything deletes the pods of all columns and waits until nothing of
// them is left.
func (b *bench) deleteEverything(ctx context.Context) error {
	for _, c := range b.columns {
		list, err := b.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "column=" + c.name})
		if err != nil {
			return fmt.Errorf("list pods: %w", err)
		}
		var pods []*v1.Pod
		for i := range list.Items {
			pods = append(pods, &list.Items[i])
		}
		if _, err := b.deleteAll(ctx, c, pods, nil); err != nil {
			return err
		}
		if err := c.quiet(ctx); err != nil {
			return err
		}
	}
	return nil
}

// quiet waits until what follows the end of pods is over, so that the next
// column is measured alone. Upstream removes sandboxes once a minute only, which
// would fall into the time of another column: what is left after a while is
// removed here.
func (c *column) quiet(ctx context.Context) error {
	for end := time.Now().Add(3 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		sandboxes, err := c.node.Sandboxes(ctx, "", "")
		if err != nil {
			return err
		}
		if len(sandboxes) == 0 {
			break
		}
		if time.Now().Before(end) {
			continue
		}
		for _, s := range sandboxes {
			if s.State == runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
				// Its kubelet may be doing the same.
				_, _ = c.node.Runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: s.Id})
			}
		}
		break
	}
	time.Sleep(pause)
	return nil
}
