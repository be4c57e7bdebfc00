package logs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"kubelet/internal/criconfig"
	"kubelet/internal/observed"
)

// The steps of a rotation. Each leaves the files in a state from which repair,
// run by a kubelet that knows nothing, gets on:
//
//	0.log            write to 0.log
//	rename
//	0.log.T          still written to ◄── killed here: no 0.log, so reopen
//	reopen
//	0.log.T, 0.log   the runtime writes the rest of a line to T and closes it
//	remove the oldest beyond MaxFiles ◄── killed here: repair removes them
//	compress all but the newest into T.tmp, flush it to disk
//	                 ◄── killed here: repair removes T.tmp
//	rename T.tmp to T.gz
//	                 ◄── killed here: T and T.gz, readers take T.gz, repair removes T
//	remove T
//
// If the runtime refuses to reopen, the file gets its name back.

// turn rotates a log. With half, it was renamed before, and only the runtime
// has to follow.
func (r *Rotator) turn(path, id string, half bool) outcome {
	s, err := openSeries(r.PodLogsDir, path, id)
	if err != nil {
		return outcome{err: err, half: half}
	}
	defer s.close()
	if half {
		if err := r.reopen(id); err != nil {
			return outcome{err: err, half: true}
		}
		return r.trim(s)
	}
	names, err := s.rotated()
	if err != nil {
		return outcome{err: err}
	}
	name := s.name + "." + nextStamp(s.name, names, r.now())
	if err := s.rename(s.name, name); err != nil {
		return outcome{err: fmt.Errorf("rename log: %w", err)}
	}
	if err := r.reopen(id); err != nil {
		// Unless the runtime did it after all, and writes there already.
		back := s.rename(name, s.name)
		if back != nil && !errors.Is(back, fs.ErrExist) {
			err = errors.Join(err, fmt.Errorf("rename log back: %w", back))
		}
		return outcome{err: err, half: back != nil}
	}
	return r.trim(s)
}

// nextStamp is the time to name a rotated file by: now, or a second after the
// newest there is, so that the order of names stays the order of lines however
// fast a log is rotated and wherever the clock is set.
func nextStamp(log string, names []string, now time.Time) string {
	stamp := now.Format(rotatedFormat)
	if len(names) == 0 {
		return stamp
	}
	newest := stampOf(log, names[len(names)-1])
	if stamp > newest {
		return stamp
	}
	// The zone does not matter for adding a second to what is on the clock.
	t, err := time.Parse(rotatedFormat, newest)
	if err != nil {
		return stamp
	}
	return t.Add(time.Second).Format(rotatedFormat)
}

// reopen has the runtime open the log by its name. A clean end of the kubelet
// lets a call that is under way come to its end.
func (r *Rotator) reopen(id string) error {
	ctx, cancel := context.WithTimeout(r.shutdown, reopenDeadline)
	defer cancel()
	return r.Runtime.ReopenContainerLog(ctx, id)
}

// rename never replaces a file.
func (s *series) rename(from, to string) error {
	d, err := s.dir.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	fd := int(d.Fd())
	err = unix.Renameat2(fd, from, fd, to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		// A file system without it: two steps, between which both names are
		// of the same file.
		if err = unix.Linkat(fd, from, fd, to, 0); err == nil {
			err = unix.Unlinkat(fd, from, 0)
		}
	}
	if err != nil {
		return fmt.Errorf("%s to %s: %w", filepath.Join(s.dir.Name(), from), to, err)
	}
	return nil
}

// repair gets on from whatever state the files are in. With first, nobody in
// this process has begun to compress any of them.
func (r *Rotator) repair(path, id string, first bool) outcome {
	s, err := openSeries(r.PodLogsDir, path, id)
	if errors.Is(err, fs.ErrNotExist) {
		// The directory was removed, or the runtime logs elsewhere.
		return outcome{foreign: true}
	}
	if err != nil {
		return outcome{err: err}
	}
	defer s.close()
	info, err := s.dir.Lstat(s.name)
	switch {
	case err == nil && !info.Mode().IsRegular():
		return outcome{foreign: true} // a runtime that rotates by itself
	case errors.Is(err, fs.ErrNotExist):
		if err := r.reopen(id); err != nil {
			return outcome{err: errors.Join(err, s.giveBack())}
		}
		if _, err := s.dir.Lstat(s.name); errors.Is(err, fs.ErrNotExist) {
			return outcome{foreign: true} // opened anew, and not here
		}
	case err != nil:
		return outcome{err: fmt.Errorf("read log: %w", err)}
	case s.newestIsWritten():
		// Renamed, and the runtime's answer is not known.
		if err := r.reopen(id); err != nil {
			return outcome{err: err, half: true}
		}
	}
	if first {
		if err := s.removeTemporary(); err != nil {
			return outcome{err: err}
		}
	}
	return r.trim(s)
}

// removeTemporary removes what a kubelet that was killed had compressed in part.
func (s *series) removeTemporary() error {
	names, err := s.names()
	errs := []error{err}
	for _, n := range names {
		if done, ok := strings.CutSuffix(n, temporary); ok && stampOf(s.name, done) != "" {
			errs = append(errs, s.remove(n))
		}
	}
	return errors.Join(errs...)
}

// giveBack gives the file that the runtime still writes to its name again.
func (s *series) giveBack() error {
	names, err := s.rotated()
	if err != nil || len(names) == 0 || !s.newestIsWritten() {
		return err
	}
	if err := s.rename(names[len(names)-1], s.name); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("rename log back: %w", err)
	}
	return nil
}

// newestIsWritten says whether somebody writes to the newest rotated file.
func (s *series) newestIsWritten() bool {
	names, err := s.rotated()
	if err != nil || len(names) == 0 {
		return false
	}
	g, err := s.open(names[len(names)-1])
	if err != nil {
		return false
	}
	defer g.close()
	open, ok := g.written()
	return open && ok
}

// trim removes files that are compressed, and the oldest beyond MaxFiles.
func (r *Rotator) trim(s *series) outcome {
	all, err := s.names()
	if err != nil {
		return outcome{err: err}
	}
	var o outcome
	for _, n := range all {
		if stampOf(s.name, n) != "" && slices.Contains(all, n+compressed) {
			o.err = errors.Join(o.err, s.remove(n))
		}
	}
	names, err := s.rotated()
	if err != nil {
		return outcome{err: errors.Join(o.err, err)}
	}
	excess := max(len(names)-(r.MaxFiles-1), 0)
	for _, n := range names[:excess] {
		o.err = errors.Join(o.err, s.remove(n))
	}
	o.zip = len(plain(names[excess:])) > 0
	return o
}

// plain are the rotated files to compress: all that are not, but the newest,
// which collectors may still be reading.
func plain(names []string) []string {
	if len(names) == 0 {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(names[:len(names)-1]), func(n string) bool { return strings.HasSuffix(n, compressed) })
}

func (s *series) remove(name string) error {
	if err := s.dir.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove log: %w", err)
	}
	return nil
}

// removeDead removes the logs of attempts that are neither there any more nor
// to come.
func (r *Rotator) removeDead(pod observed.Pod, newest map[string]uint32, have []attempt) error {
	var errs []error
	for container, last := range newest {
		dir := filepath.Join(criconfig.PodLogDir(r.PodLogsDir, pod.Namespace, pod.Name, pod.UID), container)
		s, err := openSeries(r.PodLogsDir, filepath.Join(dir, "0.log"), "")
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		names, err := s.names()
		errs = append(errs, err)
		for _, n := range names {
			a, ok := attemptOf(n)
			if !ok || a >= last || slices.Contains(have, attempt{container, a}) {
				continue
			}
			klog.FromContext(r.ctx).V(4).Info("Removing log of a container that is gone", "log", filepath.Join(dir, n))
			errs = append(errs, s.remove(n))
			if strings.HasSuffix(n, ".log") {
				errs = append(errs, r.Links.UnlinkTarget(pod.Namespace, pod.Name, container, filepath.Join(dir, n)))
			}
		}
		s.close()
	}
	return errors.Join(errs...)
}
