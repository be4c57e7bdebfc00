package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"syscall"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubelet/test/harness"
)

// create makes a pod and waits until it is Ready; it returns the pod as it was
// seen then and how long that took.
func (b *bench) create(ctx context.Context, c *column, s shape) (*v1.Pod, time.Duration, error) {
	pod := s.pod(b.name(s.name), c)
	w := b.observer.expect(pod.Name, ready)
	begin := time.Now()
	if _, err := b.client.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		return nil, 0, fmt.Errorf("make pod: %w", err)
	}
	seen, err := w.wait(ctx, "Ready on "+c.name)
	if err != nil {
		return nil, 0, err
	}
	return seen.pod, seen.at.Sub(begin), nil
}

// delete deletes a pod and waits until it is gone.
func (b *bench) delete(ctx context.Context, pod *v1.Pod) (time.Duration, error) {
	w := b.observer.expect(pod.Name, gone)
	begin := time.Now()
	if err := b.client.CoreV1().Pods(namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{}); err != nil {
		return 0, fmt.Errorf("delete pod: %w", err)
	}
	seen, err := w.wait(ctx, "its end")
	return seen.at.Sub(begin), err
}

// pause is what a column is given to finish what it does beside the way, before
// the next column is measured.
const pause = 250 * time.Millisecond

// warm starts and ends one pod in each column, which is not measured.
func (b *bench) warm(ctx context.Context, columns []*column, s shape) error {
	for _, c := range columns {
		pod, _, err := b.create(ctx, c, s)
		if err != nil {
			return err
		}
		if _, err := b.delete(ctx, pod); err != nil {
			return err
		}
	}
	time.Sleep(pause)
	return nil
}

func (b *bench) start(ctx context.Context) error {
	return b.oneAtATime(ctx, bare, withVolumes, threeContainers)
}

func (b *bench) remove(ctx context.Context) error { return b.oneAtATime(ctx, bare) }

// oneAtATime alternates between the columns with each pod. A process that has
// ended while it was being started is Ready for a moment; hence the pause
// before the deletion, which lets it install its signal handler.
func (b *bench) oneAtATime(ctx context.Context, shapes ...shape) error {
	if err := b.active(ctx, b.columns...); err != nil {
		return err
	}
	for _, s := range shapes {
		start := b.report.row("1", s.what+", created → Ready", milliseconds)
		start.goal(ratio{of: ownColumn, to: floorColumn, most: map[string]float64{bare.name: 1.1, withVolumes.name: 1.15}[s.name]})
		end := b.report.row("4", s.what+", deleted → gone", milliseconds)
		if s.name == bare.name {
			end.goal(ratio{of: ownColumn, to: floorColumn, most: 1.25})
		}
		calls := b.report.row("1", s.what+", of that the runtime's calls in the floor", milliseconds)
		calls.note()
		if err := b.warm(ctx, b.columns, s); err != nil {
			return err
		}
		for r := range b.rounds {
			for i := range b.pods {
				for _, c := range b.rotate(r + i) {
					pod, took, err := b.create(ctx, c, s)
					if err != nil {
						return err
					}
					start.add(c.name, inMilliseconds(took))
					if c.floor != nil {
						calls.add(c.name, inMilliseconds(c.floor.get(pod.UID).calls))
					}
					time.Sleep(pause)
					if took, err = b.delete(ctx, pod); err != nil {
						return err
					}
					end.add(c.name, inMilliseconds(took))
					time.Sleep(pause)
				}
			}
			b.progress(r, start, end)
		}
	}
	return nil
}

// kill kills the process of a container behind everybody's back.
func (b *bench) kill(ctx context.Context) error {
	if err := b.active(ctx, b.columns...); err != nil {
		return err
	}
	if err := b.warm(ctx, b.columns, bare); err != nil {
		return err
	}
	seen := b.report.row("3", "container killed → seen in the API", milliseconds)
	seen.goal(ratio{of: ownColumn, to: floorColumn, most: 1.3}, ratio{of: ownColumn, to: upstreamColumn, most: 0.2, tail: true})
	again := b.report.row("3", "container killed → running again", milliseconds)
	wrong := b.report.row("3", "terminated states without the runtime's exit code", count)
	wrong.total()
	for r := range b.rounds {
		for i := range b.pods {
			for _, c := range b.rotate(r + i) {
				if err := b.killOne(ctx, c, seen, again, wrong); err != nil {
					return err
				}
			}
		}
		b.progress(r, seen, again)
	}
	return nil
}

func (b *bench) killOne(ctx context.Context, c *column, seen, again, wrong *row) error {
	pod, _, err := b.create(ctx, c, bare)
	if err != nil {
		return err
	}
	// A relist has a period: the kill comes at any point of it.
	time.Sleep(pause + rand.N(time.Second))
	running, err := c.node.WaitContainer(ctx, namespace, pod.Name, "main")
	if err != nil {
		return err
	}
	pid, err := c.node.ContainerPid(running.Id)
	if err != nil {
		return err
	}
	lies := 0
	ended := b.observer.expect(pod.Name, func(p *v1.Pod) bool {
		t := termination(p)
		if t != nil && (t.ExitCode != 137 || t.ContainerID != "containerd://"+running.Id) {
			lies++
		}
		return t != nil
	})
	restarted := b.observer.expect(pod.Name, func(p *v1.Pod) bool {
		return p != nil && harness.ContainerStatus(p, "main").RestartCount == 1 && ready(p)
	})
	begin := time.Now()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill container: %w", err)
	}
	if c.floor != nil {
		p := c.floor.get(pod.UID)
		if err := c.floor.restart(ctx, p, p.containers[0]); err != nil {
			return err
		}
	}
	s, err := ended.wait(ctx, "the end of its container")
	if err != nil {
		return err
	}
	seen.add(c.name, inMilliseconds(s.at.Sub(begin)))
	if s, err = restarted.wait(ctx, "the restart of its container"); err != nil {
		return err
	}
	again.add(c.name, inMilliseconds(s.at.Sub(begin)))
	wrong.add(c.name, float64(lies))
	time.Sleep(pause)
	if _, err := b.delete(ctx, pod); err != nil {
		return err
	}
	time.Sleep(pause)
	return nil
}

// termination is what the pod's status says of an end of its container.
func termination(p *v1.Pod) *v1.ContainerStateTerminated {
	if p == nil {
		return nil
	}
	s := harness.ContainerStatus(p, "main")
	if s.State.Terminated != nil {
		return s.State.Terminated
	}
	return s.LastTerminationState.Terminated
}
