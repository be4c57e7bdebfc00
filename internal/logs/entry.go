package logs

import (
	"bytes"
	"encoding/json"
	"time"
)

// stream is one of a container's two outputs.
type stream uint8

const (
	stdout stream = iota
	stderr
)

// header is what stands before an entry's content. An entry is one line of a
// log file; a container's line that is longer than the runtime cares to buffer
// is several entries, all but the last one partial.
type header struct {
	time    instant
	stream  stream
	partial bool
	// size of the header in bytes: the content begins there, and ends with
	// the line.
	size int
	// content replaces what stands in the file if the file holds it encoded
	// (jsonEntry), end of line included; size is then the whole line's.
	content []byte
}

// maxHeader is the longest header taken, in bytes. Runtimes write less than 64.
const maxHeader = 512

const (
	secondFormat = "2006-01-02T15:04:05"
	// stampFormat is the time as it is shown, a space after it: upstream's,
	// all of equal width.
	stampFormat = secondFormat + ".000000000Z07:00 "
)

// instant is a point in time, and how it was written.
type instant struct {
	sec    int64 // since 1970, UTC
	nsec   int32
	offset int32 // of the zone, in seconds
}

func instantOf(t time.Time) instant { return instant{sec: t.Unix(), nsec: int32(t.Nanosecond())} }

func (i instant) before(o instant) bool {
	return i.sec < o.sec || i.sec == o.sec && i.nsec < o.nsec
}

// parser reads headers. It remembers the second that it read last, because the
// next entry is most often of the same: nothing is allocated, and the calendar
// is asked once a second of log.
type parser struct {
	text [len(secondFormat)]byte
	sec  int64 // of text, as if it were UTC
}

// result of parsing a header.
type result uint8

const (
	parsed  result = iota
	short          // more bytes are needed
	foreign        // no log entry: skip the line
)

// parse reads the header at the beginning of b, which may hold more than the
// entry, or less.
func (p *parser) parse(b []byte, h *header) result {
	h.content = nil
	if len(b) > 0 && b[0] == '{' {
		return p.jsonEntry(b, h)
	}
	n, r := p.parseTime(b, &h.time)
	if r != parsed {
		return r
	}
	const words = len(" stdout ")
	if len(b) < n+words {
		return incomplete(b)
	}
	switch string(b[n : n+words]) {
	case " stdout ":
		h.stream = stdout
	case " stderr ":
		h.stream = stderr
	default:
		return foreign
	}
	// Tags are separated by colons; the first says whether the line goes on.
	// Others are unknown today and do not matter.
	tags := b[n+words:]
	if len(tags) > 1 && tags[1] == ' ' {
		h.partial = tags[0] == 'P'
		h.size = n + words + 2
		return parsed
	}
	for i, c := range tags[:min(len(tags), maxHeader)] {
		switch c {
		case ' ':
			first, _, _ := bytes.Cut(tags[:i], []byte{':'})
			h.partial = string(first) == "P"
			h.size = n + words + i + 1
			return parsed
		case '\n':
			return foreign
		}
	}
	return incomplete(tags)
}

// incomplete judges a header that does not end in b.
func incomplete(b []byte) result {
	if len(b) >= maxHeader || bytes.IndexByte(b, '\n') >= 0 {
		return foreign
	}
	return short
}

// parseTime reads RFC 3339 with any number of digits after the second, and
// returns its length.
func (p *parser) parseTime(b []byte, t *instant) (int, result) {
	const seconds = len(p.text)
	if len(b) <= seconds {
		return 0, incomplete(b)
	}
	if string(b[:seconds]) != string(p.text[:]) {
		sec, ok := calendar(b[:seconds])
		if !ok {
			return 0, foreign
		}
		copy(p.text[:], b)
		p.sec = sec
	}
	t.sec, t.nsec, t.offset = p.sec, 0, 0
	i := seconds
	if b[i] == '.' {
		digits := 0
		for i++; i < len(b) && b[i]-'0' <= 9; i++ {
			if digits < 9 {
				t.nsec = t.nsec*10 + int32(b[i]-'0')
				digits++
			}
		}
		if digits == 0 && i < len(b) {
			return 0, foreign
		}
		for ; digits < 9; digits++ {
			t.nsec *= 10
		}
	}
	if i >= len(b) {
		return 0, incomplete(b)
	}
	if b[i] == 'Z' {
		return i + 1, parsed
	}
	const zone = len("+07:00")
	if len(b) < i+zone {
		return 0, incomplete(b)
	}
	if b[i] != '+' && b[i] != '-' || b[i+3] != ':' {
		return 0, foreign
	}
	hours, ok1 := digits2(b[i+1:])
	minutes, ok2 := digits2(b[i+4:])
	if !ok1 || !ok2 || hours > 24 || minutes > 60 {
		return 0, foreign
	}
	t.offset = int32(hours*3600 + minutes*60)
	if b[i] == '-' {
		t.offset = -t.offset
	}
	t.sec -= int64(t.offset)
	return i + zone, parsed
}

// calendar reads "2006-01-02T15:04:05" as UTC.
func calendar(b []byte) (int64, bool) {
	if b[4] != '-' || b[7] != '-' || b[10] != 'T' || b[13] != ':' || b[16] != ':' {
		return 0, false
	}
	century, ok0 := digits2(b)
	year, ok1 := digits2(b[2:])
	month, ok2 := digits2(b[5:])
	day, ok3 := digits2(b[8:])
	hour, ok4 := digits2(b[11:])
	minute, ok5 := digits2(b[14:])
	second, ok6 := digits2(b[17:])
	if !(ok0 && ok1 && ok2 && ok3 && ok4 && ok5 && ok6) || hour > 23 || minute > 59 || second > 59 {
		return 0, false
	}
	t := time.Date(century*100+year, time.Month(month), day, hour, minute, second, 0, time.UTC)
	// A date that does not exist is carried over to one that does.
	if t.Month() != time.Month(month) || t.Day() != day {
		return 0, false
	}
	return t.Unix(), true
}

// stamp adds the time of the header that was parsed last, in stampFormat.
func (p *parser) stamp(b []byte, t instant) []byte {
	b = append(append(b, p.text[:]...), '.')
	for unit := int32(100_000_000); unit > 0; unit /= 10 {
		b = append(b, byte('0'+t.nsec/unit%10))
	}
	minutes := t.offset / 60
	switch {
	case t.offset == 0:
		return append(b, 'Z', ' ')
	case minutes < 0:
		b, minutes = append(b, '-'), -minutes
	default:
		b = append(b, '+')
	}
	hours, minutes := minutes/60, minutes%60
	return append(b, byte('0'+hours/10), byte('0'+hours%10), ':', byte('0'+minutes/10), byte('0'+minutes%10), ' ')
}

func digits2(b []byte) (int, bool) {
	tens, ones := b[0]-'0', b[1]-'0'
	return int(tens)*10 + int(ones), tens <= 9 && ones <= 9
}

// jsonEntry reads an entry in the format of Docker's json-file driver, which
// is what is in the files where the runtime is cri-dockerd. It needs the whole
// line, and is not fast.
func (p *parser) jsonEntry(b []byte, h *header) result {
	end := bytes.IndexByte(b, '\n')
	if end < 0 {
		return short
	}
	var e struct {
		Log    string    `json:"log"`
		Stream string    `json:"stream"`
		Time   time.Time `json:"time"`
	}
	if err := json.Unmarshal(b[:end], &e); err != nil {
		return foreign
	}
	switch e.Stream {
	case "stdout":
		h.stream = stdout
	case "stderr":
		h.stream = stderr
	default:
		return foreign
	}
	h.time = instantOf(e.Time)
	_, offset := e.Time.Zone()
	h.time.offset = int32(offset)
	p.sec = h.time.sec + int64(offset)
	if text := e.Time.AppendFormat(nil, secondFormat); copy(p.text[:], text) != len(text) {
		return foreign // a year of five digits
	}
	h.content = []byte(e.Log)
	h.partial = len(e.Log) > 0 && e.Log[len(e.Log)-1] != '\n'
	h.size = end + 1
	return parsed
}
