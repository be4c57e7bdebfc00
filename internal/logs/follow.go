package logs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"kubelet/internal/observed"
)

const (
	// pace is how long a follower lets a log grow that is written to without
	// a break, rather than to send each line by itself. A line after a
	// silence goes at once.
	pace = 5 * time.Millisecond
	// enoughAtOnce is worth sending before that.
	enoughAtOnce = 64 << 10
	// stillness is after how long a file that was replaced counts as complete
	// where the kernel cannot say whether somebody has it open.
	stillness = time.Second
	// farewell is how long after its end a container's log is waited for to
	// be closed, in case something else holds it open.
	farewell = 5 * time.Second
	// blind is how often a follower looks where inotify is exhausted.
	blind = 500 * time.Millisecond
)

// follower reads a log as it is written.
//
//	at the end of the file:
//	  still written to ──────────────► wait for a write, a close, a rename
//	  replaced, and closed by all ───► next file of the series, oldest first
//	  container ended, closed by all ► done
//
// Each of the questions is asked before a last read of the file, so what that
// read does not find was not written when they were answered.
type follower struct {
	reader *Reader
	uid    types.UID
	series *series
	// event is signalled by inotify and by the observed table.
	event    chan struct{}
	waiter   *waiter
	armed    []int32
	watching bool
	ended    time.Time // when the container was first seen to have ended
	// passed is the time in the name of the newest file that was read to its
	// end: all with a later one follow.
	passed string
}

func (r *Reader) newFollower(uid types.UID, s *series) *follower {
	f := &follower{reader: r, uid: uid, series: s, event: make(chan struct{}, 1)}
	f.waiter = &waiter{func() { signal(f.event) }}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.followers[uid] == nil {
		r.followers[uid] = map[chan struct{}]bool{}
	}
	r.followers[uid][f.event] = true
	return f
}

func (f *follower) close() {
	if f.watching {
		f.disarm()
		f.reader.watch.leave()
	}
	f.reader.mu.Lock()
	defer f.reader.mu.Unlock()
	if delete(f.reader.followers[f.uid], f.event); len(f.reader.followers[f.uid]) == 0 {
		delete(f.reader.followers, f.uid)
	}
}

// running says whether the container may still write.
func (f *follower) running() bool {
	c := f.reader.container(f.uid, f.series.id)
	if c == nil {
		select {
		case <-f.reader.table.Synced():
			return false
		default:
			return true // not known yet
		}
	}
	return c.State != observed.Exited
}

// follow shows g, closing it, and the files after it, until the container has
// ended.
func (f *follower) follow(ctx context.Context, g *segment, c *copier) error {
	defer func() { g.close() }()
	if err := f.reader.watch.join(); err != nil {
		klog.FromContext(ctx).Error(err, "Log is followed without inotify, lines come late; raise fs.inotify.max_user_instances", "log", g.name)
	} else {
		f.watching = true
	}
	for {
		if err := f.drain(ctx, g, c); err != nil {
			return err
		}
		end, wait, err := f.inspect(ctx, g, c)
		if err != nil {
			return err
		}
		switch end {
		case more:
		case replaced:
			f.pass(g)
			next, err := f.awaitNext(ctx)
			if err != nil || next == nil {
				return err
			}
			g.close()
			g = next
			if err := c.endFile(); err != nil {
				return err
			}
		case done:
			return nil
		case growing:
			if err := f.wait(ctx, wait); err != nil {
				return err
			}
		}
	}
}

// drain shows what is there, and takes its time while more keeps coming.
func (f *follower) drain(ctx context.Context, g *segment, c *copier) error {
	for {
		n, err := f.show(ctx, g, c)
		if err != nil || n == 0 {
			return err
		}
		if n < enoughAtOnce {
			if err := sleep(ctx, pace); err != nil {
				return err
			}
		}
	}
}

// show returns how many bytes of the file were used.
func (f *follower) show(ctx context.Context, g *segment, c *copier) (int64, error) {
	before := g.offset
	if !g.compressed() {
		// A log that was cut off in place, as some tools rotate, begins anew.
		if info, err := g.file.Stat(); err == nil && info.Size() < g.offset {
			g.offset, g.floor = 0, [2]int64{}
			before = 0
			if err := c.endFile(); err != nil {
				return 0, err
			}
		}
	}
	err := f.reader.show(ctx, g, c)
	return g.offset - before, err
}

// end is what becomes of a file at whose end the follower is.
type end uint8

const (
	more     end = iota // not the end after all
	growing             // it is being written to
	replaced            // another file goes on
	done                // the container has ended
)

// inspect arms the watches, finds out about the file, and reads what was
// written meanwhile. wait is how long at most to wait for an event; 0: for ever.
func (f *follower) inspect(ctx context.Context, g *segment, c *copier) (end, time.Duration, error) {
	if g.compressed() {
		return replaced, 0, nil
	}
	var wait time.Duration
	if !f.arm(fdPath(g.file), fileEvents) {
		wait = blind
	}
	running := f.running()
	if !running && f.ended.IsZero() {
		f.ended = time.Now()
	}
	name, exists := g.now()
	moved := name != f.series.name || !exists
	closed := false
	if moved || !running {
		var again time.Duration
		if closed, again = closedByAll(g); again > 0 {
			wait = again
		}
	}
	n, err := f.show(ctx, g, c)
	switch {
	case err != nil:
		return 0, 0, err
	case n > 0:
		return more, 0, nil
	case moved && closed:
		return replaced, 0, nil
	case running:
		return growing, wait, nil
	case closed:
		return done, 0, nil
	}
	left := farewell - time.Since(f.ended)
	if left <= 0 {
		return done, 0, nil
	}
	if wait == 0 || wait > left {
		wait = left
	}
	return growing, wait, nil
}

// closedByAll says whether nobody writes to the file any more, and where that
// can only be guessed, when to ask again.
func closedByAll(g *segment) (closed bool, again time.Duration) {
	open, ok := g.written()
	if ok {
		return !open, 0
	}
	info, err := g.file.Stat()
	if err != nil {
		return true, 0
	}
	if still := time.Since(info.ModTime()); still < stillness {
		return false, stillness - still
	}
	return true, 0
}

// pass notes the place of the file in the series: the time in the name that it
// was given when it was replaced. A file that was removed under its first name
// came right after the one before it.
func (f *follower) pass(g *segment) {
	name := g.name
	if !g.compressed() {
		name, _ = g.now()
	}
	f.passed = max(f.passed, stampOf(f.series.name, name))
}

// awaitNext waits until the runtime has opened the log anew. It returns nil
// when the container ends before.
func (f *follower) awaitNext(ctx context.Context) (*segment, error) {
	for {
		var wait time.Duration
		if !f.armDir() {
			wait = blind
		}
		running := f.running()
		next, err := f.series.after(f.passed)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil // the directory was removed, nothing can follow
		}
		if err != nil || next != nil || !running {
			return next, err
		}
		if err := f.wait(ctx, wait); err != nil {
			return nil, err
		}
	}
}

func (f *follower) armDir() bool {
	d, err := f.series.dir.Open(".")
	if err != nil {
		return false
	}
	defer d.Close()
	return f.arm(fdPath(d), dirEvents)
}

// arm lets the next event signal.
func (f *follower) arm(path string, events uint32) bool {
	if !f.watching {
		return false
	}
	wd, err := f.reader.watch.arm(path, events, f.waiter)
	if err != nil {
		return false
	}
	for _, have := range f.armed {
		if have == wd {
			return true
		}
	}
	f.armed = append(f.armed, wd)
	return true
}

func (f *follower) disarm() {
	for _, wd := range f.armed {
		f.reader.watch.disarm(wd, f.waiter)
	}
	f.armed = f.armed[:0]
}

// wait returns at an event, and after most at the latest; 0 is for ever.
func (f *follower) wait(ctx context.Context, most time.Duration) error {
	var late <-chan time.Time
	if most > 0 {
		timer := time.NewTimer(most)
		defer timer.Stop()
		late = timer.C
	}
	select {
	case <-ctx.Done():
		return fmt.Errorf("follow log: %w", ctx.Err())
	case <-f.event:
	case <-late:
	}
	f.disarm()
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return fmt.Errorf("follow log: %w", ctx.Err())
	case <-timer.C:
		return nil
	}
}
