package main

import (
	"context"
	"fmt"
	"sync"
)

// churn starts and removes pods one after another, on all kubelets at once,
// and looks whether each leaves something behind in the kubelet's memory.
func (b *bench) churn(ctx context.Context) error {
	if err := b.active(ctx, b.kubelets(0)...); err != nil {
		return err
	}
	errs := make([]error, len(b.columns))
	traces := make([]trace, len(b.columns))
	var group sync.WaitGroup
	for i, c := range b.columns {
		if c.floor == nil {
			group.Go(func() { traces[i], errs[i] = b.churnOne(ctx, c) })
		}
	}
	group.Wait()
	what := fmt.Sprintf("%d pods one after another: ", b.options.churn)
	first, last := b.report.row("8", what+"RSS after a fifth of them", mebibytes), b.report.row("8", what+"RSS after all", mebibytes)
	memory := b.report.row("8", what+"growth of anonymous memory over the second half", kibPerPod)
	routines := b.report.row("8", what+"growth of goroutines over the second half", perPod)
	for i, c := range b.columns {
		if errs[i] != nil {
			return errs[i]
		}
		if t := traces[i]; len(t.pods) > 0 {
			first.add(c.name, t.rss[len(t.rss)/5])
			last.add(c.name, t.rss[len(t.rss)-1])
			half := len(t.pods) / 2
			memory.add(c.name, slope(t.pods[half:], t.anonymous[half:]))
			routines.add(c.name, slope(t.pods[half:], t.goroutines[half:]))
		}
	}
	b.progress(0, first, last, memory, routines)
	return nil
}

// trace is how a kubelet was after so many pods.
type trace struct {
	pods       []float64
	rss        []float64 // MiB
	anonymous  []float64 // KiB
	goroutines []float64
}

func (b *bench) churnOne(ctx context.Context, c *column) (t trace, err error) {
	for i := range b.options.churn {
		pod, _, err := b.create(ctx, c, withVolumes)
		if err != nil {
			return t, err
		}
		if _, err := b.delete(ctx, pod); err != nil {
			return t, err
		}
		if i%5 != 4 {
			continue
		}
		m, err := memoryOf(c.kubelet.Process().Pid())
		if err != nil {
			return t, err
		}
		g, err := c.metric(ctx, "go_goroutines")
		if err != nil {
			return t, err
		}
		t.pods = append(t.pods, float64(i+1))
		t.rss = append(t.rss, float64(m.rss)/(1<<20))
		t.anonymous = append(t.anonymous, float64(m.anonymous)/1024)
		t.goroutines = append(t.goroutines, g)
	}
	return t, nil
}

// slope is that of the line of least squares.
func slope(x, y []float64) float64 {
	var sx, sy, sxx, sxy float64
	n := float64(len(x))
	for i := range x {
		sx, sy, sxx, sxy = sx+x[i], sy+y[i], sxx+x[i]*x[i], sxy+x[i]*y[i]
	}
	if d := n*sxx - sx*sx; d != 0 {
		return (n*sxy - sx*sy) / d
	}
	return 0
}
