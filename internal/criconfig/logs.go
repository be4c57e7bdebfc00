package criconfig

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/apimachinery/pkg/types"
)

const (
	defaultPodLogsDir = "/var/log/pods"
	defaultLinksDir   = "/var/log/containers"
	// maxFileName is the longest file name of ext4 and most other file
	// systems, in bytes.
	maxFileName = 255
)

// Logs keeps the links by which log collectors find container logs:
// /var/log/containers/<pod>_<namespace>_<container>-<id>.log. It also removes
// the logs of pods that are gone.
type Logs struct {
	podLogsDir string
	linksDir   string // empty: no links
}

// NewLogs returns the logs below podLogsDir. Links are kept only where that
// is the default directory, as upstream does: two kubelets on one machine
// would otherwise share them.
func NewLogs(podLogsDir string) *Logs {
	l := &Logs{podLogsDir: podLogsDir}
	if filepath.Clean(podLogsDir) == defaultPodLogsDir {
		l.linksDir = defaultLinksDir
	}
	return l
}

// ContainerLog names the log of one container.
type ContainerLog struct {
	Namespace, Pod string
	UID            types.UID
	Name           string
	ID             string // the runtime's id
	LogPath        string // relative to the pod's log directory
}

// LinkLog makes the link of a container that was started. It is idempotent.
// A log that does not exist gets no link: the runtime then logs elsewhere.
func (l *Logs) LinkLog(c ContainerLog) error {
	if l.linksDir == "" {
		return nil
	}
	target := filepath.Join(PodLogDir(l.podLogsDir, c.Namespace, c.Pod, c.UID), c.LogPath)
	if _, err := os.Lstat(target); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	link := l.link(c)
	if old, err := os.Readlink(link); err == nil && old == target {
		return nil
	}
	if err := os.MkdirAll(l.linksDir, 0o755); err != nil {
		return fmt.Errorf("link log of container %s: %w", c.Name, err)
	}
	if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("link log of container %s: %w", c.Name, err)
	}
	if err := os.Symlink(target, link); err != nil {
		return fmt.Errorf("link log of container %s: %w", c.Name, err)
	}
	return nil
}

// UnlinkLog removes the link of a container that was removed. It succeeds if
// there is none.
func (l *Logs) UnlinkLog(c ContainerLog) error {
	if l.linksDir == "" {
		return nil
	}
	if err := os.Remove(l.link(c)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("unlink log of container %s: %w", c.Name, err)
	}
	return nil
}

func (l *Logs) link(c ContainerLog) string {
	name := fmt.Sprintf("%s_%s_%s-%s", c.Pod, c.Namespace, c.Name, c.ID)
	if len(name) > maxFileName-len(".log") {
		name = name[:maxFileName-len(".log")]
	}
	return filepath.Join(l.linksDir, name+".log")
}

// RemoveLogs removes the log directory of a pod that is gone for good, and
// the links into it. Directories are found by UID, so the pod may be long
// forgotten. It succeeds if there are none.
func (l *Logs) RemoveLogs(uid types.UID) error {
	if uid == "" || strings.ContainsAny(string(uid), `/_*?[\`) {
		return fmt.Errorf("remove logs: %q is no pod UID", uid)
	}
	dirs, err := filepath.Glob(filepath.Join(l.podLogsDir, "*_*_"+string(uid)))
	if err != nil {
		return fmt.Errorf("remove logs: %w", err)
	}
	var errs []error
	for _, dir := range dirs {
		errs = append(errs, l.removeLinksInto(dir), os.RemoveAll(dir))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove logs of pod %s: %w", uid, err)
	}
	return nil
}

// Pods lists the pods that have a log directory.
func (l *Logs) Pods() ([]types.UID, error) {
	entries, err := os.ReadDir(l.podLogsDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list pod log directories: %w", err)
	}
	var uids []types.UID
	for _, e := range entries {
		// namespace_name_uid; none of the three can hold an underscore.
		if parts := strings.Split(e.Name(), "_"); e.IsDir() && len(parts) == 3 && parts[2] != "" {
			uids = append(uids, types.UID(parts[2]))
		}
	}
	return uids, nil
}

// removeLinksInto removes the links that lead into one pod's directory. They
// carry the pod's name, so only few are read.
func (l *Logs) removeLinksInto(dir string) error {
	if l.linksDir == "" {
		return nil
	}
	parts := strings.Split(filepath.Base(dir), "_")
	links, err := filepath.Glob(filepath.Join(l.linksDir, parts[1]+"_"+parts[0]+"_*.log"))
	if err != nil {
		return err
	}
	var errs []error
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && strings.HasPrefix(target, dir+"/") {
			errs = append(errs, os.Remove(link))
		}
	}
	return errors.Join(errs...)
}

// RemoveDeadLinks removes links whose log is gone, as a kubelet that was
// killed may leave them. alive says whether the runtime still has the
// container of that id: its log may be absent for the moment of a rotation.
func (l *Logs) RemoveDeadLinks(alive func(id string) bool) error {
	if l.linksDir == "" {
		return nil
	}
	links, err := filepath.Glob(filepath.Join(l.linksDir, "*.log"))
	if err != nil {
		return fmt.Errorf("remove dead log links: %w", err)
	}
	var errs []error
	for _, link := range links {
		if _, err := os.Stat(link); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		name := strings.TrimSuffix(filepath.Base(link), ".log")
		if id := name[strings.LastIndexByte(name, '-')+1:]; alive(id) {
			continue
		}
		if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove dead log links: %w", err)
	}
	return nil
}
