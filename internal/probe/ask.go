package probe

import (
	"context"
	"errors"
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
)

// verdict is what one run of a probe says.
type verdict int8

const (
	passed  verdict = iota
	warned          // passed, and there is something to mend
	failed          // the container said so, or said nothing in its time
	unknown         // the probe could not be run to its end
)

func (v verdict) String() string {
	return [...]string{"success", "warning", "failure", "unknown"}[v]
}

// outcome of one run.
type outcome struct {
	verdict verdict
	// output is what the event shows.
	output string
	// err says why an unknown is one.
	err error
	// settled: asking again at once would not help an unknown.
	settled bool
	// stalled: the probe timed out, and it was the node that took the time.
	stalled bool
	// excused is an unknown: there was no answer, and the container was not
	// given the CPU time to make one.
	excused bool
}

// question is all that a run needs to know.
type question struct {
	kind      Kind
	pod       *v1.Pod
	container *v1.Container
	id, ip    string
	probe     *v1.Probe
	timeout   time.Duration
	in        *runtimeContainer
	// begun, if not nil, is called when a command that takes long has been
	// seen to run: from then on it costs the runtime nothing.
	begun func()
}

// asker runs probes, each once.
type asker struct {
	exec Exec
	http *httpClients
	// userAgent is what HTTP and gRPC probes call themselves.
	userAgent string
	h2c       bool
	grpcTLS   bool
}

// excused is the outcome of a probe that got no answer because the node was
// busy with other things.
func excused(what string) outcome {
	return outcome{verdict: unknown, settled: true, excused: true,
		err: fmt.Errorf("%s; not counted, for the node gave the container no CPU time to answer", what)}
}

// excuses says whether a time-out counts for nothing if the container was
// starved. One that is starved is not ready, but not to be restarted either.
func (q *question) excuses() bool { return q.kind != Readiness && q.in != nil }

// errNoHandler is a probe of a type that this kubelet does not know.
var errNoHandler = errors.New("missing probe handler")

func (a *asker) ask(ctx context.Context, q question) outcome {
	switch p := q.probe; {
	case p.Exec != nil:
		return a.askExec(ctx, q)
	case p.HTTPGet != nil:
		return a.askHTTP(ctx, q)
	case p.TCPSocket != nil:
		return a.askTCP(ctx, q)
	case p.GRPC != nil:
		return a.askGRPC(ctx, q)
	default:
		return outcome{verdict: unknown, err: errNoHandler, settled: true}
	}
}

// maxTries bounds how often a run tries again after an unknown outcome.
const maxTries = 3

// askPatiently asks until the outcome is known, or trying does not help.
func askPatiently(ctx context.Context, ask func(context.Context, question) outcome, q question) (out outcome) {
	for range maxTries {
		begin := time.Now()
		out = ask(ctx, q)
		if out.verdict != unknown || out.settled || ctx.Err() != nil || time.Since(begin) > q.timeout {
			break
		}
	}
	return out
}
