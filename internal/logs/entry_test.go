package logs

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// reference parses a whole line by the library's means.
func reference(text string) (at time.Time, s stream, partial bool, content string, ok bool) {
	fields := strings.SplitN(text, " ", 4)
	if len(fields) < 4 || len(fields[0]) < len("2006-01-02T15:04:05Z") || fields[0][13] != ':' || strings.ContainsAny(fields[0], ",") {
		return at, 0, false, "", false
	}
	at, err := time.Parse("2006-01-02T15:04:05.999999999Z07:00", fields[0])
	if err != nil || fields[1] != "stdout" && fields[1] != "stderr" || len(fields[0]) > 40 || len(fields[2]) > 40 {
		return at, 0, false, "", false
	}
	if fields[1] == "stderr" {
		s = stderr
	}
	tag, _, _ := strings.Cut(fields[2], ":")
	return at, s, tag == "P", fields[3], true
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"2026-01-02T03:04:05.123456789Z stdout F hello", "2026-01-02T03:04:05+02:00 stderr P:x:y ", "2024-02-29T23:59:59.1Z stdout F",
		"2026-02-30T00:00:00Z stdout F x", "0000-01-01T00:00:00Z stdout F x", "2026-01-02T03:04:05.Z stdout F x",
		"2026-01-02T03:04:05.1234567890123-23:59 stdout  x", "2026-01-02T24:00:00Z stdout F x", "2026-01-02T03:04:05,5Z stdout F x",
		`{"log":"a\n","stream":"stdout","time":"2026-01-02T03:04:05.5Z"}`, "{", "",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		text, _, _ = strings.Cut(text, "\n")
		if len(text) > maxHeader/2 {
			return
		}
		var p parser
		full := []byte(text + "\n")
		var h header
		r := p.parse(full, &h)
		if r == short {
			t.Fatalf("%q: a whole line is said to be short", text)
		}
		// The beginning of an entry is never taken for something else.
		if r == parsed {
			for i := range h.size {
				if r := new(parser).parse(full[:i], new(header)); r != short {
					t.Fatalf("%q: the first %d bytes give %d", text, i, r)
				}
			}
		}
		if strings.HasPrefix(text, "{") {
			return
		}
		at, s, partial, content, ok := reference(text)
		if !ok {
			// The parser may take tags and fractions that the reference does
			// not, but never what is no time.
			return
		}
		if r != parsed {
			t.Fatalf("%q: refused", text)
		}
		if h.time.sec != at.Unix() || int(h.time.nsec) != at.Nanosecond() || h.stream != s || h.partial != partial || string(full[h.size:len(full)-1]) != content {
			t.Errorf("%q: parsed as %+v, content %q; want %s", text, h, full[h.size:], at)
		}
		if got, want := string(p.stamp(nil, h.time)), at.Format(stampFormat); got != want {
			t.Errorf("%q: shown as %q, want %q", text, got, want)
		}
	})
}

// FuzzCopy reads any bytes, through buffers that end anywhere, and wants the
// same to come out. A second parser that skips what it cannot read shows what.
func FuzzCopy(f *testing.F) {
	f.Add([]byte("2026-01-02T03:04:05Z stdout F a\n2026-01-02T03:04:05Z stderr P b\nxx\n2026-01-02T03:04:05Z stdout F c"), uint8(7), true)
	f.Add([]byte(`{"log":"a\n","stream":"stdout","time":"2026-01-02T03:04:05.5Z"}`+"\n"), uint8(3), false)
	f.Add(bytes.Repeat([]byte("y"), 3*maxHeader), uint8(1), false)
	f.Fuzz(func(t *testing.T, content []byte, step uint8, stamps bool) {
		once := func(size int) string {
			var out bytes.Buffer
			c := newCopier(&out, &out)
			c.stamps = stamps
			var held []byte
			offset := int64(0)
			for rest := content; ; {
				n := min(size, len(rest))
				held, rest = append(held, rest[:n]...), rest[n:]
				used, err := c.feed(held, offset)
				if err != nil {
					t.Fatal(err)
				}
				held = append([]byte(nil), held[used:]...)
				offset += int64(used)
				if n == 0 {
					break
				}
			}
			if err := c.flush(); err != nil {
				t.Fatal(err)
			}
			return out.String()
		}
		whole := once(len(content) + 1)
		if parts := once(int(step) + 1); parts != whole {
			t.Errorf("in steps of %d: %q, at once: %q", int(step)+1, parts, whole)
		}
	})
}

// FuzzTail gives any bytes to the readers that seek.
func FuzzTail(f *testing.F) {
	f.Add([]byte("2026-01-02T03:04:05Z stdout F a\n2026-01-02T03:04:05Z stderr P b\nxx\n2026-01-02T03:04:05Z stdout F c"), int64(1), int64(0))
	f.Add([]byte("\n\n{\n{\"log\":\"\"}\n"), int64(2), int64(1))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, content []byte, lines, since int64) {
		name := filepath.Join(dir, "0.log")
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := openSeries(dir, name, "")
		if err != nil {
			t.Fatal(err)
		}
		defer s.close()
		show := func(seek func([]*segment) ([]*segment, error)) string {
			segments, err := s.snapshot()
			if err != nil {
				t.Fatal(err)
			}
			segments, err = seek(segments)
			if err != nil {
				t.Fatal(err)
			}
			defer closeAll(segments)
			var out bytes.Buffer
			c := newCopier(&out, &out)
			if err := segments[0].copyTo(context.Background(), c, make([]byte, bufferSize)); err != nil && !errors.Is(err, errEnough) {
				t.Fatal(err)
			}
			if err := c.flush(); err != nil {
				t.Fatal(err)
			}
			return out.String()
		}
		whole := show(func(s []*segment) ([]*segment, error) { return s, nil })
		all := show(func(s []*segment) ([]*segment, error) {
			return seekTail(context.Background(), s, 1<<40, [2]bool{true, true})
		})
		if all != whole {
			t.Errorf("a tail of all is %q, all is %q", all, whole)
		}
		show(func(s []*segment) ([]*segment, error) {
			return seekTail(context.Background(), s, max(lines, 0)%1000, [2]bool{true, true})
		})
		show(func(s []*segment) ([]*segment, error) { return seekSince(s, time.Unix(since, 0)) })
	})
}
