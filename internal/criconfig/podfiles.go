package criconfig

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
)

// podFiles writes below one pod's directory and never outside of it: os.Root
// follows no link that leads out, whoever may have planted one there.
type podFiles struct {
	dir  string
	root *os.Root
}

func openPodFiles(dir string) (*podFiles, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("make pod directory: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open pod directory: %w", err)
	}
	return &podFiles{dir: dir, root: root}, nil
}

// Close releases the directory.
func (p *podFiles) Close() { p.root.Close() }

// Path is where the named file is on the node.
func (p *podFiles) Path(name string) string { return filepath.Join(p.dir, name) }

// Write gives the file that content and mode at once: a reader, or a start
// after a crash, sees the old file or the new one. A file that is right
// already is left alone, because running containers may have it mounted.
func (p *podFiles) Write(name string, content []byte, mode fs.FileMode) error {
	if info, err := p.root.Lstat(name); err == nil && info.Mode() == mode && info.Size() == int64(len(content)) {
		if old, err := p.root.ReadFile(name); err == nil && bytes.Equal(old, content) {
			return nil
		}
	}
	temporary := name + ".new"
	if err := p.create(temporary, content, mode); err != nil {
		return err
	}
	return p.root.Rename(temporary, name)
}

// create makes a new file of exactly that mode, in place of whatever has the
// name.
func (p *podFiles) create(name string, content []byte, mode fs.FileMode) error {
	if err := p.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := p.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	// The umask must not count.
	return errors.Join(err, f.Chmod(mode), f.Close())
}

// keptTerminationLogs is how many attempts' message files stay: the current
// one, and those of dead containers that the status may still tell of.
const keptTerminationLogs = 3

// terminationLog makes the empty file that takes the termination message of
// one attempt, and returns its name. Any user in the container may write it.
// One that is too old to be read again is removed: a container that crashes
// for months must not fill the pod's directory.
func (p *podFiles) terminationLog(container string, attempt uint32) (string, error) {
	dir := filepath.Join("containers", container)
	if err := p.root.MkdirAll(dir, 0o750); err != nil {
		return "", err
	}
	if attempt >= keptTerminationLogs {
		_ = p.root.Remove(filepath.Join(dir, attemptName(attempt-keptTerminationLogs))) // gone with the pod at the latest
	}
	name := filepath.Join(dir, attemptName(attempt))
	return name, p.create(name, nil, 0o666)
}

func attemptName(attempt uint32) string { return strconv.FormatUint(uint64(attempt), 10) }
