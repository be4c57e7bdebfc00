// Package worker runs the pods of this node: one goroutine and one mailbox
// per pod (worker.go), a pure state machine that says how far the pod has
// come (machine.go), and the pool that makes and ends the workers (pool.go).
// It owns the state and the step history of each pod and feeds the table of
// explanations; it reads the desired and the observed table and acts through
// package lifecycle.
package worker

import (
	"fmt"
	"time"

	"kubelet/internal/admission"
	"kubelet/internal/status"
)

// Phase is how far a pod has come on this node.
//
//	           claimed,            all containers
//	           accepted            were started
//	Waiting ────────────► Starting ────────────► Running
//	   │                    │   ▲                   │
//	   │ rejected           │   └── sandbox lost ───┤
//	   │ deleted, removed   │                       │
//	   │                    │ deleted, removed, evicted, past its deadline,
//	   │                    ▼ ended by policy       ▼
//	   └──────────────► Terminating ◄───────────────┘
//	                        │ nothing runs, no start is under way
//	                        ▼
//	                    Terminated  (stays here while the object stays)
//	                        │ removed, and nothing is left of it
//	                        ▼
//	                      Gone
type Phase int

// Phases in the order of a pod's life. Only Running falls back, to Starting.
const (
	Waiting Phase = iota
	Starting
	Running
	Terminating
	Terminated
	Gone
)

func (p Phase) String() string {
	return [...]string{"Waiting", "Starting", "Running", "Terminating", "Terminated", "Gone"}[p]
}

// State is a pod's state. The zero value is a pod that has just appeared.
type State struct {
	Phase Phase
	// Claimed: no other pod of the same full name is left on the node.
	Claimed bool
	// Accepted by admission, now or before a restart.
	Accepted bool

	// Why the pod terminates, for events and logs; set from Terminating on.
	Why string
	// Grace for its containers; only ever shortened.
	Grace time.Duration
	// Failure that the status shows, if any; the first one stays.
	Failure *status.Failure
	// Deleted: the object waits for this node to confirm the deletion.
	Deleted bool
	// Removed: the source has the pod no more.
	Removed bool
}

// Event is something that happened to a pod.
type Event interface {
	apply(State) (State, []Command)
}

// Command is what the worker does because of an event, besides planning anew.
type Command int

// Commands.
const (
	// Submit the pod to admission.
	Submit Command = iota
	// CancelStarts ends everything under way that brings the pod further.
	CancelStarts
	// CancelStops ends stops under way, so that they are asked for again with
	// the shorter grace period.
	CancelStops
	// Leave ends the worker and frees the pod's full name.
	Leave
)

func (c Command) String() string {
	return [...]string{"Submit", "CancelStarts", "CancelStops", "Leave"}[c]
}

// Events.
type (
	// Claimed: the pod's full name is free for it. Accepted says that the
	// pod was accepted before the agent restarted.
	Claimed struct{ Accepted bool }
	// Judged: admission answered.
	Judged struct{ Verdict admission.Verdict }
	// Started: all regular containers were started in the current sandbox.
	Started struct{}
	// SandboxLost: the sandbox is not ready any more.
	SandboxLost struct{}
	// Deleted: the API object has a deletion timestamp; Grace is its.
	Deleted struct{ Grace time.Duration }
	// Removed: the source has the pod no more.
	Removed struct{ Grace time.Duration }
	// Evicted: the node asks the pod to go.
	Evicted struct {
		Failure status.Failure
		Grace   time.Duration
	}
	// DeadlineExceeded: activeDeadlineSeconds passed.
	DeadlineExceeded struct{ Grace time.Duration }
	// Ended: the restart policy starts no container any more, or the object
	// says that the pod has ended before.
	Ended struct{ Grace time.Duration }
	// Stopped: nothing of the pod runs and nothing is being started.
	Stopped struct{}
	// Clean: everything that was to be removed is.
	Clean struct{}
)

// Step is the whole state machine. It is pure, and every event may come in
// every phase and any number of times.
func Step(s State, e Event) (State, []Command) {
	if s.Phase == Gone {
		return s, nil
	}
	return e.apply(s)
}

func (e Claimed) apply(s State) (State, []Command) {
	if s.Claimed || s.Phase != Waiting {
		return s, nil
	}
	s.Claimed = true
	if e.Accepted {
		// Admission is told, so that it counts the pod; it does not judge it.
		s.Accepted, s.Phase = true, Starting
	}
	return s, []Command{Submit}
}

func (e Judged) apply(s State) (State, []Command) {
	if s.Phase != Waiting || !s.Claimed {
		return s, nil
	}
	switch e.Verdict.Decision {
	case admission.Accept:
		s.Accepted, s.Phase = true, Starting
	case admission.Reject:
		return s.terminate(e.Verdict.Message, 0, &status.Failure{Reason: e.Verdict.Reason, Message: e.Verdict.Message})
	}
	return s, nil
}

func (Started) apply(s State) (State, []Command) {
	if s.Phase == Starting {
		s.Phase = Running
	}
	return s, nil
}

func (SandboxLost) apply(s State) (State, []Command) {
	if s.Phase == Running {
		s.Phase = Starting
	}
	return s, nil
}

func (e Deleted) apply(s State) (State, []Command) {
	s.Deleted = true
	return s.terminate("", e.Grace, nil)
}

func (e Removed) apply(s State) (State, []Command) {
	s.Removed = true
	return s.terminate("", e.Grace, nil)
}

func (e Evicted) apply(s State) (State, []Command) {
	return s.terminate(e.Failure.Message, e.Grace, &e.Failure)
}

func (e DeadlineExceeded) apply(s State) (State, []Command) {
	const message = "Pod was active on the node longer than the specified deadline"
	return s.terminate(message, e.Grace, &status.Failure{Reason: "DeadlineExceeded", Message: message})
}

func (e Ended) apply(s State) (State, []Command) {
	return s.terminate("", e.Grace, nil)
}

func (Stopped) apply(s State) (State, []Command) {
	if s.Phase == Terminating {
		s.Phase = Terminated
	}
	return s, nil
}

func (Clean) apply(s State) (State, []Command) {
	if s.Phase == Terminated && (s.Removed || s.Deleted) {
		s.Phase = Gone
		return s, []Command{Leave}
	}
	return s, nil
}

// terminate begins the end of the pod, or merges a further reason for it into
// the one under way: the shorter grace period and the first failure stay.
func (s State) terminate(why string, grace time.Duration, failure *status.Failure) (State, []Command) {
	if s.Phase >= Terminating {
		if s.Failure == nil && s.Phase == Terminating && failure != nil {
			s.Failure = failure
		}
		if s.Phase == Terminating && grace < s.Grace {
			s.Grace = grace
			return s, []Command{CancelStops}
		}
		return s, nil
	}
	s.Phase, s.Why, s.Grace, s.Failure = Terminating, why, grace, failure
	return s, []Command{CancelStarts}
}

// String is the state in a transcript.
func (s State) String() string {
	text := s.Phase.String()
	if s.Claimed {
		text += " claimed"
	}
	if s.Accepted {
		text += " accepted"
	}
	if s.Phase >= Terminating {
		text += fmt.Sprintf(" grace=%s", s.Grace)
	}
	if s.Failure != nil {
		text += " failure=" + s.Failure.Reason
	}
	if s.Deleted {
		text += " deleted"
	}
	if s.Removed {
		text += " removed"
	}
	return text
}
