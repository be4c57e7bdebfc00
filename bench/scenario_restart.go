package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubelet/test/harness"
)

// restart kills kubelets that have 110 pods and starts them again.
func (b *bench) restart(ctx context.Context) error {
	const n = 110
	what := fmt.Sprintf("restart with %d pods: ", n)
	known := b.report.row("6", what+"→ all known and node Ready", milliseconds)
	known.goal(ratio{of: ownColumn, to: upstreamColumn, most: 0.5})
	fresh := b.report.row("6", what+"→ a new pod Ready", milliseconds)
	early := b.report.row("6", what+"CPU until then", cpuSeconds)
	cpu := b.report.row("6", what+"CPU of the first 30 s", cpuSeconds)
	cpu.goal(ratio{of: ownColumn, to: upstreamColumn, most: 0.5})
	pods := map[*column][]*v1.Pod{}
	for _, c := range b.kubelets(0) {
		if err := b.active(ctx, c); err != nil {
			return err
		}
		made, _, _, err := b.createAll(ctx, c, withVolumes, n, nil)
		if err != nil {
			return err
		}
		pods[c] = made
	}
	for r := range b.rounds {
		for _, c := range b.kubelets(r) {
			if err := b.active(ctx, c); err != nil {
				return err
			}
			time.Sleep(b.settle)
			if err := b.restartOne(ctx, c, n, known, fresh, early, cpu); err != nil {
				return err
			}
		}
		b.progress(r, known, fresh, cpu)
	}
	for _, c := range b.kubelets(0) {
		if err := b.active(ctx, c); err != nil {
			return err
		}
		if _, err := b.deleteAll(ctx, c, pods[c], nil); err != nil {
			return err
		}
		if err := c.quiet(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) restartOne(ctx context.Context, c *column, n int, known, fresh, early, cpu *row) error {
	c.kubelet.Kill()
	// Times in the API have whole seconds.
	time.Sleep(time.Second)
	pod := bare.pod(b.name("fresh"), c)
	w := b.observer.expect(pod.Name, ready)
	if _, err := b.client.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("make pod: %w", err)
	}
	begin := time.Now()
	if err := c.kubelet.Start(); err != nil {
		return err
	}
	if err := c.waitKnown(ctx, n+1, begin); err != nil {
		return err
	}
	known.add(c.name, inMilliseconds(time.Since(begin)))
	seen, err := w.wait(ctx, "Ready on "+c.name)
	if err != nil {
		return err
	}
	fresh.add(c.name, inMilliseconds(seen.at.Sub(begin)))
	used, err := c.cpu()
	if err != nil {
		return err
	}
	early.add(c.name, used.Seconds())
	time.Sleep(time.Until(begin.Add(30 * time.Second)))
	if used, err = c.cpu(); err != nil {
		return err
	}
	cpu.add(c.name, used.Seconds())
	_, err = b.delete(ctx, seen.pod)
	return err
}

// waitKnown waits until the kubelet lists all pods, each with a status, is
// healthy, and has said since the start that the node is Ready: its lease is
// renewed and the condition true.
func (c *column) waitKnown(ctx context.Context, n int, since time.Time) error {
	client, base, err := c.https()
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	api := c.node.Cluster.Client
	steps := []func() error{
		func() error {
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/pods", nil)
			if err != nil {
				return err
			}
			response, err := client.Do(request)
			if err != nil {
				return fmt.Errorf("list pods of the kubelet: %w", err)
			}
			defer response.Body.Close()
			var list v1.PodList
			if err := json.NewDecoder(response.Body).Decode(&list); err != nil {
				return fmt.Errorf("list pods of the kubelet: %s: %w", response.Status, err)
			}
			if len(list.Items) < n {
				return fmt.Errorf("the kubelet knows %d of %d pods", len(list.Items), n)
			}
			return nil
		},
		func() error {
			lease, err := api.CoordinationV1().Leases("kube-node-lease").Get(ctx, c.node.Name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if lease.Spec.RenewTime == nil || lease.Spec.RenewTime.Before(&metav1.MicroTime{Time: since}) {
				return fmt.Errorf("the lease of %s was not renewed", c.name)
			}
			return nil
		},
		func() error {
			node, err := api.CoreV1().Nodes().Get(ctx, c.node.Name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			for _, condition := range node.Status.Conditions {
				if condition.Type == v1.NodeReady && condition.Status == v1.ConditionTrue {
					return nil
				}
			}
			return fmt.Errorf("node %s is not Ready", c.name)
		},
	}
	return harness.Until(ctx, patience, c.name+" to know its pods", func(context.Context) error {
		for len(steps) > 0 {
			if err := steps[0](); err != nil {
				return err
			}
			steps = steps[1:]
		}
		return nil
	})
}
