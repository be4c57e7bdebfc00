package userns

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// maxFile bounds what is read of a file, in bytes. A real one has about 120.
const maxFile = 64 << 10

// errNoFile is something else than a file where the file should be.
var errNoFile = errors.New("it is no regular file")

// readFile reads a small regular file and follows no link.
func readFile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) {
		return nil, fmt.Errorf("read %s: %w", path, errNoFile)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(fmt.Errorf("read %s: %w", path, errNoFile), err)
	}
	return io.ReadAll(io.LimitReader(f, maxFile))
}

// writeFile puts the file into the pod's directory at once. It is not synced:
// after a power cut no pod runs, and a damaged file is made anew.
func writeFile(dir string, content []byte) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	const temporary = "." + fileName + ".new"
	if err := root.RemoveAll(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := root.WriteFile(temporary, content, 0o600); err != nil {
		return err
	}
	if info, err := root.Lstat(fileName); err == nil && info.IsDir() {
		if err := root.RemoveAll(fileName); err != nil {
			return err
		}
	}
	return root.Rename(temporary, fileName)
}
