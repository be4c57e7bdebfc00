package cri

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ErrExecTimeout says that a command ran for as long as it may and was killed
// by the runtime. The text is upstream's.
var ErrExecTimeout = errors.New("command timed out")

// ExecSync runs a command in a container and waits for its end. The runtime
// kills it after timeout (whole seconds, 0 is for ever), which it counts from
// the moment when the command runs, and the error is then ErrExecTimeout. The
// call's own deadline is that much and the request timeout, or with 0 the
// context's alone; when it passes, the outcome is unknown (IsUnknown): nobody
// can tell the command from the runtime. A command that ran and failed is no
// error: see the exit code.
func (c *Client) ExecSync(ctx context.Context, id string, cmd []string, timeout time.Duration) (stdout, stderr []byte, exitCode int32, err error) {
	seconds := int64((max(timeout, 0) + time.Second - 1) / time.Second)
	var deadline time.Duration
	if seconds > 0 {
		deadline = time.Duration(seconds)*time.Second + c.timeout
	}
	begin := time.Now()
	resp, err := do(ctx, c, verb{"exec_sync", "execute in container"}, id, deadline,
		c.rt.ExecSync, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: cmd, Timeout: seconds})
	if err == nil {
		return resp.GetStdout(), resp.GetStderr(), resp.GetExitCode(), nil
	}
	// gRPC gives the same code to a deadline that the runtime kept for the
	// command and to the call's own.
	if seconds > 0 && ctx.Err() == nil && time.Since(begin) < deadline && isExecTimeout(err) {
		err = fmt.Errorf("%w: %q timed out after %v", ErrExecTimeout, strings.Join(cmd, " "), time.Duration(seconds)*time.Second)
	}
	return nil, nil, 0, err
}

// isExecTimeout says whether the runtime's answer tells of a deadline.
func isExecTimeout(err error) bool {
	s, ok := status.FromError(err)
	return ok && (s.Code() == codes.DeadlineExceeded ||
		s.Code() == codes.Unknown && strings.Contains(s.Message(), context.DeadlineExceeded.Error()))
}

// ContainerPid returns the id of the container's first process, 0 if the
// runtime does not tell it.
func (c *Client) ContainerPid(ctx context.Context, id string) (int, error) {
	resp, err := c.ContainerStatus(ctx, id, true)
	if err != nil {
		return 0, err
	}
	return Pid(resp.GetInfo()), nil
}
