package logs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

const (
	// tailBlock is how much is read at a time towards a file's beginning.
	tailBlock = 64 << 10
	// lookBack is how far beyond the lines asked for the beginning of the
	// oldest is looked for, in case it is in several entries with those of
	// the other stream between them.
	lookBack = 256 << 10
)

// tail finds where the last lines of a log begin, coming from its end. A line
// in several entries counts once, and so does one whose last entry is not
// there yet. Lines are in the order of their ends.
type tail struct {
	left int64   // lines still to be found
	want [2]bool // streams that count
	// begun says that the stream has a line in the tail, done that its next
	// older entry belongs to a line that is not.
	begun, done [2]bool
	// in and at are the segment and the offset where the stream's part of the
	// tail begins.
	in [2]int
	at [2]int64
}

// entry judges the next older entry.
func (t *tail) entry(segment int, begin int64, h *header) {
	s := h.stream
	if t.done[s] {
		return
	}
	if !h.partial || !t.begun[s] { // the last entry of a line
		if t.left == 0 {
			t.done[s] = true
			return
		}
		t.left--
		t.begun[s] = true
	}
	t.in[s], t.at[s] = segment, begin
	t.settle()
}

// settle ends the search in streams that have no line in the tail.
func (t *tail) settle() {
	if t.left > 0 {
		return
	}
	for s, begun := range t.begun {
		if !begun {
			t.done[s] = true
		}
	}
}

func (t *tail) complete() bool { return t.done[stdout] && t.done[stderr] }

// seekTail drops the segments before the last n lines of the wanted streams,
// and lets the others begin where those lines do. Of plain files it reads only
// the end.
func seekTail(ctx context.Context, segments []*segment, n int64, want [2]bool) ([]*segment, error) {
	t := tail{left: n, want: want, done: [2]bool{!want[stdout], !want[stderr]}}
	last := len(segments) - 1
	end, err := segments[last].lastLine()
	if err != nil {
		return nil, err
	}
	t.in, t.at = [2]int{last, last}, [2]int64{end, end}
	t.settle()
	for i, g := range slices.Backward(segments) {
		if t.complete() {
			break
		}
		onlyBeginnings := t.left == 0
		if g.compressed() {
			err = g.tailUnzipped(ctx, &t, i)
		} else {
			err = g.tailPlain(ctx, &t, i, i == last, end)
		}
		if err != nil {
			return nil, err
		}
		if onlyBeginnings {
			break
		}
	}
	first := last
	for s := range want {
		if want[s] {
			first = min(first, t.in[s])
		}
	}
	for i, g := range segments {
		for s := range g.floor {
			switch {
			case i < t.in[s]:
				g.floor[s] = math.MaxInt64
			case i == t.in[s]:
				g.floor[s] = t.at[s]
			}
		}
	}
	closeAll(segments[:first])
	segments = segments[first:]
	if g := segments[0]; !g.compressed() {
		g.offset = min(g.floor[stdout], g.floor[stderr])
	}
	return segments, nil
}

// lastLine is the end of the last whole line of a plain file. What stands
// after it is still being written: it counts as no line, and will be shown.
func (g *segment) lastLine() (int64, error) {
	if g.compressed() {
		return math.MaxInt64, nil
	}
	info, err := g.file.Stat()
	if err != nil {
		return 0, fmt.Errorf("read log: %w", err)
	}
	buf := make([]byte, 4<<10)
	for end := info.Size(); end > 0; {
		begin := max(0, end-int64(len(buf)))
		n, err := g.file.ReadAt(buf[:end-begin], begin)
		if n < int(end-begin) {
			return 0, fmt.Errorf("read log: %w", err)
		}
		if i := bytes.LastIndexByte(buf[:n], '\n'); i >= 0 {
			return begin + int64(i) + 1, nil
		}
		end = begin
	}
	return 0, nil
}

// tailPlain reads a plain file from its end; that of the newest is given.
func (g *segment) tailPlain(ctx context.Context, t *tail, index int, newest bool, end int64) error {
	if !newest {
		info, err := g.file.Stat()
		if err != nil {
			return fmt.Errorf("read log: %w", err)
		}
		end = info.Size()
	}
	var p parser
	var h header
	beyond := int64(0) // bytes read after the last line was found
	return g.linesBackward(ctx, end, func(begin, end int64, text []byte) bool {
		if p.parse(text, &h) == parsed {
			t.entry(index, begin, &h)
		}
		if t.left == 0 {
			if beyond += end - begin; beyond > lookBack {
				t.done = [2]bool{true, true}
			}
		}
		return !t.complete()
	})
}

// linesBackward shows the lines before end, last one first, until the visitor
// has seen enough. The text is the beginning of the line, enough for a header,
// and more of the file may follow.
func (g *segment) linesBackward(ctx context.Context, end int64, visit func(begin, end int64, text []byte) bool) error {
	buf := make([]byte, tailBlock+maxHeader)
	size := end
	for high := end; high > 0; {
		if err := ctx.Err(); err != nil {
			return err
		}
		low := max(0, high-tailBlock)
		n, err := g.file.ReadAt(buf[:min(size-low, int64(len(buf)))], low)
		if n < int(high-low) {
			return fmt.Errorf("read log: %w", err)
		}
		// The line that ends at end begins after the end of line before it.
		for i := int(high - low); i > 0; {
			i = bytes.LastIndexByte(buf[:i], '\n')
			if begin := low + int64(i) + 1; i >= 0 && begin < end {
				if !g.visitLine(begin, end, buf[i+1:n], visit) {
					return nil
				}
				end = begin
			}
		}
		if low == 0 && end > 0 {
			g.visitLine(0, end, buf[:n], visit)
		}
		high = low
	}
	return nil
}

func (g *segment) visitLine(begin, end int64, text []byte, visit func(begin, end int64, text []byte) bool) bool {
	if text[0] == '{' && int64(len(text)) < end-begin && end-begin <= bufferSize {
		// The JSON format is read by whole lines.
		whole := make([]byte, end-begin)
		if n, _ := g.file.ReadAt(whole, begin); n == len(whole) {
			text = whole
		}
	}
	return visit(begin, end, text)
}

// tailUnzipped reads a compressed file, which has to be read from its
// beginning: once to count, and once more to find the line if it is here.
func (g *segment) tailUnzipped(ctx context.Context, t *tail, index int) error {
	var lines int64
	var any, open [2]bool // streams with entries, with a line that goes on
	if err := g.each(ctx, func(_ int64, h *header) bool {
		s := h.stream
		any[s], open[s] = true, h.partial
		if !t.done[s] && !h.partial {
			lines++
		}
		return true
	}); err != nil {
		return err
	}
	for s := range open {
		if open[s] && !t.begun[s] && !t.done[s] {
			lines++
		}
	}
	if lines < t.left {
		t.left -= lines
		for s := range any {
			if any[s] && !t.done[s] {
				t.begun[s], t.in[s], t.at[s] = true, index, 0
			}
		}
		return nil
	}
	// Each stream begins after the last of its lines that are too many.
	drop := lines - t.left
	var after [2]int64
	if drop > 0 {
		seen := int64(0)
		ended := [2]bool{}
		if err := g.each(ctx, func(begin int64, h *header) bool {
			s := h.stream
			if ended[s] {
				ended[s], after[s] = false, begin
			}
			if seen == drop {
				return ended[stdout] || ended[stderr]
			}
			if !t.done[s] && !h.partial {
				seen++
				ended[s] = true
			}
			return true
		}); err != nil {
			return err
		}
		for s := range ended {
			if ended[s] { // nothing of it follows
				after[s] = math.MaxInt64
			}
		}
	}
	for s := range any {
		if any[s] && !t.done[s] && after[s] != math.MaxInt64 {
			t.in[s], t.at[s] = index, after[s]
		}
	}
	t.left, t.done = 0, [2]bool{true, true}
	return nil
}

// each shows the headers of a file from its beginning, until the visitor has
// seen enough, and goes back there.
func (g *segment) each(ctx context.Context, visit func(offset int64, h *header) bool) error {
	c := newCopier(nil, nil)
	c.visit = visit
	err := g.copyTo(ctx, c, make([]byte, bufferSize))
	g.rewind()
	if errors.Is(err, errEnough) || errors.Is(err, errDamaged) { // damage is told of when the file is shown
		return nil
	}
	return err
}

// seekSince drops the files that ended before a point in time, and lets a
// plain one begin shortly before it. Entries are filtered one by one all the
// same; this only saves reading what is surely older.
func seekSince(segments []*segment, since time.Time) ([]*segment, error) {
	// A file's time is taken from a coarser clock than that of its entries.
	const coarse = 2 * time.Second
	for len(segments) > 1 {
		info, err := segments[0].file.Stat()
		if err != nil {
			return nil, fmt.Errorf("read log: %w", err)
		}
		if !info.ModTime().Before(since.Add(-coarse)) {
			break
		}
		segments[0].close()
		segments = segments[1:]
	}
	if g := segments[0]; !g.compressed() {
		offset, err := g.search(since)
		if err != nil {
			return nil, err
		}
		g.offset = offset
	}
	return segments, nil
}

// search returns the beginning of a line that is not long before since, as
// far as entries are in order of time. They are, but for the two streams'
// being written side by side and a clock that was set back.
func (g *segment) search(since time.Time) (int64, error) {
	const (
		disorder = 10 * time.Second
		enough   = 1 << 20 // bytes that are read anyway
	)
	from := instantOf(since.Add(-disorder))
	info, err := g.file.Stat()
	if err != nil {
		return 0, fmt.Errorf("read log: %w", err)
	}
	buf := make([]byte, tailBlock)
	var p parser
	low, high := int64(0), info.Size()
	for high-low > enough {
		middle := low + (high-low)/2
		n, err := g.file.ReadAt(buf, middle)
		if n == 0 {
			return 0, fmt.Errorf("read log: %w", err)
		}
		begin, at, ok := p.firstEntry(buf[:n])
		if !ok || !at.before(from) {
			high = middle
			continue
		}
		low = middle + int64(begin)
	}
	return low, nil
}

// firstEntry finds the first whole line that is an entry.
func (p *parser) firstEntry(b []byte) (begin int, at instant, ok bool) {
	var h header
	for {
		i := bytes.IndexByte(b[begin:], '\n')
		if i < 0 {
			return 0, at, false
		}
		begin += i + 1
		if p.parse(b[begin:], &h) == parsed {
			return begin, h.time, true
		}
	}
}
