package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"kubelet/test/harness"
)

// exec runs a short command in a container as kubectl does; the floor asks the
// runtime for an address and streams from there.
func (b *bench) exec(ctx context.Context) error {
	if err := b.active(ctx, b.columns...); err != nil {
		return err
	}
	took := b.report.row("8", "exec of a command that says a word, through the API server (floor: from the runtime)", milliseconds)
	ways := map[*column]func(context.Context) error{}
	for _, c := range b.columns {
		pod, _, err := b.create(ctx, c, bare)
		if err != nil {
			return err
		}
		ways[c] = func(ctx context.Context) error { return b.execThroughAPI(ctx, pod.Name) }
		if c.floor != nil {
			id := c.floor.get(pod.UID).containers[0].id
			ways[c] = func(ctx context.Context) error { return c.execFromRuntime(ctx, id) }
		}
	}
	for r := range b.rounds {
		for i := range b.pods {
			for _, c := range b.rotate(r + i) {
				begin := time.Now()
				if err := ways[c](ctx); err != nil {
					return fmt.Errorf("exec on %s: %w", c.name, err)
				}
				took.add(c.name, inMilliseconds(time.Since(begin)))
				time.Sleep(pause / 5)
			}
		}
		b.progress(r, took)
	}
	return b.deleteEverything(ctx)
}

// The program fails without further words, and says why.
var command = []string{"/agent", "has"}

func (b *bench) execThroughAPI(ctx context.Context, pod string) error {
	config := b.control.Cluster.Config
	address := fmt.Sprintf("%s/api/v1/namespaces/%s/pods/%s/exec?%s", config.Host, namespace, pod,
		url.Values{"command": command, "container": {"main"}, "stdout": {"true"}, "stderr": {"true"}}.Encode())
	executor, err := remotecommand.NewWebSocketExecutor(config, http.MethodGet, address)
	if err != nil {
		return fmt.Errorf("make client: %w", err)
	}
	return stream(ctx, b.control, executor)
}

func (c *column) execFromRuntime(ctx context.Context, id string) error {
	r, err := c.node.Runtime.Exec(ctx, &runtimeapi.ExecRequest{ContainerId: id, Cmd: command, Stdout: true, Stderr: true})
	if err != nil {
		return fmt.Errorf("ask the runtime: %w", err)
	}
	address, err := url.Parse(r.Url)
	if err != nil {
		return fmt.Errorf("read the runtime's address: %w", err)
	}
	// Its server knows no WebSocket protocol that the client library has.
	executor, err := remotecommand.NewSPDYExecutor(&rest.Config{Host: address.Host}, http.MethodPost, address)
	if err != nil {
		return fmt.Errorf("make client: %w", err)
	}
	return stream(ctx, c.node, executor)
}

// stream runs one command to its end. The client library opens the connection
// on the thread that asks for it, which is the node's.
func stream(ctx context.Context, node *harness.Node, executor remotecommand.Executor) error {
	var out strings.Builder
	err := node.Inside(func() error {
		return executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &out, Stderr: &out})
	})
	if text := out.String(); !strings.Contains(text, "is missing") {
		return fmt.Errorf("the command said %q: %w", text, err)
	}
	return nil
}
