package logs

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// newZipper makes a compressor. The fastest level takes a third of the time of
// the default and a few percent more room; the time is the node's.
func newZipper() any {
	z, err := gzip.NewWriterLevel(io.Discard, gzip.BestSpeed)
	if err != nil {
		panic(err) // the level is a constant
	}
	return z
}

// compressAll compresses the rotated files of a log but the newest, and those
// that somebody still writes to.
func (r *Rotator) compressAll(path string) error {
	s, err := openSeries(r.PodLogsDir, path, "")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer s.close()
	tried := map[string]bool{}
	for {
		names, err := s.rotated()
		if err != nil {
			return err
		}
		// The newest first: while a log is rotated faster than compressed,
		// the oldest are removed anyway.
		name := ""
		for _, n := range plain(names) {
			if !tried[n] {
				name = n
			}
		}
		if name == "" {
			return nil
		}
		tried[name] = true
		if err := r.compress(s, name); err != nil && !errors.Is(err, fs.ErrNotExist) { // removed meanwhile
			return err
		}
	}
}

// compress makes name.gz of name. The last of its steps is to remove name.
func (r *Rotator) compress(s *series, name string) (err error) {
	g, err := s.open(name)
	if err != nil {
		return err
	}
	defer g.close()
	if closed, _ := closedByAll(g); !closed {
		return nil
	}
	info, err := g.file.Stat()
	if err != nil {
		return fmt.Errorf("compress log: %w", err)
	}
	tmp := name + temporary
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("compress log %s: %w", filepath.Join(s.dir.Name(), name), err), s.remove(tmp))
		}
	}()
	f, err := s.dir.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, info.Mode().Perm())
	if err != nil {
		return err
	}
	defer f.Close()
	if err := r.squeeze(f, g.file); err != nil {
		return err
	}
	// A crash of the machine must not leave an empty file under the last name.
	if err := f.Sync(); err != nil {
		return err
	}
	// The file's time is when its last line was written.
	if err := s.dir.Chtimes(tmp, info.ModTime(), info.ModTime()); err != nil {
		return err
	}
	if _, err := s.dir.Lstat(name); err != nil {
		return err // removed as too old
	}
	if err := s.dir.Rename(tmp, name+compressed); err != nil {
		return err
	}
	return s.remove(name)
}

func (r *Rotator) squeeze(to io.Writer, from io.Reader) error {
	z := r.zippers.Get().(*gzip.Writer)
	defer r.zippers.Put(z)
	z.Reset(to)
	buf := make([]byte, bufferSize)
	for {
		if err := r.ctx.Err(); err != nil {
			return err
		}
		n, err := from.Read(buf)
		if n > 0 {
			if _, err := z.Write(buf[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return z.Close()
		}
		if err != nil {
			return err
		}
	}
}
