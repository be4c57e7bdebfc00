package probe

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"kubelet/internal/cri"
	"kubelet/internal/criconfig"
)

// maxOutput bounds what is kept of a command's output or an answer's body, in
// bytes.
const maxOutput = 10 << 10

const (
	// slowStart is more than it takes to start a command on a node with CPU
	// left.
	slowStart = 500 * time.Millisecond
	// lenience is what the runtime gets, beyond the time-out, to end a
	// command by itself.
	lenience = 300 * time.Millisecond
	// lastWait is how long beyond its time-out a command's answer is waited
	// for.
	lastWait = 30 * time.Second
	// lastLook is how long before its time-out a command is looked at.
	lastLook = 100 * time.Millisecond
)

func (a *asker) askExec(ctx context.Context, q question) outcome {
	command := criconfig.ExpandStatic(q.probe.Exec.Command, q.container.Env)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	begin := time.Now()
	o := &overdue{q: q, command: command, cancel: cancel, asked: bootTime(), over: make(chan struct{}), ended: make(chan struct{})}
	// Commands that end in good time cost a timer.
	timer := time.AfterFunc(o.interval(), func() { o.watch(ctx) })
	stdout, stderr, code, err := a.exec.ExecSync(ctx, q.id, command, q.timeout)
	if !timer.Stop() {
		close(o.over)
		cancel()
		<-o.ended
	}
	if o.timedOut && !errors.Is(err, cri.ErrExecTimeout) {
		err = fmt.Errorf("%w: %q timed out after %v", cri.ErrExecTimeout, strings.Join(command, " "), q.timeout)
	}
	switch {
	case err == nil:
		out := outcome{verdict: passed, output: clip(append(stdout, stderr...))}
		if code != 0 {
			out.verdict = failed
		}
		return out
	case errors.Is(err, cri.ErrExecTimeout) && o.starved && q.excuses():
		return excused(err.Error())
	case errors.Is(err, cri.ErrExecTimeout):
		// The runtime's clock begins when the command runs. A node that takes
		// long to get there has too little left for the command as well.
		slow := !o.known && time.Since(begin)-q.timeout > max(q.timeout/4, slowStart)
		return outcome{verdict: failed, output: err.Error(), stalled: slow || o.slow}
	default:
		// A container that is gone is soon followed no more.
		return outcome{verdict: unknown, err: err, settled: cri.IsNotFound(err) || cri.IsUnknown(err)}
	}
}

func clip(b []byte) string { return string(b[:min(len(b), maxOutput)]) }

// overdue looks after one command that takes long.
type overdue struct {
	q       question
	command []string
	cancel  context.CancelFunc
	asked   time.Duration // since the node's start
	over    chan struct{} // the runtime's call has returned
	ended   chan struct{} // watch has

	// What watch found out.
	known    bool // which processes are the command's
	slow     bool // the node took long to run the command
	starved  bool // the command wanted a CPU and got none
	timedOut bool
}

// interval is how often the command is looked for: twice in each time-out at
// least, so that none can end in between unseen.
func (o *overdue) interval() time.Duration { return min(o.q.timeout/2, time.Second) }

// watch finds the command, and ends all that is left of it when its time is
// over.
func (o *overdue) watch(ctx context.Context) {
	defer close(o.ended)
	in := o.q.in
	last := time.Now().Add(o.q.timeout + lastWait)
	ses, err := in.find(ctx, o.command, o.asked)
	for err != nil {
		if time.Now().After(last) {
			// If the runtime answers at all, it is the command that does not
			// end. If not, nobody knows.
			o.timedOut = !errors.Is(err, errNoAnswer)
			o.slow = o.timedOut
			o.cancel()
			return
		}
		if o.wait(o.interval()) {
			return
		}
		ses, err = in.find(ctx, o.command, o.asked)
	}
	defer in.drop(ses)
	o.known = true
	if o.q.begun != nil {
		o.q.begun()
	}
	// The container is billed from when the command began.
	o.slow = bootTime()-ses.age()-o.asked > max(o.q.timeout/4, slowStart)
	before, err := in.census(ctx)
	if o.wait(o.q.timeout - lastLook - ses.age()) {
		return
	}
	if err == nil {
		if after, err := in.census(ctx); err == nil {
			o.starved = starved(before, after)
		}
	}
	if o.wait(o.q.timeout + lenience - ses.age()) {
		// Nearly always it has ended well. If not, what it started is left.
		if ses.age() >= o.q.timeout {
			_ = ses.kill()
		}
		return
	}
	o.timedOut = true
	for {
		// Nothing to be done about a process that cannot be killed; the
		// runtime is told to let go of it.
		_ = ses.kill()
		if o.wait(lenience) {
			return
		}
		if time.Now().After(last) {
			o.cancel()
			return
		}
	}
}

// wait waits, and says whether the runtime's call has returned meanwhile.
func (o *overdue) wait(d time.Duration) (over bool) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-o.over:
		return true
	case <-timer.C:
		return false
	}
}
