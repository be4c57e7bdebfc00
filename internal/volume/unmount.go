package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"

	"kubelet/internal/volume/mounttable"
	"kubelet/internal/volume/removal"
)

// Unmount takes down and removes everything under the pod's directory, and the
// directory itself. It works from disk and mount table, so the pod may be long
// forgotten; idempotent. It deletes nothing before every mount below the
// directory is undone: if one cannot be, the error names it and no data below
// any of them is lost. When ctx ends first the error says what hangs.
func (r *Reconciler) Unmount(ctx context.Context, uid types.UID) error {
	if err := checkComponent("pod UID", string(uid)); err != nil {
		return err
	}
	e, err := r.acquire(ctx, uid)
	if err != nil {
		return fmt.Errorf("unmount volumes: %w", err)
	}
	done := make(chan error, 1)
	go func() {
		err := r.unmount(ctx, e, uid)
		// Whatever was remembered may be undone.
		r.release(uid, e, true)
		done <- err
	}()
	select {
	case err = <-done:
	case <-ctx.Done():
		select {
		case err = <-done:
		case <-time.After(settle):
			err = r.unfinished(ctx, e)
		}
	}
	if err != nil {
		return fmt.Errorf("unmount volumes: %w", err)
	}
	return nil
}

// unmount does the work of Unmount, in its turn.
func (r *Reconciler) unmount(ctx context.Context, e *podEntry, uid types.UID) error {
	dir := r.podDir(uid)
	info, err := os.Lstat(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	step := r.step(ctx, e, "")
	if info.IsDir() { // a link or file there is just removed
		if err := r.unmountAll(ctx, uid, dir, step); err != nil {
			return err
		}
	}
	if err := step("remove", dir); err != nil {
		return err
	}
	return removal.Tree(ctx, dir)
}

// unmountAll leaves nothing mounted at or below the pod's directory.
func (r *Reconciler) unmountAll(ctx context.Context, uid types.UID, dir string, step Step) error {
	table, err := r.mountTable()
	if err != nil {
		return err
	}
	// The table has paths without links; only the root may contain any.
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	mounted, err := table.Below(real)
	if err != nil {
		return err
	}
	roots, err := volumeRoots(real)
	if err != nil {
		return err
	}
	byDir := make(map[string]Plugin, len(roots))
	for _, root := range roots {
		byDir[root.dir] = r.pluginOf(root.plugin)
	}
	for _, m := range mounted {
		if plugin := foreignPlugin(real, m.Path, byDir); plugin != "" {
			return fmt.Errorf("%s (%s) is a mount of volume type %s, which this kubelet does not know how to unmount; nothing was deleted",
				m.Path, m.FSType, plugin)
		}
	}
	// What is busy now may not be once the mount that hides its user is gone.
	if _, _, err := unmountStrays(strays(mounted, byDir), step); err != nil {
		return err
	}
	for _, root := range roots {
		p := byDir[root.dir]
		if p == nil {
			continue
		}
		begun := time.Now()
		err := p.Unmount(ctx, Target{UID: uid, Name: root.name, Dir: root.dir, Step: step})
		r.metrics.operation(p, "volume_unmount", begun, err)
		if err != nil {
			return fmt.Errorf("volume %q: %w", root.name, err)
		}
	}
	if len(mounted) == 0 {
		return nil
	}
	// A mount may have hidden others. Go on as long as that helps.
	for {
		if mounted, err = table.Below(real); err != nil || len(mounted) == 0 {
			return err
		}
		undone, busy, err := unmountStrays(mounted, step)
		switch {
		case err != nil:
			return err
		case undone > 0:
			continue
		case busy == nil:
			busy = fmt.Errorf("%s (%s) is still mounted", mounted[0].Path, mounted[0].FSType)
		}
		return fmt.Errorf("%w; nothing was deleted", busy)
	}
}

// strays returns the mounts that no plugin answers for: bind mounts of
// sub-paths, and what containers mounted and propagated to the node. The
// lowest mount at a volume's own directory is its plugin's business.
func strays(mounted []mounttable.Entry, volumes map[string]Plugin) []mounttable.Entry {
	var out []mounttable.Entry
	for i, m := range mounted {
		lowest := !slices.ContainsFunc(mounted[i+1:], func(older mounttable.Entry) bool { return older.Path == m.Path })
		if !lowest || volumes[m.Path] == nil {
			out = append(out, m)
		}
	}
	return out
}

// unmountStrays undoes mounts whose data is not ours: plainly, never by
// detaching. It returns how many it undid and what the kernel said to the
// first that it could not. The error is of step alone.
func unmountStrays(mounted []mounttable.Entry, step Step) (undone int, busy, err error) {
	for _, m := range mounted {
		if err := step("unmount", m.Path); err != nil {
			return undone, busy, err
		}
		switch err := unix.Unmount(m.Path, unix.UMOUNT_NOFOLLOW); err {
		case nil:
			undone++
		case unix.EINVAL, unix.ENOENT: // not mounted any more, or hidden
		default:
			if busy == nil {
				busy = fmt.Errorf("%s (%s) cannot be unmounted: %w", m.Path, m.FSType, err)
			}
		}
	}
	return undone, busy, nil
}

// foreignPlugin returns the directory name of the plugin whose volume a mount
// belongs to, if that plugin is none of ours: such a mount has been reported
// to a driver, and to undo it behind its back would confuse both.
func foreignPlugin(podDir, path string, known map[string]Plugin) string {
	if rest, ok := strings.CutPrefix(path, filepath.Join(podDir, devicesDir)+"/"); ok {
		plugin, _, _ := strings.Cut(rest, "/")
		return plugin
	}
	rest, ok := strings.CutPrefix(path, filepath.Join(podDir, volumesDir)+"/")
	if !ok {
		return ""
	}
	plugin, rest, ok := strings.Cut(rest, "/")
	if !ok {
		return ""
	}
	name, _, _ := strings.Cut(rest, "/")
	if known[filepath.Join(podDir, volumesDir, plugin, name)] != nil {
		return ""
	}
	return plugin
}

// volumeRoot is the directory of one volume on disk.
type volumeRoot struct{ plugin, name, dir string }

// volumeRoots lists <pod>/volumes/<plugin>/<volume>.
func volumeRoots(podDir string) ([]volumeRoot, error) {
	base := filepath.Join(podDir, volumesDir)
	plugins, err := readRealDir(base)
	if err != nil {
		return nil, err
	}
	var roots []volumeRoot
	for _, p := range plugins {
		volumes, err := readRealDir(filepath.Join(base, p))
		if err != nil {
			return nil, err
		}
		for _, v := range volumes {
			roots = append(roots, volumeRoot{plugin: p, name: v, dir: filepath.Join(base, p, v)})
		}
	}
	return roots, nil
}

// readRealDir returns the names of the directories in dir. A dir that does
// not exist, or is a link or a file, has none.
func readRealDir(dir string) ([]string, error) {
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	defer f.Close()
	entries, err := f.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

func (r *Reconciler) pluginOf(dirName string) Plugin {
	for _, p := range r.config.Plugins {
		if escape(p.Name()) == dirName {
			return p
		}
	}
	return nil
}

// mountTable opens the table of the mounts below the pods' directory when it
// is needed first.
func (r *Reconciler) mountTable() (*mounttable.Table, error) {
	r.tableMu.Lock()
	defer r.tableMu.Unlock()
	if r.table == nil {
		real, err := filepath.EvalSymlinks(r.podsDir())
		if err != nil {
			return nil, err
		}
		t, err := mounttable.New(real)
		if err != nil {
			return nil, err
		}
		r.table = t
	}
	return r.table, nil
}
