package lifecycle

import (
	"cmp"
	"maps"
	"time"

	v1 "k8s.io/api/core/v1"
)

// Progress is what is known of one step of one pod.
type Progress struct {
	// InFlight since Began; at most one at a time.
	InFlight bool
	Began    time.Time
	// Done: the last run reached its goal.
	Done bool
	// LastError of the last run that failed, with its waiting reason.
	LastError string
	Reason    string
	Failures  int
	// RetryAt is when a failed step may be tried again.
	RetryAt time.Time
	// UnknownSince is when the runtime first left the outcome open; zero once
	// it is known.
	UnknownSince time.Time
	// ImageRef is PullImage's result.
	ImageRef string
	// Mounted: Mount reached its goal before, so containers may start even
	// while contents are brought up to date.
	Mounted bool
	// NextDue as in Result.
	NextDue time.Time
	// Dirty: what the step in flight reads has changed meanwhile, so it is
	// not done when it ends.
	Dirty bool
}

// CrashBackoff is one container's CrashLoopBackOff.
type CrashBackoff struct {
	Delay   time.Duration
	Updated time.Time
}

// History is what a pod's worker remembers between two plans and cannot read
// from the runtime. It starts empty; everything in it can be lost without
// harm (a SIGKILL loses it), since each step is idempotent.
type History struct {
	Steps   map[Key]Progress
	Crashes map[string]CrashBackoff
	// Unseen is when a start ended of which the runtime has not told yet what
	// it did; zero if there is none. What was observed before is not to be
	// relied on.
	Unseen time.Time
	// Ran: a regular container of the pod was seen started at some time, so
	// the phase is Running, not Starting, and status never falls back.
	Ran bool
}

// Clone returns a copy that shares nothing.
func (h History) Clone() History {
	return History{Steps: maps.Clone(h.Steps), Crashes: maps.Clone(h.Crashes), Unseen: h.Unseen, Ran: h.Ran}
}

// Begin notes that an action is under way.
func (h *History) Begin(a Action, now time.Time) {
	if h.Steps == nil {
		h.Steps = map[Key]Progress{}
	}
	p := h.Steps[a.Key]
	p.InFlight, p.Began = true, now
	h.Steps[a.Key] = p
}

// End notes how an action ended.
func (h *History) End(r Result, now time.Time) {
	p := h.Steps[r.Key]
	if r.Kind == StartContainer {
		// The next start looks for its image anew.
		delete(h.Steps, Key{PullImage, r.Name})
	}
	switch {
	case starts(r.Kind) && r.Unseen.After(h.Unseen):
		h.Unseen = r.Unseen
	case r.Kind == Look && r.Err == nil:
		h.Unseen = time.Time{}
	}
	p.InFlight = false
	p.Began = time.Time{}
	if r.Err == nil {
		p = Progress{Done: !p.Dirty, ImageRef: r.ImageRef, NextDue: r.NextDue, Mounted: r.Kind == Mount}
		if once(r.Kind) {
			delete(h.Steps, r.Key)
			return
		}
		h.Steps[r.Key] = p
		return
	}
	p.Done = false
	p.Failures++
	p.LastError, p.Reason = cmp.Or(r.Message, r.Err.Error()), r.Reason
	p.RetryAt = now.Add(retryDelay(r.Kind, p.Failures))
	if r.RetryAt.After(now) {
		p.RetryAt = r.RetryAt
	}
	switch {
	case !r.Unknown:
		p.UnknownSince = time.Time{}
	case p.UnknownSince.IsZero():
		p.UnknownSince = now
	}
	h.Steps[r.Key] = p
}

// once says that a step leaves its result in the runtime, where the next plan
// sees it: nothing of a success has to be remembered.
func once(k Kind) bool {
	switch k {
	case RunSandbox, StartContainer, Look, StopContainer, RemoveContainer, RemoveSandbox:
		return true
	}
	return false
}

// starts says that a step brings something into being that has to be stopped.
func starts(k Kind) bool { return k == RunSandbox || k == StartContainer }

// Wake makes a failed step due at once: what it waited for has changed.
func (h *History) Wake(kinds ...Kind) {
	for key, p := range h.Steps {
		for _, k := range kinds {
			if key.Kind == k && !p.RetryAt.IsZero() {
				p.RetryAt = time.Time{}
				h.Steps[key] = p
			}
		}
	}
}

// Dirty makes a step that was done due again.
func (h *History) Dirty(key Key) {
	if p, ok := h.Steps[key]; ok {
		p.Done, p.RetryAt, p.Dirty = false, time.Time{}, p.InFlight
		h.Steps[key] = p
	}
}

func (h History) inFlight(key Key) bool { return h.Steps[key].InFlight }
func (h History) done(key Key) bool     { return h.Steps[key].Done }

// due says whether a step that is wanted may be begun now.
func (h History) due(key Key, now time.Time) bool {
	p := h.Steps[key]
	return !p.InFlight && !p.RetryAt.After(now)
}

// retryDelay is how long a failed step waits before it is tried again without
// a wake-up: doubling from a first delay to a cap, which for steps that load
// the runtime is longer.
func retryDelay(k Kind, failures int) time.Duration {
	first, most := 500*time.Millisecond, 30*time.Second
	switch k {
	case RunSandbox, StartContainer:
		first, most = time.Second, time.Minute
	case Mount:
		first, most = 500*time.Millisecond, 2*time.Minute
	case PullImage:
		first, most = time.Second, 5*time.Minute
	}
	d := first
	for i := 1; i < failures && d < most; i++ {
		d *= 2
	}
	return min(d, most)
}

// InitialCrashDelay is the first delay of CrashLoopBackOff; the restart
// before it is immediate.
const InitialCrashDelay = 10 * time.Second

// nextCrash returns the back-off that the restart of a container at now
// leaves behind: doubled from the last one, started anew if the container
// then ran for longer than twice the cap
// (https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#restart-policy).
func nextCrash(old CrashBackoff, had bool, finished, now time.Time, cap time.Duration) CrashBackoff {
	if !had || expired(old, finished, cap) {
		return CrashBackoff{Delay: min(InitialCrashDelay, cap), Updated: now}
	}
	return CrashBackoff{Delay: min(2*old.Delay, cap), Updated: now}
}

func expired(b CrashBackoff, finished time.Time, cap time.Duration) bool {
	return finished.Sub(b.Updated) > 2*cap
}

// Waiting is why a container that should run does not.
func waiting(reason, message string) v1.ContainerStateWaiting {
	return v1.ContainerStateWaiting{Reason: reason, Message: message}
}
