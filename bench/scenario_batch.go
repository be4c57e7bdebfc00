package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
	for _, n := range []int{50, 110} {
		what := fmt.Sprintf("%d pods with volumes at once", n)
		speed := b.report.row("2", what+": pods per second", perSecond)
		latency := b.report.row("2", what+": created → Ready", milliseconds)
		cpu := b.report.row("2", what+": CPU of the kubelet", cpuSeconds)
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
				if c.floor == nil {
					cpu.add(c.name, one.cpu.Seconds())
				}
				allGone.add(c.name, inMilliseconds(one.gone))
				eachGone.add(c.name, one.ended...)
			}
			b.progress(r, speed, latency, allGone)
		}
	}
	return nil
}

// batchResult is one batch in one column.
type batchResult struct {
	speed          float64 // pods per second
	cpu            time.Duration
	gone           time.Duration
	started, ended []float64 // milliseconds, of each pod
}

func (b *bench) batchOne(ctx context.Context, c *column, n int) (r batchResult, err error) {
	used, err := c.cpu()
	if err != nil {
		return r, err
	}
	pods, begun, last, err := b.createAll(ctx, c, withVolumes, n, &r.started)
	if err != nil {
		return r, err
	}
	r.speed = float64(n) / last.Sub(begun).Seconds()
	now, err := c.cpu()
	if err != nil {
		return r, err
	}
	r.cpu = now - used
	time.Sleep(time.Second)
	if r.gone, err = b.deleteAll(ctx, c, pods, &r.ended); err != nil {
		return r, err
	}
	return r, c.quiet(ctx)
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

// quiet waits until what follows the end of pods is over, so that the next
// column is measured alone. Upstream removes sandboxes once a minute only;
// what it then does is left to chance, as on any node.
func (c *column) quiet(ctx context.Context) error {
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		sandboxes, err := c.node.Sandboxes(ctx, "", "")
		if err != nil {
			return err
		}
		if len(sandboxes) == 0 {
			break
		}
	}
	time.Sleep(pause)
	return nil
}
