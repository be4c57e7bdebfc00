package critest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"kubelet/internal/cri"
)

// Behavior is what a container does once it is started. The zero value runs
// until it is told to stop and then ends at once with code 0.
type Behavior struct {
	// Exits by itself After, with Code and Reason ("" is Completed or Error).
	Exits  bool
	After  time.Duration
	Code   int32
	Reason string

	// IgnoreTerm: only SIGKILL ends it. Otherwise it ends TermAfter the stop
	// signal, with TermCode.
	IgnoreTerm bool
	TermAfter  time.Duration
	TermCode   int32

	// StartError makes StartContainer fail with this message, and leaves the
	// container exited, reason StartError, as containerd does.
	StartError string

	// Message is written to the termination message file, Logs to the log,
	// one entry per line (Config.Files).
	Message string
	Logs    []string
}

// Forever is a container that runs until it is stopped.
func Forever() Behavior { return Behavior{} }

// ExitAfter is a container that exits by itself.
func ExitAfter(after time.Duration, code int32) Behavior {
	return Behavior{Exits: true, After: after, Code: code}
}

// Stubborn is a container that ignores SIGTERM.
func Stubborn() Behavior { return Behavior{IgnoreTerm: true} }

// Script says what containers do. key is "pod/container", a container's name
// or an image, looked up in this order. The nth attempt of a container takes
// the nth behavior, and the last one stands for all later ones.
func (r *Runtime) Script(key string, b ...Behavior) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.scripts[key] = b
}

func (r *Runtime) behaviorOf(c *container) Behavior {
	image := c.config.GetImage()
	for _, key := range []string{
		c.sandbox.meta().GetName() + "/" + c.meta().GetName(), c.meta().GetName(),
		image.GetUserSpecifiedImage(), image.GetImage(), strings.TrimSuffix(r.tagOf(image.GetImage()), ":latest"),
	} {
		if s := r.scripts[key]; key != "" && len(s) > 0 {
			return s[min(int(c.meta().GetAttempt()), len(s)-1)]
		}
	}
	return Behavior{}
}

// ExecCall is a command that ExecSync runs.
type ExecCall struct {
	Pod, Container string
	Attempt        uint32
	Command        []string
}

// ExecResult is how it ends.
type ExecResult struct {
	Stdout, Stderr string
	Code           int32
	Took           time.Duration
}

// OnExec says how commands of ExecSync end; without it they succeed at once.
// f is called inside the model and must not call back.
func (r *Runtime) OnExec(f func(ExecCall) ExecResult) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.exec = f
}

func (r *Runtime) execSync(req *runtimeapi.ExecSyncRequest) (*runtimeapi.ExecSyncResponse, error) {
	c, err := r.runningContainer(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	var res ExecResult
	if r.exec != nil {
		res = r.exec(ExecCall{Pod: c.sandbox.meta().GetName(), Container: c.meta().GetName(), Attempt: c.meta().GetAttempt(), Command: req.GetCmd()})
	}
	resp := &runtimeapi.ExecSyncResponse{Stdout: []byte(res.Stdout), Stderr: []byte(res.Stderr), ExitCode: res.Code}
	if res.Took <= 0 {
		return resp, nil
	}
	end, timedOut := res.Took, false
	if limit := time.Duration(req.GetTimeout()) * time.Second; limit > 0 && limit < end {
		end, timedOut = limit, true
	}
	over := make(chan struct{})
	at := r.now().Add(end)
	r.at(at, func() { close(over) })
	return nil, &blocked{done: over, at: at, then: func() (any, error) {
		if timedOut {
			return resp, status.Errorf(codes.DeadlineExceeded, "failed to exec in container: timeout %v exceeded: context deadline exceeded", end)
		}
		return resp, nil
	}}
}

func logPath(c *container) string {
	if c.config.GetLogPath() == "" {
		return ""
	}
	return filepath.Join(c.sandbox.config.GetLogDirectory(), c.config.GetLogPath())
}

// writeLogs writes the container's log in the CRI format.
func (r *Runtime) writeLogs(c *container) {
	path := logPath(c)
	if !r.cfg.Files || path == "" {
		return
	}
	var b strings.Builder
	for _, line := range c.behavior.Logs {
		fmt.Fprintf(&b, "%s stdout F %s\n", r.now().UTC().Format(time.RFC3339Nano), line)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err == nil {
		err = os.WriteFile(path, []byte(b.String()), 0o640)
		if err != nil {
			r.line("cannot write log: %v", err)
		}
	}
}

// writeMessage writes the termination message through the mount that leads
// to it, as the container's process would.
func (r *Runtime) writeMessage(c *container) {
	if !r.cfg.Files || c.behavior.Message == "" {
		return
	}
	for _, m := range c.config.GetMounts() {
		if m.GetContainerPath() == c.config.GetAnnotations()[cri.AnnotationTerminationMessagePath] {
			if err := os.WriteFile(m.GetHostPath(), []byte(c.behavior.Message), 0o666); err != nil {
				r.line("cannot write termination message: %v", err)
			}
		}
	}
}
