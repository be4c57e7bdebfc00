package podsecurity

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

// FileConfig says how a File is kept.
type FileConfig struct {
	Path string
	// Node is the node's name.
	Node string
	// Read reads and checks the file.
	Read func() (*Configuration, error)
	// Changed is called when another policy is in force; may be nil.
	Changed func()
	// Problem is called when the file cannot be used, and with nil when it
	// can be again; may be nil. Neither may block.
	Problem func(error)
}

// File keeps the policy of a file in force: a changed file from its next
// reading on, a broken or missing one not at all, its last good content
// remains. Pods that were accepted before are not judged again.
type File struct {
	config  FileConfig
	policy  atomic.Pointer[Policy]
	broken  bool
	settles time.Duration
}

// NewFile puts the configuration in force that was read at start.
func NewFile(c FileConfig, first Configuration) (*File, error) {
	if c.Path == "" || c.Read == nil {
		return nil, errors.New("a pod security policy needs its file and a way to read it")
	}
	policy, err := New(first, c.Node)
	if err != nil {
		return nil, err
	}
	f := &File{config: c, settles: 100 * time.Millisecond}
	f.policy.Store(policy)
	return f, nil
}

// Policy is the one in force.
func (f *File) Policy() *Policy { return f.policy.Load() }

// Path of the file.
func (f *File) Path() string { return f.config.Path }

// changes are what may put other content into a file: it was written, or it,
// or a link on the way to it, was replaced.
const changes = unix.IN_CLOSE_WRITE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_CREATE | unix.IN_DELETE | unix.IN_ONLYDIR

// Run follows the file until ctx ends. If it cannot be followed, its content at
// start stays in force.
func (f *File) Run(ctx context.Context) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		klog.FromContext(ctx).Error(err, "Changes of the pod security policy will not be noticed", "file", f.config.Path)
		return nil
	}
	watch := os.NewFile(uintptr(fd), "inotify")
	events := make(chan struct{}, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		for {
			if _, err := watch.Read(buf); err != nil {
				return
			}
			select {
			case events <- struct{}{}:
			default:
			}
		}
	}()
	defer func() {
		watch.Close()
		<-done
	}()
	for {
		// Watch first, read then: nothing falls in between.
		f.follow(ctx, fd)
		f.reload(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-events:
		}
		select { // several changes are often one
		case <-ctx.Done():
			return nil
		case <-time.After(f.settles):
		}
	}
}

// follow watches the directory of the path and the one that a link leads to.
// Watching a directory again changes nothing.
func (f *File) follow(ctx context.Context, fd int) {
	dirs := []string{filepath.Dir(f.config.Path)}
	if real, err := filepath.EvalSymlinks(f.config.Path); err == nil {
		dirs = append(dirs, filepath.Dir(real))
	}
	for _, dir := range dirs {
		if _, err := unix.InotifyAddWatch(fd, dir, changes); err != nil {
			klog.FromContext(ctx).Error(fmt.Errorf("watch %s: %w", dir, err), "Changes of the pod security policy may not be noticed")
		}
	}
}

// reload puts the file's content in force if it is another.
func (f *File) reload(ctx context.Context) {
	logger := klog.FromContext(ctx)
	read, err := f.config.Read()
	var policy *Policy
	if err == nil {
		policy, err = New(*read, f.config.Node)
	}
	if err != nil {
		logger.Error(err, "Pod security policy cannot be used, the one before stays in force", "file", f.config.Path)
		f.broken = true
		if f.config.Problem != nil {
			f.config.Problem(err)
		}
		return
	}
	if f.broken && f.config.Problem != nil {
		f.config.Problem(nil)
	}
	f.broken = false
	if reflect.DeepEqual(policy.configuration, f.Policy().configuration) {
		return
	}
	f.policy.Store(policy)
	logger.Info("Another pod security policy is in force", "file", f.config.Path,
		"enforce", policy.enforce.name, "audit", policy.audit.name, "warn", policy.warn.name)
	if f.config.Changed != nil {
		f.config.Changed()
	}
}
