package cri

import (
	"context"
	"errors"
	"fmt"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// CreateContainer creates a container in a sandbox that runs.
func (c *Client) CreateContainer(ctx context.Context, sandboxID string, config *runtimeapi.ContainerConfig, sandbox *runtimeapi.PodSandboxConfig) (string, error) {
	object := podName(sandbox) + "/" + config.GetMetadata().GetName()
	resp, err := do(ctx, c, verb{"create_container", "create container"}, object, c.timeout,
		c.rt.CreateContainer, &runtimeapi.CreateContainerRequest{PodSandboxId: sandboxID, Config: config, SandboxConfig: sandbox})
	if err == nil && resp.GetContainerId() == "" {
		err = missing("create container", object, "container id")
	}
	return resp.GetContainerId(), err
}

// StartContainer starts a created container.
func (c *Client) StartContainer(ctx context.Context, id string) error {
	_, err := do(ctx, c, verb{"start_container", "start container"}, id, c.timeout,
		c.rt.StartContainer, &runtimeapi.StartContainerRequest{ContainerId: id})
	return err
}

// StopContainer sends the container's stop signal, and SIGKILL after grace,
// which the runtime takes in whole seconds: a fraction counts as one. Its
// deadline is grace and the request timeout together. It succeeds for a
// container that is gone.
func (c *Client) StopContainer(ctx context.Context, id string, grace time.Duration) error {
	seconds := int64((max(grace, 0) + time.Second - 1) / time.Second)
	_, err := do(ctx, c, verb{"stop_container", "stop container"}, id, time.Duration(seconds)*time.Second+c.timeout,
		c.rt.StopContainer, &runtimeapi.StopContainerRequest{ContainerId: id, Timeout: seconds})
	return unlessGone(err)
}

// RemoveContainer removes a container, killing it if it runs. It succeeds for
// a container that is gone.
func (c *Client) RemoveContainer(ctx context.Context, id string) error {
	_, err := do(ctx, c, verb{"remove_container", "remove container"}, id, c.timeout,
		c.rt.RemoveContainer, &runtimeapi.RemoveContainerRequest{ContainerId: id})
	return unlessGone(err)
}

// ListContainers returns the containers that match the filter; nil matches
// all, dead ones included.
func (c *Client) ListContainers(ctx context.Context, filter *runtimeapi.ContainerFilter) ([]*runtimeapi.Container, error) {
	resp, err := do(ctx, c, verb{"list_containers", "list containers"}, "", c.read(),
		c.rt.ListContainers, &runtimeapi.ListContainersRequest{Filter: filter})
	if err != nil {
		return nil, err
	}
	return resp.GetContainers(), nil
}

// ListContainerStats returns what containers use. Runtimes answer with
// whatever they have; for a container that just ended it may be little.
func (c *Client) ListContainerStats(ctx context.Context) ([]*runtimeapi.ContainerStats, error) {
	resp, err := do(ctx, c, verb{"list_container_stats", "list container stats"}, "", c.read(),
		c.rt.ListContainerStats, &runtimeapi.ListContainerStatsRequest{})
	if err != nil {
		return nil, err
	}
	return resp.GetStats(), nil
}

// ContainerStatus returns the status, never nil, and with verbose the
// runtime's extra information (see Pid), which costs the runtime some work.
func (c *Client) ContainerStatus(ctx context.Context, id string, verbose bool) (*runtimeapi.ContainerStatusResponse, error) {
	resp, err := do(ctx, c, verb{"container_status", "get status of container"}, id, c.read(),
		c.rt.ContainerStatus, &runtimeapi.ContainerStatusRequest{ContainerId: id, Verbose: verbose})
	if err == nil && (resp.GetStatus().GetId() == "" || resp.Status.Metadata == nil) {
		err = missing("get status of container", id, "status")
	}
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// UpdateContainerResources changes limits of a container in place.
func (c *Client) UpdateContainerResources(ctx context.Context, id string, resources *runtimeapi.ContainerResources) error {
	_, err := do(ctx, c, verb{"update_container", "update resources of container"}, id, c.timeout,
		c.rt.UpdateContainerResources, &runtimeapi.UpdateContainerResourcesRequest{
			ContainerId: id, Linux: resources.GetLinux(), Windows: resources.GetWindows(),
		})
	return err
}

// ReopenContainerLog makes the runtime open the log file anew, after the old
// one was renamed.
func (c *Client) ReopenContainerLog(ctx context.Context, id string) error {
	_, err := do(ctx, c, verb{"reopen_container_log", "reopen log of container"}, id, c.timeout,
		c.rt.ReopenContainerLog, &runtimeapi.ReopenContainerLogRequest{ContainerId: id})
	return err
}

// CheckpointContainer writes the state of a running container to an archive.
// The runtime gives up after timeout (whole seconds); 0 leaves it to the
// runtime, and the deadline is the request timeout.
func (c *Client) CheckpointContainer(ctx context.Context, id, location string, timeout time.Duration) error {
	seconds := int64((max(timeout, 0) + time.Second - 1) / time.Second)
	_, err := do(ctx, c, verb{"checkpoint_container", "checkpoint container"}, id, time.Duration(seconds)*time.Second+c.timeout,
		c.rt.CheckpointContainer, &runtimeapi.CheckpointContainerRequest{ContainerId: id, Location: location, Timeout: seconds})
	return err
}

// Exec returns the URL at which the runtime serves the stream.
func (c *Client) Exec(ctx context.Context, req *runtimeapi.ExecRequest) (string, error) {
	resp, err := do(ctx, c, verb{"exec", "execute in container"}, req.GetContainerId(), c.timeout, c.rt.Exec, req)
	if err == nil && resp.GetUrl() == "" {
		err = missing("execute in container", req.GetContainerId(), "url")
	}
	return resp.GetUrl(), err
}

// Attach returns the URL at which the runtime serves the stream.
func (c *Client) Attach(ctx context.Context, req *runtimeapi.AttachRequest) (string, error) {
	resp, err := do(ctx, c, verb{"attach", "attach to container"}, req.GetContainerId(), c.timeout, c.rt.Attach, req)
	if err == nil && resp.GetUrl() == "" {
		err = missing("attach to container", req.GetContainerId(), "url")
	}
	return resp.GetUrl(), err
}

// GetContainerEvents opens the stream of container events, calls opened once
// it is, and deliver for each event, in order, until the stream ends, which
// is always an error. Opened says nothing about the runtime: one without
// events answers Unimplemented only then, and a stream may stay silent. A
// slow deliver holds the stream up.
func (c *Client) GetContainerEvents(ctx context.Context, opened func(), deliver func(*runtimeapi.ContainerEventResponse)) (err error) {
	const operation = "get_container_events"
	begin := time.Now()
	defer func() { c.metrics.observe(operation, time.Since(begin), err) }()
	ctx, cancel := context.WithCancel(ctx) // ends the stream when deliver panics, too
	defer cancel()
	stream, err := c.streams.GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{})
	if err != nil {
		return fmt.Errorf("open the stream of container events: %w", err)
	}
	if opened != nil {
		opened()
	}
	for {
		event, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("read the stream of container events: %w", err)
		}
		deliver(event)
	}
}

// unlessGone turns "not found" into success, for calls whose wish is then
// fulfilled.
func unlessGone(err error) error {
	if IsNotFound(err) {
		return nil
	}
	return err
}

// ErrIncomplete is an answer that lacks what the API promises.
var ErrIncomplete = errors.New("the runtime's answer is incomplete")

func missing(does, object, what string) error {
	return fmt.Errorf("%s %s: %w: no %s", does, object, ErrIncomplete, what)
}
