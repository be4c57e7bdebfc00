package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// healthImage is a program that is ready until illFile exists, whichever way
// it is asked.
const (
	healthImage = "localhost/test/health:1"
	illFile     = "/tmp/ill"
)

// probeKind is a way to ask, and how many pods are asked. Each command is a
// process in the container that the runtime starts: 50 a second are more than
// two cores can do, whoever asks for them.
type probeKind struct {
	name    string
	pods    int
	handler v1.ProbeHandler
}

func probeKinds() []probeKind {
	return []probeKind{
		{"HTTP", 50, v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(8080)}}},
		{"TCP", 50, v1.ProbeHandler{TCPSocket: &v1.TCPSocketAction{Port: intstr.FromInt32(7070)}}},
		{"gRPC", 50, v1.ProbeHandler{GRPC: &v1.GRPCAction{Port: 9090}}},
		{"exec", 10, v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"/health", "check", illFile}}}},
	}
}

// shape is a pod that is asked for its readiness once a second; one answer
// decides.
func (k probeKind) shape() shape {
	return shape{"probed", "pod with a readiness probe", func(p *v1.Pod) {
		main := &p.Spec.Containers[0]
		main.Image, main.Args = healthImage, []string{"serve", illFile}
		// A loaded node may take long to run a command.
		main.ReadinessProbe = &v1.Probe{ProbeHandler: k.handler, PeriodSeconds: 1, TimeoutSeconds: 5, FailureThreshold: 1}
	}}
}

// probe measures what it costs to ask pods each second, and how soon a pod
// that is no longer ready is seen to be so: half a second is the least that
// can be had on average.
func (b *bench) probe(ctx context.Context) error {
	for turn := range max(1, b.rounds/3) {
		for _, c := range b.kubelets(turn) {
			if err := b.active(ctx, c); err != nil {
				return err
			}
			for _, kind := range probeKinds() {
				if err := b.probeOne(ctx, c, kind); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (b *bench) probeOne(ctx context.Context, c *column, kind probeKind) error {
	n := kind.pods
	what := fmt.Sprintf("%d pods with a %s probe each second: ", n, kind.name)
	cpu := b.report.row("7", what+"CPU of the kubelet", millicores)
	all := b.report.row("7", what+"CPU of the kubelet, the runtime and the pods", millicores)
	seen := b.report.row("7", what+"no longer ready → seen in the API", milliseconds)
	pods, _, _, err := b.createAll(ctx, c, kind.shape(), n, nil)
	if err != nil {
		return err
	}
	time.Sleep(b.settle / 3)
	before, err := b.used(c)
	if err != nil {
		return err
	}
	begin := time.Now()
	time.Sleep(b.idle / 2)
	after, err := b.used(c)
	if err != nil {
		return err
	}
	used, seconds := after.since(before), time.Since(begin).Seconds()
	cpu.add(c.name, 1000*used.kubelet.Seconds()/seconds)
	all.add(c.name, 1000*(used.kubelet+used.node).Seconds()/seconds)

	delays, err := b.fallIll(ctx, c, pods[:n/2])
	if err != nil {
		return err
	}
	seen.add(c.name, delays...)
	b.progress(0, cpu, all, seen)
	if _, err := b.deleteAll(ctx, c, pods, nil); err != nil {
		return err
	}
	return c.quiet(ctx)
}

// fallIll makes pods unready, each at a random point of two periods, and
// returns how many milliseconds each took to be seen so.
func (b *bench) fallIll(ctx context.Context, c *column, pods []*v1.Pod) ([]float64, error) {
	delays, errs := make([]float64, len(pods)), make([]error, len(pods))
	var group sync.WaitGroup
	for i, p := range pods {
		file, err := c.inContainer(ctx, p.Name, illFile)
		if err != nil {
			return nil, err
		}
		w := b.observer.expect(p.Name, func(p *v1.Pod) bool { return p != nil && !ready(p) })
		group.Go(func() {
			time.Sleep(rand.N(2 * time.Second))
			begin := time.Now()
			if errs[i] = os.WriteFile(file, nil, 0o644); errs[i] != nil {
				return
			}
			var s sighting
			s, errs[i] = w.wait(ctx, "not to be ready")
			delays[i] = inMilliseconds(s.at.Sub(begin))
		})
	}
	group.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, fmt.Errorf("pods that are no longer ready: %w", err)
		}
	}
	return delays, nil
}

// inContainer is where the benchmark finds a file of a pod's main container.
func (c *column) inContainer(ctx context.Context, pod, file string) (string, error) {
	container, err := c.node.WaitContainer(ctx, namespace, pod, "main")
	if err != nil {
		return "", err
	}
	pid, err := c.node.ContainerPid(container.Id)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("/proc/%d/root%s", pid, file), nil
}
