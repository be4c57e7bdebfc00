// Package atomicfiles writes a set of small files into a directory so that its
// readers see either the whole old set or the whole new one. It owns the
// content of that directory, in the layout that the upstream kubelet uses, so
// that either can go on where the other stopped:
//
//	..2026_10_01_12_00_00.123456789/   one version, all its files
//	..data -> ..2026_10_01_…           the version in force; changed by rename
//	key    -> ..data/key               one link per file or top directory
//
// Whoever watches the content watches ..data. Names that begin with ".." are
// this package's. It reads what is there as input that may be cut anywhere or
// tampered with; directory handles keep it from being led elsewhere.
package atomicfiles

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"kubelet/internal/volume"
	"kubelet/internal/volume/removal"
)

const (
	dataLink = "..data"
	nextLink = "..data_tmp"
	reserved = ".."
)

// Write makes the files of dir those of the payload, and returns the name of
// the version that holds them. If they are already, it writes nothing but what
// an earlier writer, killed on its way, left undone. Before a version is put
// into force prepare is called, to change owners or modes.
//
// On an error the version in force is whole, the old one or the new one.
func Write(ctx context.Context, dir string, payload Payload, prepare func() error, step volume.Step) (version string, err error) {
	files, err := payload.clean()
	if err != nil {
		return "", err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", err
	}
	defer root.Close()
	w := writer{ctx: ctx, dir: dir, root: root, step: step}

	version, err = Current(dir)
	if err != nil {
		return "", err
	}
	if version == "" || !w.holds(version, files) {
		if version, err = w.write(files, prepare); err != nil {
			return "", err
		}
	}
	// After a kill any of this may be left to do, even if the content is right.
	if err := w.expose(files); err != nil {
		return "", err
	}
	return version, w.sweep(version)
}

// Current returns the name of the version in force in dir, or "" if there is
// none that is whole.
func Current(dir string) (string, error) {
	target, err := os.Readlink(filepath.Join(dir, dataLink))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	} else if err != nil {
		return "", err
	}
	if !isVersion(target) {
		return "", nil
	}
	info, err := os.Lstat(filepath.Join(dir, target))
	if err != nil || !info.IsDir() {
		return "", nil
	}
	return target, nil
}

// InForce says, by one system call, whether version is still what ..data
// points to.
func InForce(dir, version string) bool {
	target, err := os.Readlink(filepath.Join(dir, dataLink))
	return err == nil && target == version && version != ""
}

// isVersion refuses link targets that lead out of the directory.
func isVersion(name string) bool {
	return strings.HasPrefix(name, reserved) && len(name) > len(reserved) &&
		!strings.Contains(name, "/") && name != dataLink && name != nextLink
}

type writer struct {
	ctx  context.Context
	dir  string
	root *os.Root
	step volume.Step
}

func (w writer) path(name string) string { return filepath.Join(w.dir, name) }

// holds says whether a version has exactly these files with this content.
// Modes do not count: they change with the owner.
func (w writer) holds(version string, files Payload) bool {
	root, err := w.root.OpenRoot(version)
	if err != nil {
		return false
	}
	defer root.Close()
	found := 0
	err = fs.WalkDir(root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		want, ok := files[name]
		if !ok || !entry.Type().IsRegular() {
			return errDiffers
		}
		found++
		f, err := root.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		if info, err := f.Stat(); err != nil || info.Size() != int64(len(want.Data)) {
			return errDiffers
		}
		got, err := io.ReadAll(f)
		if err != nil || string(got) != string(want.Data) {
			return errDiffers
		}
		return nil
	})
	return err == nil && found == len(files)
}

var errDiffers = errors.New("content differs")

// write makes a new version and puts it into force.
func (w writer) write(files Payload, prepare func() error) (string, error) {
	version := fmt.Sprintf("%s%09d", time.Now().UTC().Format("..2006_01_02_15_04_05."), rand.IntN(1e9))
	if err := w.makeDir(version); err != nil {
		return "", err
	}
	made := map[string]bool{".": true}
	for name, file := range files {
		if w.ctx.Err() != nil {
			return "", context.Cause(w.ctx)
		}
		if err := w.makeDirs(version, path.Dir(name), made); err != nil {
			return "", err
		}
		if err := w.writeFile(path.Join(version, name), file); err != nil {
			return "", err
		}
	}
	if prepare != nil {
		if err := prepare(); err != nil {
			return "", err
		}
	}
	if err := w.root.Remove(nextLink); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if err := w.step("link", w.path(nextLink)); err != nil {
		return "", err
	}
	if err := w.root.Symlink(version, nextLink); err != nil {
		return "", err
	}
	if err := w.step("switch", w.path(dataLink)); err != nil {
		return "", err
	}
	return version, w.root.Rename(nextLink, dataLink)
}

func (w writer) makeDirs(version, dir string, made map[string]bool) error {
	if made[dir] {
		return nil
	}
	made[dir] = true
	if err := w.makeDirs(version, path.Dir(dir), made); err != nil {
		return err
	}
	return w.makeDir(path.Join(version, dir))
}

// makeDir makes a directory that everybody may search, whatever the umask.
func (w writer) makeDir(name string) error {
	if err := w.step("make directory", w.path(name)); err != nil {
		return err
	}
	if err := w.root.Mkdir(name, 0o755); err != nil {
		return err
	}
	return w.root.Chmod(name, 0o755)
}

func (w writer) writeFile(name string, file File) error {
	if err := w.step("write", w.path(name)); err != nil {
		return err
	}
	f, err := w.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(file.Data)
	if err == nil {
		err = f.Chmod(os.FileMode(file.Mode) & fs.ModePerm)
	}
	if err == nil && file.User != nil {
		err = f.Chown(int(*file.User), -1)
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return err
}

// expose makes the links at the top those of the files: what is new appears
// after the switch, what is old goes after it, too. A directory made for a
// volume that is mounted inside this one stays in the place of a link.
func (w writer) expose(files Payload) error {
	want := map[string]bool{}
	for name := range files {
		top, _, _ := strings.Cut(name, "/")
		want[top] = true
	}
	entries, err := fs.ReadDir(w.root.FS(), ".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := e.Name()
		if strings.HasPrefix(name, reserved) {
			continue
		}
		if e.Type() != fs.ModeSymlink {
			delete(want, name)
			continue
		}
		if want[name] {
			if target, err := w.root.Readlink(name); err == nil && target == dataLink+"/"+name {
				delete(want, name)
				continue
			}
		}
		if err := w.step("remove", w.path(name)); err != nil {
			return err
		}
		if err := w.root.Remove(name); err != nil {
			return err
		}
	}
	for name := range want {
		if err := w.step("link", w.path(name)); err != nil {
			return err
		}
		if err := w.root.Symlink(dataLink+"/"+name, name); err != nil {
			return err
		}
	}
	return nil
}

// sweep removes the versions that are not in force: the last one, and what
// killed writers left.
func (w writer) sweep(version string) error {
	entries, err := fs.ReadDir(w.root.FS(), ".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := e.Name()
		if !strings.HasPrefix(name, reserved) || name == dataLink || name == version {
			continue
		}
		if err := w.step("remove", w.path(name)); err != nil {
			return err
		}
		if err := removal.Tree(w.ctx, w.path(name)); err != nil {
			return err
		}
	}
	return nil
}
