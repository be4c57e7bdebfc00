package probe

import (
	"context"
	"errors"
	"time"

	"kubelet/internal/cri"
	"kubelet/internal/criconfig"
)

// maxOutput bounds what is kept of a command's output or an answer's body, in
// bytes.
const maxOutput = 10 << 10

func (a *asker) askExec(ctx context.Context, q question) outcome {
	command := criconfig.ExpandStatic(q.probe.Exec.Command, q.container.Env)
	begin := time.Now()
	stdout, stderr, code, err := a.exec.ExecSync(ctx, q.id, command, q.timeout)
	switch {
	case err == nil:
		out := outcome{verdict: passed, output: clip(append(stdout, stderr...))}
		if code != 0 {
			out.verdict = failed
		}
		return out
	case errors.Is(err, cri.ErrExecTimeout):
		// The runtime's clock begins when the command runs. A node that takes
		// long to get there has too little left for the command as well.
		overhead := time.Since(begin) - q.timeout
		return outcome{verdict: failed, output: err.Error(), stalled: overhead > max(q.timeout/4, slowStart)}
	default:
		// A container that is gone is soon followed no more.
		return outcome{verdict: unknown, err: err, settled: cri.IsNotFound(err) || cri.IsUnknown(err)}
	}
}

// slowStart is more than it takes to start a command on a node with CPU left.
const slowStart = 500 * time.Millisecond

func clip(b []byte) string { return string(b[:min(len(b), maxOutput)]) }
