package logs

import (
	"fmt"
	"path/filepath"
	"strings"
)

// Window returns the last max bytes of a container's log, of which path is the
// file being written to. If that was begun only just now, the file before it is
// looked at as well. Links are not followed, and only regular files are read.
func Window(path string, max int64) ([]byte, error) {
	s, err := openSeries(filepath.Dir(path), path, "")
	if err != nil {
		return nil, err
	}
	defer s.close()
	newest, err := s.end(s.name, max)
	if err != nil || int64(len(newest)) == max {
		return newest, err
	}
	names, err := s.rotated()
	if err != nil || len(names) == 0 || strings.HasSuffix(names[len(names)-1], compressed) {
		return newest, err
	}
	before, err := s.end(names[len(names)-1], max-int64(len(newest)))
	return append(before, newest...), err
}

// end reads the last max bytes of a plain file.
func (s *series) end(name string, max int64) ([]byte, error) {
	g, err := s.open(name)
	if err != nil {
		return nil, err
	}
	defer g.close()
	info, err := g.file.Stat()
	if err != nil {
		return nil, fmt.Errorf("read log: %w", err)
	}
	b := make([]byte, min(max, info.Size()))
	n, err := g.file.ReadAt(b, info.Size()-int64(len(b)))
	if n < len(b) {
		return nil, fmt.Errorf("read log: %w", err)
	}
	return b, nil
}

// Content takes the header off an entry, without its end of line. ok is false
// if the line is no entry, for example cut off at its beginning. A partial
// entry's line goes on in the next one of its stream.
func Content(line []byte) (content []byte, partial, ok bool) {
	var p parser
	var h header
	// The parser wants to see where the line ends.
	line = append(line[:len(line):len(line)], '\n')
	if p.parse(line, &h) != parsed {
		return nil, false, false
	}
	if h.content != nil {
		return []byte(strings.TrimSuffix(string(h.content), "\n")), h.partial, true
	}
	return line[h.size : len(line)-1], h.partial, true
}
