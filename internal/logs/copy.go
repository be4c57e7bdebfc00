package logs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
)

// bufferSize of reads and writes. Long enough that system calls do not count,
// short enough to stay in a core's cache.
const bufferSize = 256 << 10

// errEnough ends a copy that has written all that was asked for.
var errEnough = errors.New("no more is asked for")

// sink is a writer, and what is on its way there.
type sink struct {
	w   io.Writer
	buf []byte
	// inLine says that the last byte was not an end of line.
	inLine bool
}

// copier turns log files into what the container wrote: it takes the headers
// off, leaves out what is not asked for and joins the rest. Whole buffers go
// through it, and nothing is allocated per line.
type copier struct {
	parser
	sinks  [2]*sink // by stream; nil: not wanted; the same twice: one writer
	since  instant
	stamps bool  // put the time before each line
	remain int64 // bytes that may still be written
	// floor is the offset in the current file from which entries count, by
	// stream: the beginning of a tail.
	floor [2]int64
	// visit, if set, is shown each entry's header and offset, until it has
	// seen enough.
	visit func(offset int64, h *header) bool

	stamped [len(stampFormat)]byte
	head    header // of the entry at which the copier is
	// Where in an entry the last bytes ended.
	place   place
	to      *sink // of the current entry; nil: left out
	partial bool
	// entries and skipped count lines: those that are log entries, and those
	// that are not.
	entries, skipped int64
}

// place is where in a file the copier is.
type place uint8

const (
	atHeader  place = iota
	inContent       // of an entry whose header is done
	inForeign       // in a line that is no entry
)

func newCopier(out, err io.Writer) *copier {
	c := &copier{remain: math.MaxInt64, since: instant{sec: math.MinInt64}}
	if out != nil {
		c.sinks[stdout] = &sink{w: out}
	}
	switch {
	case err == nil:
	case out != nil && reflect.TypeOf(out).Comparable() && reflect.TypeOf(err).Comparable() && out == err:
		c.sinks[stderr] = c.sinks[stdout]
	default:
		c.sinks[stderr] = &sink{w: err}
	}
	return c
}

// feed takes the next bytes of the file, which begin at offset, and returns
// how many it used: all but an incomplete header at the end.
func (c *copier) feed(b []byte, offset int64) (int, error) {
	used := 0
	for used < len(b) {
		rest := b[used:]
		switch c.place {
		case atHeader:
			switch c.parse(rest, &c.head) {
			case short:
				return used, nil
			case foreign:
				c.skipped++
				c.place = inForeign
				continue
			}
			if err := c.begin(offset + int64(used)); err != nil {
				return used, err
			}
			used += c.head.size
		case inContent:
			end := bytes.IndexByte(rest, '\n')
			content := rest
			if end >= 0 {
				c.place = atHeader
				if content = rest[:end+1]; c.partial {
					content = rest[:end]
				}
				used += end + 1
			} else {
				used += len(rest)
			}
			if err := c.put(content); err != nil {
				return used, err
			}
		case inForeign:
			end := bytes.IndexByte(rest, '\n')
			if end < 0 {
				return len(b), nil
			}
			used += end + 1
			c.place = atHeader
		}
	}
	return used, nil
}

// skip gives up the line at which the copier is.
func (c *copier) skip() { c.place = inForeign }

// begin decides whether an entry is wanted.
func (c *copier) begin(offset int64) error {
	h := &c.head
	c.entries++
	if c.visit != nil && !c.visit(offset, h) {
		return errEnough
	}
	c.place, c.partial, c.to = inContent, h.partial, c.sinks[h.stream]
	if offset < c.floor[h.stream] || h.time.before(c.since) {
		c.to = nil
	}
	if c.stamps && c.to != nil && !c.to.inLine {
		if err := c.put(c.stamp(c.stamped[:0], h.time)); err != nil {
			return err
		}
	}
	if h.content != nil {
		c.place = atHeader
		return c.put(h.content)
	}
	return nil
}

// put writes content of the current entry.
func (c *copier) put(content []byte) error {
	s := c.to
	if s == nil || len(content) == 0 {
		return nil
	}
	full := int64(len(content)) >= c.remain
	if full {
		content = content[:c.remain]
	}
	c.remain -= int64(len(content))
	s.inLine = content[len(content)-1] != '\n'
	if err := s.put(content); err != nil {
		return err
	}
	if full {
		return errEnough
	}
	return nil
}

func (s *sink) put(content []byte) error {
	if len(s.buf)+len(content) > cap(s.buf) {
		if err := s.flush(); err != nil {
			return err
		}
		if len(content) >= cap(s.buf) {
			return s.write(content)
		}
	}
	s.buf = append(s.buf, content...)
	return nil
}

func (s *sink) flush() error {
	if len(s.buf) == 0 {
		return nil
	}
	err := s.write(s.buf)
	s.buf = s.buf[:0]
	return err
}

func (s *sink) write(b []byte) error {
	n, err := s.w.Write(b)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	return err
}

// flush sends what is on its way.
func (c *copier) flush() error {
	for i, s := range c.sinks {
		if s == nil || i > 0 && s == c.sinks[0] {
			continue
		}
		if err := s.flush(); err != nil {
			return err
		}
	}
	return nil
}

// endFile is called between two files. A line that a runtime began and never
// ended must not run into the next one.
func (c *copier) endFile() error {
	cut := c.place == inContent && !c.partial
	c.place, c.floor = atHeader, [2]int64{}
	if cut {
		return c.put([]byte{'\n'})
	}
	return nil
}

// copyTo copies the rest of the file as far as it is there. Bytes at the end
// that are not yet a header are left for the next time.
func (g *segment) copyTo(ctx context.Context, c *copier, buf []byte) error {
	c.floor = g.floor
	held := 0 // bytes at the buffer's beginning that were not used yet
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := g.read(buf[held:], held)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read log %s: %w", g.name, err)
		}
		have := buf[:held+n]
		used, err := c.feed(have, g.offset)
		if err == nil && used == 0 && len(have) == len(buf) {
			// No header is that long.
			c.skip()
			used, err = c.feed(have, g.offset)
		}
		g.offset += int64(used)
		if err != nil {
			return err
		}
		held = copy(buf, have[used:])
	}
}
