package cri

import (
	"context"
	"encoding/json"
	"fmt"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// apiVersion is the value that the Version call wants in its request; it is
// not the version of the CRI and never changed.
const apiVersion = "0.1.0"

// Version returns name and versions of the runtime.
func (c *Client) Version(ctx context.Context) (*runtimeapi.VersionResponse, error) {
	return c.version(ctx)
}

func (c *Client) version(ctx context.Context, opts ...grpc.CallOption) (*runtimeapi.VersionResponse, error) {
	resp, err := do(ctx, c, verb{"version", "get version of the runtime"}, "", c.probe(),
		c.rt.Version, &runtimeapi.VersionRequest{Version: apiVersion}, opts...)
	if err == nil && resp.GetRuntimeName() == "" {
		err = fmt.Errorf("get version of the runtime: %w: no name", ErrIncomplete)
	}
	return resp, err
}

// Status returns the runtime's conditions, handlers and features; verbose
// adds its configuration.
func (c *Client) Status(ctx context.Context, verbose bool) (*runtimeapi.StatusResponse, error) {
	resp, err := do(ctx, c, verb{"status", "get status of the runtime"}, "", c.probe(),
		c.rt.Status, &runtimeapi.StatusRequest{Verbose: verbose})
	if err == nil && len(resp.GetStatus().GetConditions()) < 2 {
		err = fmt.Errorf("get status of the runtime: %w: conditions RuntimeReady and NetworkReady are not both there", ErrIncomplete)
	}
	return resp, err
}

// CgroupDriver is what the runtime says about how it makes cgroups.
type CgroupDriver string

// Cgroup drivers. NoCgroupDriver is the answer of a runtime that does not
// tell: then the kubelet's own configuration decides.
const (
	NoCgroupDriver CgroupDriver = ""
	Cgroupfs       CgroupDriver = "cgroupfs"
	Systemd        CgroupDriver = "systemd"
)

// RuntimeConfig returns the runtime's cgroup driver. A runtime without the
// call (containerd before 2.0) is no error: it answers NoCgroupDriver.
func (c *Client) RuntimeConfig(ctx context.Context) (CgroupDriver, error) {
	resp, err := do(ctx, c, verb{"runtime_config", "get configuration of the runtime"}, "", c.probe(),
		c.rt.RuntimeConfig, &runtimeapi.RuntimeConfigRequest{})
	if IsUnimplemented(err) {
		return NoCgroupDriver, nil
	}
	if err != nil {
		return NoCgroupDriver, err
	}
	if resp.GetLinux() == nil {
		return NoCgroupDriver, nil
	}
	if resp.Linux.CgroupDriver == runtimeapi.CgroupDriver_CGROUPFS {
		return Cgroupfs, nil
	}
	return Systemd, nil
}

// UpdatePodCIDR tells the runtime the node's pod network.
func (c *Client) UpdatePodCIDR(ctx context.Context, cidr string) error {
	_, err := do(ctx, c, verb{"update_runtime_config", "tell the runtime the pod CIDR"}, cidr, c.timeout,
		c.rt.UpdateRuntimeConfig, &runtimeapi.UpdateRuntimeConfigRequest{RuntimeConfig: &runtimeapi.RuntimeConfig{
			NetworkConfig: &runtimeapi.NetworkConfig{PodCidr: cidr},
		}})
	return err
}

// Pid returns the id of the first process from the info map of a verbose
// status, 0 if it is not there. containerd and CRI-O put a JSON object with
// a "pid" under the key "info".
func Pid(info map[string]string) int {
	pid, _ := SandboxInfo(info)
	return pid
}

// SandboxInfo returns what the info map of a verbose sandbox status tells of
// the sandbox's own container: its process, 0 if it is not there, and its
// image, "" if it is not.
func SandboxInfo(info map[string]string) (pid int, image string) {
	body, ok := info["info"]
	if !ok {
		return 0, ""
	}
	var fields struct {
		Pid   int `json:"pid"`
		Image any `json:"image"` // a name; runtimes other than containerd may have something else
	}
	if err := json.Unmarshal([]byte(body), &fields); err != nil {
		return 0, ""
	}
	image, _ = fields.Image.(string)
	return max(fields.Pid, 0), image
}
