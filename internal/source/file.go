package source

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"kubelet/internal/podspec"
)

// FileConfig is what a File needs.
type FileConfig struct {
	// Path of a manifest or of a directory of manifests. It need not exist.
	Path string
	// Node is the node's name.
	Node string
	// Recheck is how often the files are looked at without being told of a
	// change, in case one was missed (fileCheckFrequency; 20 s if 0). Files
	// that look the same are not read.
	Recheck  time.Duration
	Features Features
	Sink     Sink
	// Problem may be nil.
	Problem Problem
	// Running returns the static pods that the runtime has, as soon as that
	// is known; nil if nothing can run yet. It is asked once.
	Running func(ctx context.Context) ([]Running, error)
}

// File is the source of static pods in a file or directory.
//
// Each file holds one pod. Names that start with a dot and directories inside
// are ignored, links are followed. A file that is being written is left alone
// until the writer closes it. A broken file is reported; the pod of its last
// good version goes on until the file is good again or removed (upstream
// stops it at its next look at the directory). Of two files with a pod of the
// same name, the first by file name counts.
//
// A path that does not exist means no pods; one that cannot be read means
// that nothing is known, and what runs goes on.
type File struct {
	cfg     FileConfig
	path    string
	adopter adopter
	files   map[string]*file // by name in the directory
	start   time.Time        // of the first look
	emitted bool
	last    []*v1.Pod
	trouble map[string]string // what was told of each path
	watcher *watcher

	// How long a file that was opened for writing, and one that is gone, is
	// given to be closed or put back.
	writing, missing time.Duration
}

// file is one manifest.
type file struct {
	stamp stamp
	pod   *v1.Pod   // of the last good version, nil if there was none
	own   types.UID // that its contents give it, whatever it was adopted under
	// busy is until when a writer is waited for; zero if there is none.
	busy time.Time
	// gone is until when a missing file is waited for; zero if it is there.
	gone time.Time
	err  error // of the newest version
}

// NewFile checks the configuration; Run does the work.
func NewFile(cfg FileConfig) (*File, error) {
	switch {
	case !filepath.IsAbs(cfg.Path):
		return nil, fmt.Errorf("static pod path %q is not absolute", cfg.Path)
	case cfg.Node == "":
		return nil, errors.New("static pods need a node name")
	case cfg.Sink == nil:
		return nil, errors.New("static pods need a sink")
	}
	if cfg.Recheck <= 0 {
		cfg.Recheck = 20 * time.Second
	}
	path := cfg.Path
	if path != "/" {
		path = strings.TrimRight(path, "/")
	}
	return &File{
		cfg: cfg, path: path,
		adopter: adopter{running: cfg.Running},
		files:   map[string]*file{},
		trouble: map[string]string{},
		writing: 2 * time.Second, missing: 200 * time.Millisecond,
	}, nil
}

// Run follows the path until ctx ends.
func (f *File) Run(ctx context.Context) error {
	logger := klog.FromContext(ctx)
	var events chan []event
	if w, err := newWatcher(); err != nil {
		logger.Error(err, "Cannot watch static pod manifests; changes are seen at the next recheck", "path", f.path, "recheck", f.cfg.Recheck)
	} else {
		f.watcher = w
		events = make(chan []event)
		stop := make(chan struct{})
		go w.read(events, stop)
		defer func() { close(stop); w.close() }()
	}
	recheck := time.NewTicker(f.cfg.Recheck)
	defer recheck.Stop()
	timer := time.NewTimer(0) // the first look
	defer timer.Stop()
	for {
		look := true
		select {
		case <-ctx.Done():
			return nil
		case batch, ok := <-events:
			if !ok {
				events = nil
				break
			}
			look = f.heed(batch)
		case <-recheck.C:
		case <-timer.C:
		}
		if look {
			if err := f.look(ctx); err != nil {
				return nil // ctx ended
			}
		}
		timer.Stop()
		if at, ok := f.deadline(); ok {
			timer.Reset(time.Until(at))
		}
	}
}

// deadline is when the next file has been waited for long enough.
func (f *File) deadline() (at time.Time, ok bool) {
	for _, e := range f.files {
		for _, t := range []time.Time{e.busy, e.gone} {
			if !t.IsZero() && (!ok || t.Before(at)) {
				at, ok = t, true
			}
		}
	}
	return at, ok
}

// look reads what changed and hands over the pods.
func (f *File) look(ctx context.Context) error {
	now := time.Now()
	if f.watcher != nil {
		err := f.watcher.follow(f.path)
		if err != nil {
			err = fmt.Errorf("changes are seen at the next recheck only: %w", err)
		}
		f.tell(ctx, "watch of "+f.path, err)
	}
	dir, names, err := list(f.path)
	switch {
	case isNotExist(err):
		f.tell(ctx, f.path, errors.New("does not exist: no static pods until it does"))
	case err != nil:
		f.tell(ctx, f.path, fmt.Errorf("static pods stay as they are until it can be read: %w", err))
		return nil
	case dir != "":
		f.tell(ctx, f.path, nil)
	}
	read := map[*file]time.Time{} // when each manifest that is new was changed
	for _, name := range names {
		e := f.files[name]
		if e == nil {
			e = &file{}
			f.files[name] = e
		}
		if now.Before(e.busy) {
			continue
		}
		e.busy = time.Time{}
		if changed, ok := f.read(ctx, e, f.pathOf(name), now); ok {
			read[e] = changed
		}
	}
	for name, e := range f.files {
		if slices.Contains(names, name) {
			continue
		}
		e.busy = time.Time{}
		if e.miss(now.Add(f.missing), now); e.pod == nil {
			delete(f.files, name)
			if name != "" {
				f.tell(ctx, f.pathOf(name), nil)
			}
		}
	}
	return f.handOver(ctx, read, now)
}

// miss notes that a manifest is not there. Its pod goes once it has not been
// put back until then: editors rename files away and back.
func (e *file) miss(until, now time.Time) {
	switch {
	case e.pod == nil:
	case e.gone.IsZero():
		e.gone = until
	case !now.Before(e.gone):
		e.pod, e.gone, e.stamp = nil, time.Time{}, stamp{}
	}
}

// read takes a file's newest version, if it is one. ok says that there is a
// new pod, changed when the file was changed, zero if that cannot be trusted.
func (f *File) read(ctx context.Context, e *file, path string, now time.Time) (changed time.Time, ok bool) {
	st, err := stat(path)
	if isNotExist(err) {
		e.err = errors.New("is a link to nothing")
		e.miss(now.Add(f.missing), now)
		return changed, false
	}
	e.gone = time.Time{}
	if err == nil && st == e.stamp {
		return changed, false
	}
	var data []byte
	if err == nil {
		data, err = readStable(path, st)
	}
	if errors.Is(err, errUnsettled) || isNotExist(err) {
		e.busy = now.Add(f.writing)
		return changed, false
	}
	if err != nil {
		e.err, e.stamp = err, stamp{} // to be tried again at each look
		return changed, false
	}
	e.stamp = st
	m := decodePod(data, origin{file: true, name: path, node: f.cfg.Node}, f.cfg.Features)
	for _, w := range m.warnings {
		klog.FromContext(ctx).Info("Static pod manifest has a flaw", "path", path, "warning", w)
	}
	e.err = m.err
	if m.err != nil || (e.pod != nil && e.own == m.pod.UID && samePod(e.pod, m.pod)) {
		return changed, false
	}
	e.pod, e.own = m.pod, m.pod.UID
	return st.changed(), true
}

// samePod says whether two readings of a manifest mean the same.
func samePod(a, b *v1.Pod) bool {
	return equality.Semantic.DeepEqual(a.Spec, b.Spec) && maps.Equal(a.Labels, b.Labels) &&
		maps.Equal(ownAnnotations(a), ownAnnotations(b))
}

// handOver gives the pods to the sink if they changed. read holds those that
// are new, which still lack the UID they may run under.
func (f *File) handOver(ctx context.Context, read map[*file]time.Time, now time.Time) error {
	if len(read) > 0 {
		if err := f.adopter.ask(ctx); err != nil {
			return err
		}
	}
	for e, changed := range read {
		f.adopter.settle(ctx, e.pod, changed, !f.emitted)
	}
	// The first full set must not lack a pod that runs just because its file
	// is being written at this moment.
	if f.start.IsZero() {
		f.start = now
	}
	if _, unsettled := f.deadline(); !f.emitted && unsettled && now.Sub(f.start) < 5*f.writing {
		return nil
	}
	names := slices.Sorted(maps.Keys(f.files))
	var pods []*v1.Pod
	byName, byUID := map[podspec.Name]string{}, map[types.UID]string{}
	for _, name := range names {
		e, path := f.files[name], f.pathOf(name)
		if e.pod == nil {
			f.tell(ctx, path, e.err)
			continue
		}
		var clash error
		if other, ok := byName[podspec.FullName(e.pod)]; ok {
			clash = fmt.Errorf("pod %s/%s is defined by %s already, which counts", e.pod.Namespace, e.pod.Name, other)
		} else if other, ok := byUID[e.pod.UID]; ok {
			clash = fmt.Errorf("uid %s is in use by %s already; remove metadata.uid", e.pod.UID, other)
		} else {
			byName[podspec.FullName(e.pod)], byUID[e.pod.UID] = path, path
			pods = append(pods, e.pod)
		}
		err := cmp.Or(e.err, clash)
		if e.err != nil && clash == nil {
			err = fmt.Errorf("the pod goes on as its last good version says: %w", e.err)
		}
		if !e.gone.IsZero() {
			err = nil // it may be on its way out
		}
		f.tell(ctx, path, err)
	}
	if f.emitted && slices.Equal(pods, f.last) {
		return nil
	}
	f.emitted, f.last = true, pods
	f.adopter.done()
	f.cfg.Sink.Replace(podspec.SourceFile, slices.Clone(pods))
	return nil
}

func (f *File) pathOf(name string) string {
	if name == "" {
		return f.path
	}
	return filepath.Join(f.path, name)
}

// tell reports a path's state when it changed.
func (f *File) tell(ctx context.Context, path string, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if f.trouble[path] == text {
		return
	}
	logger := klog.FromContext(ctx)
	if err != nil {
		f.trouble[path] = text
		logger.Error(err, "Cannot use static pod manifest", "path", path)
	} else {
		delete(f.trouble, path)
		logger.Info("Static pod manifest is well again", "path", path)
	}
	if f.cfg.Problem != nil {
		f.cfg.Problem(path, err)
	}
}
