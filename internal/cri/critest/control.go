package critest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Container is a container of the model, for tests to look at.
type Container struct {
	ID, SandboxID string
	Pod, Name     string
	Attempt       uint32
	Running       bool
	Exited        bool
	Code          int32
	Pid           int
	LogsReopened  int
	PodUID        string
}

// Sandbox is a sandbox of the model, for tests to look at.
type Sandbox struct {
	ID      string
	Pod     string
	PodUID  string
	Attempt uint32
	Ready   bool
	Pid     int
}

// Containers returns the containers of a pod (name or UID; "" is all of
// them), oldest first.
func (r *Runtime) Containers(pod string) []Container {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.advance()
	var out []Container
	r.containers.each(func(c *container) {
		if m := c.sandbox.meta(); pod == "" || pod == m.GetName() || pod == m.GetUid() {
			out = append(out, Container{
				ID: c.id, SandboxID: c.sandbox.id, Pod: m.GetName(), PodUID: m.GetUid(), Name: c.meta().GetName(), Attempt: c.meta().GetAttempt(),
				Running: c.state == running, Exited: c.state == exited, Code: c.code, Pid: c.pid, LogsReopened: c.reopened,
			})
		}
	})
	return out
}

// Sandboxes returns the sandboxes of a pod (name or UID; "" is all of them),
// oldest first.
func (r *Runtime) Sandboxes(pod string) []Sandbox {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.advance()
	var out []Sandbox
	r.sandboxes.each(func(s *sandbox) {
		if m := s.meta(); pod == "" || pod == m.GetName() || pod == m.GetUid() {
			out = append(out, Sandbox{ID: s.id, Pod: m.GetName(), PodUID: m.GetUid(), Attempt: m.GetAttempt(), Ready: s.ready, Pid: s.pid})
		}
	})
	return out
}

// Exit ends the running containers of that pod (name or UID) and name, with
// code and reason ("" is Completed or Error, for example OOMKilled), and says
// how many there were.
func (r *Runtime) Exit(pod, name string, code int32, reason string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	r.containers.each(func(c *container) {
		m := c.sandbox.meta()
		if c.state == running && c.meta().GetName() == name && (pod == m.GetName() || pod == m.GetUid()) {
			r.exit(c, code, reason)
			n++
		}
	})
	r.advance()
	return n
}

// KillSandbox ends the sandbox's own process (the pause container) of a pod;
// its containers run on, as they do in containerd.
func (r *Runtime) KillSandbox(pod string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sandboxes.each(func(s *sandbox) {
		if m := s.meta(); pod == m.GetName() || pod == m.GetUid() {
			r.line("sandbox of %s died", pod)
			r.sandboxDown(s)
		}
	})
}

// SetNetwork makes the NetworkReady condition, and with it sandboxes outside
// of the host's network, succeed or fail.
func (r *Runtime) SetNetwork(ok bool, reason, message string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.network = condition{ok, reason, message}
}

// SetReady sets the RuntimeReady condition.
func (r *Runtime) SetReady(ok bool, reason, message string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ready = condition{ok, reason, message}
}

// Restart loses calls in flight and streams, as a restart of the runtime
// does; what it knows it keeps.
func (r *Runtime) Restart() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.line("runtime restarts")
	r.dropCalls()
}

// LoseState is a restart after which the runtime knows no pods (images stay),
// as after a reboot with its state on tmpfs. What the kubelet starts then for
// an attempt that had been started before is not held against it.
func (r *Runtime) LoseState() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.line("runtime loses its state")
	r.dropCalls()
	r.containers.each(func(c *container) {
		c.end.cancel()
		c.term.cancel()
		c.kill.cancel()
	})
	r.containers, r.sandboxes = table[*container]{}, table[*sandbox]{}
	clear(r.reserved)
	clear(r.started)
}

func (r *Runtime) dropCalls() {
	close(r.generation)
	r.generation = make(chan struct{})
	r.dropStreams()
}

// Calls is how often a method was called.
func (r *Runtime) Calls(method string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.counts[method]
}

// Counts returns how often each method was called.
func (r *Runtime) Counts() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.counts)
}

// Transcript returns what happened, one line each: seconds since New, the
// call and its answer. Reads that succeeded are left out.
func (r *Runtime) Transcript() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.lines, "\n")
}

// Violations returns the rules that were broken: a container started twice, a
// second container started for one attempt, a container made or started after
// its sandbox was stopped, two ready sandboxes of one pod.
func (r *Runtime) Violations() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.violations)
}

// violate notes a broken rule. The lock is held.
func (r *Runtime) violate(format string, args ...any) {
	r.violations = append(r.violations, fmt.Sprintf(format, args...))
	r.line("VIOLATION "+format, args...)
}
