package critest

import (
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Match chooses calls. Empty fields match everything.
type Match struct {
	Method    string // "ContainerStatus"
	Pod       string // name or UID
	Container string // name
	ID        string // of a sandbox or container
	Image     string
	// Nth chooses only the nth call that the other fields match, counted
	// from 1 since the injection.
	Nth int
}

func (m Match) matches(s subject) bool {
	is := func(want string, got ...string) bool {
		if want == "" {
			return true
		}
		for _, g := range got {
			if g == want {
				return true
			}
		}
		return false
	}
	return is(m.Method, s.method) && is(m.Pod, s.pod, s.podUID) && is(m.Container, s.container) &&
		is(m.ID, s.id) && is(m.Image, s.image)
}

// Effect is what a call that hangs or fails does all the same.
type Effect int

// Effects.
const (
	// NoEffect: the call does nothing.
	NoEffect Effect = iota
	// EffectFirst: the call does its work, and only the answer is missing.
	EffectFirst
	// EffectLate: the call does its work Fault.Late after it was made, whether
	// or not somebody still waits. Until then its name is reserved.
	EffectLate
)

// Fault is what happens to a call. Its parts apply in the order of the fields.
type Fault struct {
	// Delay passes before the call is looked at (not in single-threaded mode:
	// there the caller makes the call later instead).
	Delay time.Duration
	// Effect is when the call does its work if it hangs or fails; without
	// Hang or Code the call is answered as usual.
	Effect Effect
	Late   time.Duration
	// Hang gives no answer until Release, or until the caller goes away. A
	// released call goes on as if there were no fault.
	Hang bool
	// Code refuses the call, with Message.
	Code    codes.Code
	Message string
	// Lie changes the answer.
	Lie func(answer proto.Message)
}

// Injection is a fault in its place.
type Injection struct {
	r        *Runtime
	match    Match
	fault    Fault
	seen     int
	hits     int
	waiting  int
	removed  bool
	released chan struct{}
	reached  chan struct{}
}

// Inject puts a fault in place. The newest that matches a call is applied,
// and only that.
func (r *Runtime) Inject(m Match, f Fault) *Injection {
	in := &Injection{r: r, match: m, fault: f, released: make(chan struct{}), reached: make(chan struct{})}
	r.mu.Lock()
	r.faults = append(r.faults, in)
	r.mu.Unlock()
	return in
}

// Hits is how many calls the fault has been applied to.
func (in *Injection) Hits() int {
	in.r.mu.Lock()
	defer in.r.mu.Unlock()
	return in.hits
}

// Reached is closed when the fault has been applied to a call.
func (in *Injection) Reached() <-chan struct{} { return in.reached }

// Waiting is how many calls hang in it now.
func (in *Injection) Waiting() int {
	in.r.mu.Lock()
	defer in.r.mu.Unlock()
	return in.waiting
}

// Release ends the fault and lets the calls that hang in it go on.
func (in *Injection) Release() {
	in.r.mu.Lock()
	defer in.r.mu.Unlock()
	if !in.removed {
		in.remove()
		close(in.released)
	}
}

func (in *Injection) remove() {
	in.removed = true
	kept := in.r.faults[:0:0]
	for _, f := range in.r.faults {
		if f != in {
			kept = append(kept, f)
		}
	}
	in.r.faults = kept
}

// faultFor finds the fault for a call, and counts it. The lock is held.
func (r *Runtime) faultFor(s subject) *Injection {
	var found *Injection
	for _, in := range r.faults {
		if in.match.matches(s) {
			in.seen++
			if in.match.Nth == 0 || in.match.Nth == in.seen {
				found = in
			}
		}
	}
	if found != nil {
		found.hits++
		if found.hits == 1 {
			close(found.reached)
		}
	}
	return found
}

// SayRunning is a Lie of ContainerStatus: the container runs.
func SayRunning(answer proto.Message) {
	if a, ok := answer.(*runtimeapi.ContainerStatusResponse); ok {
		a.Status.State = runtimeapi.ContainerState_CONTAINER_RUNNING
		a.Status.FinishedAt, a.Status.ExitCode, a.Status.Reason = 0, 0, ""
	}
}

// Omit returns a Lie of ListContainers and ListPodSandbox: the named thing
// (id, or name of container or pod) is not there.
func Omit(name string) func(proto.Message) {
	return func(answer proto.Message) {
		switch a := answer.(type) {
		case *runtimeapi.ListContainersResponse:
			kept := a.Containers[:0]
			for _, c := range a.Containers {
				if c.Id != name && c.GetMetadata().GetName() != name {
					kept = append(kept, c)
				}
			}
			a.Containers = kept
		case *runtimeapi.ListPodSandboxResponse:
			kept := a.Items[:0]
			for _, s := range a.Items {
				if s.Id != name && s.GetMetadata().GetName() != name {
					kept = append(kept, s)
				}
			}
			a.Items = kept
		}
	}
}
