package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"

	"kubelet/internal/cri/critest"
	"kubelet/test/harness"
)

// idleAll measures kubelets that have nothing to do, one after another.
func (b *bench) idleAll(ctx context.Context) error {
	for turn := range max(1, b.rounds/3) {
		for _, c := range b.kubelets(turn) {
			if err := b.active(ctx, c); err != nil {
				return err
			}
			if err := b.idleOne(ctx, c, []int{0, 50, 110}, ""); err != nil {
				return err
			}
		}
		// Beyond the addresses of one node's network: pods of a runtime in
		// memory, the same for both.
		if err := b.active(ctx); err != nil {
			return err
		}
		for _, c := range b.kubelets(turn) {
			err := b.inMemory(ctx, c, func() error { return b.idleOne(ctx, c, []int{250, 500}, inMemorySuffix) })
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// idleOne measures with growing numbers of pods, and removes them.
func (b *bench) idleOne(ctx context.Context, c *column, levels []int, suffix string) error {
	var pods []*v1.Pod
	for _, n := range levels {
		more, _, _, err := b.createAll(ctx, c, withVolumes, n-len(pods), nil)
		if err != nil {
			return err
		}
		pods = append(pods, more...)
		time.Sleep(b.settle)
		if err := b.measureIdle(ctx, c, n, suffix); err != nil {
			return err
		}
	}
	_, err := b.deleteAll(ctx, c, pods, nil)
	if err != nil {
		return err
	}
	return c.quiet(ctx)
}

func (b *bench) measureIdle(ctx context.Context, c *column, n int, suffix string) error {
	what := fmt.Sprintf("idle with %d pods%s: ", n, suffix)
	cpu := b.report.row("5", what+"CPU", millicores)
	rss := b.report.row("5", what+"RSS", mebibytes)
	anonymous := b.report.row("5", what+"anonymous memory", mebibytes)
	goroutines := b.report.row("5", what+"goroutines", count)
	if n == 50 {
		cpu.goal(ratio{of: ownColumn, to: upstreamColumn, most: 0.1})
		rss.goal(ratio{of: ownColumn, to: upstreamColumn, most: 0.4})
	}
	before, err := c.cpu()
	if err != nil {
		return err
	}
	begin := time.Now()
	select {
	case <-time.After(b.idle):
	case <-ctx.Done():
		return ctx.Err()
	}
	after, err := c.cpu()
	if err != nil {
		return err
	}
	cpu.add(c.name, 1000*(after-before).Seconds()/time.Since(begin).Seconds())
	m, err := memoryOf(c.kubelet.Process().Pid())
	if err != nil {
		return err
	}
	rss.add(c.name, float64(m.rss)/(1<<20))
	anonymous.add(c.name, float64(m.anonymous)/(1<<20))
	if g, err := c.metric(ctx, "go_goroutines"); err == nil {
		goroutines.add(c.name, g)
	}
	b.progress(0, cpu, rss)
	return nil
}

// https is a client of the kubelet's own port, with the cluster
// administrator's certificate.
func (c *column) https() (*http.Client, string, error) {
	client, err := secureClient(c.node)
	return client, "https://" + net.JoinHostPort(c.node.IP(), "10250"), err
}

// secureClient is an HTTP client on a node, with the cluster administrator's
// certificate.
func secureClient(node *harness.Node) (*http.Client, error) {
	cert, err := tls.X509KeyPair(node.Cluster.Config.CertData, node.Cluster.Config.KeyData)
	if err != nil {
		return nil, fmt.Errorf("load client certificate: %w", err)
	}
	return &http.Client{Timeout: patience, Transport: &http.Transport{
		DialContext: node.Dial,
		// A kubelet's certificate is its own.
		TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{cert}, InsecureSkipVerify: true},
	}}, nil
}

// metric reads one value from the kubelet's /metrics.
func (c *column) metric(ctx context.Context, name string) (float64, error) {
	client, base, err := c.https()
	if err != nil {
		return 0, err
	}
	defer client.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, fmt.Errorf("read metrics: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("read metrics: %s", response.Status)
	}
	for lines := bufio.NewScanner(io.LimitReader(response.Body, 64<<20)); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			return strconv.ParseFloat(value, 64)
		}
	}
	return 0, fmt.Errorf("no metric %s", name)
}

const (
	memorySocket   = "/run/memory-runtime.sock"
	inMemorySuffix = " (runtime in memory)"
)

// serveMemoryRuntime is the program behind memorySocket.
func serveMemoryRuntime(path string) error {
	runtime := critest.New(critest.Config{Seed: 1, Cgroupfs: true, NoPids: true})
	runtime.AddImage(image)
	// One that was killed has left its socket.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove socket: %w", err)
	}
	if _, err := runtime.Serve(path); err != nil {
		return err
	}
	select {}
}

// inMemory does something while the column's kubelet runs on a runtime that has
// no processes.
func (b *bench) inMemory(ctx context.Context, c *column, do func() error) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	p, err := c.node.Start(harness.Command{Name: "memory-runtime", Path: self, Args: []string{"memory-runtime", memorySocket}})
	if err != nil {
		return err
	}
	defer p.Kill()
	if err := c.startKubelet(ctx, func(k *kubeletconfig.KubeletConfiguration) { k.ContainerRuntimeEndpoint = "unix://" + memorySocket }); err != nil {
		return err
	}
	defer c.stopKubelet()
	return do()
}
