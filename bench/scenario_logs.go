package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	v1 "k8s.io/api/core/v1"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"

	"kubelet/test/harness"
)

// logLine is how long a line of the log is, its end included.
const logLine = 100

// logs reads the whole log of a container by a client that only counts, from
// the kubelet's own port and through the API server.
func (b *bench) logs(ctx context.Context) error {
	if err := b.active(ctx); err != nil {
		return err
	}
	// Nothing is to be rotated away.
	for _, c := range b.kubelets(0) {
		if err := c.startKubelet(ctx, func(k *kubeletconfig.KubeletConfiguration) { k.ContainerLogMaxSize = "4Gi" }); err != nil {
			return err
		}
	}
	pods := map[*column]*v1.Pod{}
	for _, c := range b.kubelets(0) {
		pod, _, err := b.create(ctx, c, bare)
		if err != nil {
			return err
		}
		pods[c] = pod
		if err := writeLog(c.node.Path(filepath.Join(harness.LogDir(pod), "main", "0.log")), b.log*1e6/logLine); err != nil {
			return err
		}
	}
	for r := range max(1, b.rounds/2) {
		for _, c := range b.kubelets(r) {
			direct, base, err := c.https()
			if err != nil {
				return err
			}
			if err := b.readLog(ctx, c, "directly", direct, fmt.Sprintf("%s/containerLogs/%s/%s/main", base, namespace, pods[c].Name)); err != nil {
				return err
			}
			through, err := secureClient(b.control)
			if err != nil {
				return err
			}
			if err := b.readLog(ctx, c, "through the API server", through,
				fmt.Sprintf("%s/api/v1/namespaces/%s/pods/%s/log", b.control.Cluster.Config.Host, namespace, pods[c].Name)); err != nil {
				return err
			}
		}
	}
	if err := b.deleteEverything(ctx); err != nil {
		return err
	}
	return b.active(ctx) // the next scenario starts them as usual
}

func (b *bench) readLog(ctx context.Context, c *column, way string, client *http.Client, url string) error {
	what := fmt.Sprintf("log of %d MB read %s", b.log, way)
	speed := b.report.row("8", what, mibPerSecond)
	speed.goal(ratio{of: ownColumn, to: upstreamColumn, least: map[string]float64{"directly": 10, "through the API server": 5}[way]})
	cost := b.report.row("8", what+": CPU of the kubelet", perMiB)
	defer client.CloseIdleConnections()
	before, err := c.cpu()
	if err != nil {
		return err
	}
	begin := time.Now()
	n, err := fetch(ctx, client, url)
	if err != nil {
		return err
	}
	if n != int64(b.log)*1e6 {
		return fmt.Errorf("read log of %s %s: %d bytes, not %d MB", c.name, way, n, b.log)
	}
	seconds := time.Since(begin).Seconds()
	after, err := c.cpu()
	if err != nil {
		return err
	}
	speed.add(c.name, float64(n)/(1<<20)/seconds)
	cost.add(c.name, inMilliseconds(after-before)/(float64(n)/(1<<20)))
	b.progress(0, speed, cost)
	return nil
}

// fetch reads an answer to its end and returns its size.
func fetch(ctx context.Context, client *http.Client, url string) (int64, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, fmt.Errorf("make request: %w", err)
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		why, _ := io.ReadAll(io.LimitReader(response.Body, 200))
		return 0, fmt.Errorf("get %s: %s: %s", url, response.Status, why)
	}
	n, err := io.Copy(io.Discard, response.Body)
	if err != nil {
		return n, fmt.Errorf("get %s: %w", url, err)
	}
	return n, nil
}

// writeLog adds what a runtime would have written to a log.
func writeLog(path string, lines int) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return fmt.Errorf("write log: %w", err)
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, 1<<20)
	at := time.Now().Add(-time.Hour).UTC()
	line := make([]byte, 0, 2*logLine)
	for i := range lines {
		at = at.Add(time.Microsecond)
		line = at.AppendFormat(line[:0], "2006-01-02T15:04:05.000000000Z07:00")
		line = fmt.Appendf(line, " stdout F %0*d\n", logLine-1, i)
		_, _ = w.Write(line) // Flush tells
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write log: %w", err)
	}
	return nil
}
