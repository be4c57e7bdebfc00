package lifecycle

import (
	"cmp"
	"maps"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"

	"kubelet/internal/observed"
	"kubelet/internal/podspec"
)

// Progress is what is known of one step of one pod.
type Progress struct {
	// InFlight since Began; at most one at a time. Until is when the grace
	// period of a stop under way ends.
	InFlight bool
	Began    time.Time
	Until    time.Time
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

// Life is what has to be known of one container and the runtime cannot tell.
// The journal (journal.go) keeps it over a restart of the kubelet.
type Life struct {
	// Hooked: its postStart hook ended well.
	Hooked bool `json:"hooked,omitempty"`
	// Restart: it was stopped to be started again, however it exited.
	Restart bool `json:"restart,omitempty"`
	// Started and Ready as its probes said last; set only if it has any.
	Started bool `json:"started,omitempty"`
	Ready   bool `json:"ready,omitempty"`
	// Sized: Has is what its resources were changed to since it was created.
	Sized bool            `json:"sized,omitempty"`
	Has   podspec.Amounts `json:"has,omitzero"`
}

// History is what a pod's worker remembers between two plans and cannot read
// from the runtime. But for Lives, which are journaled, it starts empty, and
// everything in it can be lost without harm (a SIGKILL loses it), since each
// step is idempotent.
type History struct {
	Steps map[Key]Progress
	// Lives by container ID, and those that the journal has.
	Lives, Kept map[string]Life
	// Ending says since when all containers of a sandbox are being stopped.
	Ending map[string]time.Time
	// Turns says when a dead container may be restarted within the node's
	// restart budget, by its ID.
	Turns map[string]time.Time
	// Unseen is when a start ended of which the runtime has not told yet what
	// it did; zero if there is none. What was observed before is not to be
	// relied on.
	Unseen time.Time
	// Room is what the pod's cgroup allows, known once Prepare is done.
	Room Room
	// Ran: a regular container of the pod was seen started at some time, so
	// the phase is Running, not Starting, and status never falls back.
	Ran bool
}

// Clone returns a copy that shares nothing.
func (h History) Clone() History {
	return History{Steps: maps.Clone(h.Steps), Lives: maps.Clone(h.Lives), Kept: maps.Clone(h.Kept),
		Ending: maps.Clone(h.Ending), Turns: maps.Clone(h.Turns), Unseen: h.Unseen, Room: h.Room, Ran: h.Ran}
}

// Know changes what is known of a container.
func (h *History) Know(id string, change func(*Life)) {
	life := h.Lives[id]
	before := life
	if change(&life); life == before {
		return
	}
	// Actions under way hold the old map.
	lives := make(map[string]Life, len(h.Lives)+1)
	maps.Copy(lives, h.Lives)
	lives[id] = life
	h.Lives = lives
}

// Note takes over what a plan wants to be remembered.
func (h *History) Note(out *Output, now time.Time) {
	for _, id := range out.Condemned {
		h.Know(id, func(l *Life) { l.Restart = true })
	}
	for id, has := range out.Presumed {
		h.Know(id, func(l *Life) { l.Sized, l.Has = true, has })
	}
	for _, id := range out.Ending {
		if h.Ending == nil {
			h.Ending = map[string]time.Time{}
		}
		if _, noted := h.Ending[id]; !noted {
			h.Ending[id] = now
		}
	}
}

// Turn notes when a dead container may be restarted.
func (h *History) Turn(id string, at time.Time) {
	if h.Turns == nil {
		h.Turns = map[string]time.Time{}
	}
	h.Turns[id] = at
}

// Prune forgets what is about containers that the runtime has no more.
func (h *History) Prune(have *observed.Pod) {
	exists := make(map[string]bool, len(have.Containers)+len(have.Sandboxes))
	for i := range have.Containers {
		exists[have.Containers[i].ID] = true
	}
	for i := range have.Sandboxes {
		exists[have.Sandboxes[i].ID] = true
	}
	for key, step := range h.Steps {
		if key.Kind.aboutContainer() && !step.InFlight && !exists[key.Name] {
			delete(h.Steps, key)
		}
	}
	gone := func(id string, _ time.Time) bool { return !exists[id] }
	maps.DeleteFunc(h.Ending, gone)
	maps.DeleteFunc(h.Turns, gone)
	for id := range h.Lives {
		if !exists[id] {
			h.Lives = maps.Clone(h.Lives)
			maps.DeleteFunc(h.Lives, func(id string, _ Life) bool { return !exists[id] })
			return
		}
	}
}

// Begin notes that an action is under way.
func (h *History) Begin(a Action, now time.Time) {
	if h.Steps == nil {
		h.Steps = map[Key]Progress{}
	}
	p := h.Steps[a.Key]
	p.InFlight, p.Began = true, now
	if a.Kind == StopContainer {
		p.Until = now.Add(a.Grace)
	}
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
	if r.Kind == ResizePod && r.Err != nil {
		h.Room = Room{Amounts: r.Amounts, Over: true, Unknown: !r.AtLeast}
	}
	p.InFlight = false
	if r.Kind != PreStop { // the grace period counts from there
		p.Began = time.Time{}
	}
	if r.Err == nil {
		switch r.Kind {
		case PostStart:
			h.Know(r.Name, func(l *Life) { l.Hooked = true })
		case Remember:
			h.Kept = r.Lives
		case Prepare, ResizePod:
			h.Room = Room{Amounts: r.Amounts, Over: r.Over}
		case ResizeContainer:
			h.Know(r.Name, func(l *Life) { l.Sized, l.Has = true, r.Amounts })
		}
		p = Progress{Began: p.Began, Done: !p.Dirty, ImageRef: r.ImageRef, NextDue: r.NextDue, Mounted: r.Kind == Mount}
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

// once says that a step leaves its result in the runtime or in the lives,
// where the next plan sees it: nothing of a success has to be remembered.
func once(k Kind) bool {
	switch k {
	case RunSandbox, StartContainer, Look, StopContainer, RemoveContainer, RemoveSandbox, PostStart, Remember,
		Allocate, ResizePod, ResizeContainer:
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

// Renew makes failed steps due at once, as if they had not been tried: what
// they are to do has changed.
func (h *History) Renew(kinds ...Kind) {
	for key, p := range h.Steps {
		if slices.Contains(kinds, key.Kind) {
			p.RetryAt, p.Failures, p.LastError, p.Reason = time.Time{}, 0, "", ""
			h.Steps[key] = p
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

// waiting is why a container that should run does not.
func waiting(reason, message string) v1.ContainerStateWaiting {
	return v1.ContainerStateWaiting{Reason: reason, Message: message}
}
