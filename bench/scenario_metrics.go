package main

import (
	"context"
	"fmt"
	"net/http"
	"time"

	v1 "k8s.io/api/core/v1"
)

// metrics reads what monitoring reads, with 50 pods and, of a runtime in
// memory, with 250.
func (b *bench) metrics(ctx context.Context) error {
	for _, c := range b.kubelets(0) {
		if err := b.active(ctx, c); err != nil {
			return err
		}
		if err := b.metricsOf(ctx, c, 50, ""); err != nil {
			return err
		}
	}
	if err := b.active(ctx); err != nil {
		return err
	}
	for _, c := range b.kubelets(1) {
		if err := b.inMemory(ctx, c, func() error { return b.metricsOf(ctx, c, 250, inMemorySuffix) }); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) metricsOf(ctx context.Context, c *column, n int, suffix string) error {
	var pods []*v1.Pod
	pods, _, _, err := b.createAll(ctx, c, withVolumes, n, nil)
	if err != nil {
		return err
	}
	time.Sleep(b.settle)
	if err := b.measureEndpoints(ctx, c, n, suffix); err != nil {
		return err
	}
	if _, err := b.deleteAll(ctx, c, pods, nil); err != nil {
		return err
	}
	return c.quiet(ctx)
}

// readings is how often each endpoint is read, and between them there is more
// time than this kubelet keeps a sample for. CPU time is counted in ticks
// of 10 ms, hence for all of them together.
const (
	readings = 12
	apart    = 1100 * time.Millisecond
)

func (b *bench) measureEndpoints(ctx context.Context, c *column, n int, suffix string) error {
	client, base, err := c.https()
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	idle, err := c.usedDuring(func() error {
		time.Sleep(readings * apart)
		return nil
	})
	if err != nil {
		return err
	}
	for _, path := range []string{"/stats/summary", "/metrics/cadvisor", "/metrics/resource"} {
		what := fmt.Sprintf("%s with %d pods%s: ", path, n, suffix)
		took := b.report.row("8", what+"answered after", milliseconds)
		took.goal(ratio{of: ownColumn, to: upstreamColumn, most: 0.2})
		cost := b.report.row("8", what+"CPU of the kubelet for one answer", cpuMilliseconds)
		// Upstream answers from what it collects all the time; who asks for it
		// pays for both.
		whole := b.report.row("8", what+"the same, with what the kubelet collects before", cpuMilliseconds)
		whole.goal(ratio{of: ownColumn, to: upstreamColumn, most: 0.2})
		size := b.report.row("8", what+"size", kibibytes)
		if err := b.readOften(ctx, c, client, base+path, idle, took, cost, whole, size); err != nil {
			return err
		}
		b.progress(0, took, cost, whole)
	}
	return nil
}

// readOften takes what an idle kubelet uses meanwhile from the cost, but not
// from the whole.
func (b *bench) readOften(ctx context.Context, c *column, client *http.Client, url string, idle time.Duration, took, cost, whole, size *row) error {
	if _, err := fetch(ctx, client, url); err != nil { // opens the connection
		return err
	}
	var bytes int64
	busy, err := c.usedDuring(func() (err error) {
		for range readings {
			begin := time.Now()
			bytes, err = fetch(ctx, client, url)
			if err != nil {
				return err
			}
			took.add(c.name, inMilliseconds(time.Since(begin)))
			time.Sleep(time.Until(begin.Add(apart)))
		}
		return nil
	})
	if err != nil {
		return err
	}
	cost.add(c.name, max(0, inMilliseconds(busy-idle)/readings))
	whole.add(c.name, inMilliseconds(busy)/readings)
	size.add(c.name, float64(bytes)/1024)
	return nil
}

// usedDuring is the kubelet's CPU time while something else is done.
func (c *column) usedDuring(do func() error) (time.Duration, error) {
	before, err := c.cpu()
	if err != nil {
		return 0, err
	}
	if err := do(); err != nil {
		return 0, err
	}
	after, err := c.cpu()
	return after - before, err
}
