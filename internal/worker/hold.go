package worker

import (
	"time"

	"kubelet/internal/lifecycle"
	"kubelet/internal/status"
)

// unwinding is how long a status that only tells that a pod is being taken
// down waits for a better one, such as how its containers ended.
const unwinding = 5 * time.Second

// holds says until when the newest status is held back, zero for not at all.
// While the pod is on its way, a status that only shows progress waits for the
// next one: each write costs the API server more than the change is worth, and
// the times in it are those of the change in any case.
func (w *worker) holds(out lifecycle.Output, now time.Time) time.Time {
	var most time.Duration
	switch {
	case w.state.Phase == Starting && w.underWay(out) && status.OnlyProgress(w.published, w.previous):
		most = settling
	case w.state.Phase >= Terminating && w.state.Deleted && w.published.Phase != "" && status.OnlyUnwinding(w.published, w.previous):
		most = unwinding
	default:
		return time.Time{}
	}
	if w.heldSince.IsZero() {
		w.heldSince = now
	}
	if until := w.heldSince.Add(most); until.After(now) {
		return until
	}
	return time.Time{}
}

// underWay says whether a step that brings the pod further is under way or
// about to be.
func (w *worker) underWay(out lifecycle.Output) bool {
	for i := range out.Actions {
		if advances(out.Actions[i].Kind) {
			return true
		}
	}
	for key, step := range w.history.Steps {
		if step.InFlight && advances(key.Kind) {
			return true
		}
	}
	return false
}

func advances(k lifecycle.Kind) bool {
	switch k {
	case lifecycle.Mount, lifecycle.RunSandbox, lifecycle.PullImage, lifecycle.StartContainer:
		return true
	}
	return false
}
