package logs

import "time"

const (
	// burst is how fast a log is taken to grow at once, in bytes per second,
	// however slow it was: more than a runtime writes on most machines.
	burst = 64 << 20
	// margin is how much of its size a log may grow beyond the limit before
	// it is looked at: with a look's own delay that stays below a fifth.
	margin = 10 // one in
	// firstLook is the latest look at a log that was still until now, so that
	// its speed is known before long.
	firstLook = 100 * time.Millisecond
	// nextLook is the earliest look at a log after another.
	nextLook = 5 * time.Millisecond
)

// forecast says when a log that is being written to has to be looked at next.
// A fast log is looked at just as its size is reached, a slow one a few times
// a second, a still one not at all: it is left to inotify.
type forecast struct {
	limit int64 // at which the log is rotated
	size  int64 // at the last look
	at    time.Time
	rate  float64 // bytes per second
}

// begin takes the size of a log that was still and is written to again.
func (f *forecast) begin(now time.Time, size int64) time.Duration {
	f.size, f.at, f.rate = size, now, 0
	return min(firstLook, f.delay())
}

// look takes the size of a log and returns when to look again, or 0 if it did
// not grow since the last time.
func (f *forecast) look(now time.Time, size int64) time.Duration {
	if size == f.size {
		return 0
	}
	if passed := now.Sub(f.at).Seconds(); passed > 0 && size > f.size {
		f.rate = max(float64(size-f.size)/passed, f.rate/2)
	}
	f.size, f.at = size, now
	return f.delay()
}

// delay is how long the log can be left alone if it grows half as fast again
// as it did, and at least by burst.
func (f *forecast) delay() time.Duration {
	left := max(f.limit-f.size, 0) + f.limit/margin
	speed := max(1.5*f.rate, burst)
	return max(time.Duration(float64(left)/speed*float64(time.Second)), nextLook)
}
