package cri

import (
	"context"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// RunPodSandbox creates and starts a sandbox. It may take twice the request
// timeout, because the network is set up in it.
func (c *Client) RunPodSandbox(ctx context.Context, config *runtimeapi.PodSandboxConfig, handler string) (string, error) {
	begin := time.Now()
	resp, err := do(ctx, c, verb{"run_podsandbox", "run sandbox of"}, podName(config), 2*c.timeout,
		c.rt.RunPodSandbox, &runtimeapi.RunPodSandboxRequest{Config: config, RuntimeHandler: handler})
	c.metrics.sandbox.WithLabelValues(handler).Observe(time.Since(begin).Seconds())
	if err == nil && resp.GetPodSandboxId() == "" {
		err = missing("run sandbox of", podName(config), "sandbox id")
	}
	if err != nil {
		c.metrics.sandboxErrors.WithLabelValues(handler).Inc()
		return "", err
	}
	return resp.PodSandboxId, nil
}

// StopPodSandbox stops what runs in the sandbox and tears its network down.
// It succeeds for a sandbox that is gone.
func (c *Client) StopPodSandbox(ctx context.Context, id string) error {
	_, err := do(ctx, c, verb{"stop_podsandbox", "stop sandbox"}, id, c.timeout,
		c.rt.StopPodSandbox, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id})
	return unlessGone(err)
}

// RemovePodSandbox removes the sandbox and its containers. It succeeds for a
// sandbox that is gone.
func (c *Client) RemovePodSandbox(ctx context.Context, id string) error {
	_, err := do(ctx, c, verb{"remove_podsandbox", "remove sandbox"}, id, c.timeout,
		c.rt.RemovePodSandbox, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id})
	return unlessGone(err)
}

// PodSandboxStatus returns the status, never nil, and with verbose the
// runtime's extra information (see Pid).
func (c *Client) PodSandboxStatus(ctx context.Context, id string, verbose bool) (*runtimeapi.PodSandboxStatusResponse, error) {
	resp, err := do(ctx, c, verb{"podsandbox_status", "get status of sandbox"}, id, c.read(),
		c.rt.PodSandboxStatus, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id, Verbose: verbose})
	if err == nil && (resp.GetStatus().GetId() == "" || resp.Status.Metadata == nil) {
		err = missing("get status of sandbox", id, "status")
	}
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// ListPodSandbox returns the sandboxes that match the filter; nil matches all.
func (c *Client) ListPodSandbox(ctx context.Context, filter *runtimeapi.PodSandboxFilter) ([]*runtimeapi.PodSandbox, error) {
	resp, err := do(ctx, c, verb{"list_podsandbox", "list sandboxes"}, "", c.read(),
		c.rt.ListPodSandbox, &runtimeapi.ListPodSandboxRequest{Filter: filter})
	if err != nil {
		return nil, err
	}
	return resp.GetItems(), nil
}

// PortForward returns the URL at which the runtime serves the stream.
func (c *Client) PortForward(ctx context.Context, req *runtimeapi.PortForwardRequest) (string, error) {
	resp, err := do(ctx, c, verb{"port_forward", "forward port of sandbox"}, req.GetPodSandboxId(), c.timeout, c.rt.PortForward, req)
	if err == nil && resp.GetUrl() == "" {
		err = missing("forward port of sandbox", req.GetPodSandboxId(), "url")
	}
	return resp.GetUrl(), err
}

func podName(config *runtimeapi.PodSandboxConfig) string {
	m := config.GetMetadata()
	return m.GetNamespace() + "/" + m.GetName()
}
