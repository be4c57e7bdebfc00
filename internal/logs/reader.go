package logs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"kubelet/internal/criconfig"
	"kubelet/internal/observed"
)

// Table is what the runtime has (package observed).
type Table interface {
	Get(types.UID) observed.Pod
	// Synced is closed once an absent container is really absent.
	Synced() <-chan struct{}
}

// ReaderConfig is what a Reader is made of.
type ReaderConfig struct {
	Table Table
	// PodLogsDir is the directory of all pods' logs (/var/log/pods).
	PodLogsDir string
}

// Reader shows the logs of containers. All methods may be called at the same
// time. It has nothing to run: those who follow logs bring the goroutines.
type Reader struct {
	table      Table
	podLogsDir string
	buffers    sync.Pool // of *[bufferSize]byte
	watch      watch

	mu        sync.Mutex
	followers map[types.UID]map[chan struct{}]bool
}

// NewReader returns a Reader.
func NewReader(c ReaderConfig) (*Reader, error) {
	if c.Table == nil || c.PodLogsDir == "" {
		return nil, errors.New("Table and PodLogsDir must be set")
	}
	return &Reader{
		table: c.Table, podLogsDir: c.PodLogsDir,
		buffers:   sync.Pool{New: func() any { return new([bufferSize]byte) }},
		followers: map[types.UID]map[chan struct{}]bool{},
	}, nil
}

// Wake tells those who follow a log of the pod that its containers changed.
// It never blocks.
func (r *Reader) Wake(uid types.UID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.followers[uid] {
		signal(c)
	}
}

// signal puts a token into a channel that holds one at most.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Read writes the log of one container of the pod. containerID is the
// runtime's, with or without its scheme ("containerd://"); see ContainerID.
// What it writes is upstream's, byte for byte, but that the rotated files
// belong to the log: opts' tailLines, sinceSeconds, sinceTime and limitBytes
// count over all of them. opts.Previous and opts.Stream are for the caller to
// act on: a stream whose writer is nil is left out.
//
// Writes are as large as what is there, so the caller should flush after each:
// nothing more comes until the container writes again. With opts.Follow the
// first one is empty, when the log was found, and Read returns when the container
// has ended and all that it wrote was read, else at the end of what is there.
// It ends with ctx's error when ctx does, and with the writer's when a write
// fails.
func (r *Reader) Read(ctx context.Context, pod *v1.Pod, containerID string, opts *v1.PodLogOptions, out, err io.Writer) error {
	if _, id, ok := strings.Cut(containerID, "://"); ok {
		containerID = id
	}
	path, perr := r.path(ctx, pod, containerID)
	if perr != nil {
		return perr
	}
	c := newCopier(out, err)
	c.stamps = opts.Timestamps
	if opts.LimitBytes != nil {
		c.remain = *opts.LimitBytes
	}
	s, rerr := openSeries(r.podLogsDir, path, containerID)
	if rerr != nil {
		return rerr
	}
	defer s.close()
	rerr = r.read(ctx, pod.UID, s, opts, c)
	switch {
	case errors.Is(rerr, errEnough):
		rerr = nil
	case rerr == nil && c.entries == 0 && c.skipped > 0:
		rerr = fmt.Errorf("read log %s: none of its %d lines is a log entry", path, c.skipped)
	}
	if c.skipped > 0 && c.entries > 0 {
		klog.FromContext(ctx).Info("Log holds lines that are no log entries, they were left out", "log", path, "lines", c.skipped)
	}
	return rerr
}

// path is where a container's log is.
func (r *Reader) path(ctx context.Context, pod *v1.Pod, id string) (string, error) {
	c := r.container(pod.UID, id)
	if c == nil {
		select {
		case <-r.table.Synced():
		case <-ctx.Done():
			return "", ctx.Err()
		}
		c = r.container(pod.UID, id)
	}
	if c == nil {
		return "", fmt.Errorf("find log of container %q: the runtime does not have it any more", id)
	}
	return logPath(r.podLogsDir, pod.Namespace, pod.Name, pod.UID, c), nil
}

// logPath is where the runtime says that it writes a container's log; before
// it was asked, where it was told to.
func logPath(podLogsDir, namespace, name string, uid types.UID, c *observed.Container) string {
	if c.LogPath != "" {
		return filepath.Clean(c.LogPath)
	}
	return filepath.Join(criconfig.PodLogDir(podLogsDir, namespace, name, uid), c.Name, strconv.FormatUint(uint64(c.Attempt), 10)+".log")
}

func (r *Reader) container(uid types.UID, id string) *observed.Container {
	p := r.table.Get(uid)
	for i := range p.Containers {
		if p.Containers[i].ID == id {
			return &p.Containers[i]
		}
	}
	return nil
}

func (r *Reader) read(ctx context.Context, uid types.UID, s *series, opts *v1.PodLogOptions, c *copier) error {
	var f *follower
	if opts.Follow {
		f = r.newFollower(uid, s)
		defer f.close()
	}
	all, err := s.snapshot()
	if err != nil {
		return err
	}
	segments, err := seek(ctx, all, opts, c)
	if err != nil {
		closeAll(all)
		return err
	}
	// Whoever follows learns that there is a log before there is anything in it.
	for _, k := range c.sinks {
		if k != nil && opts.Follow {
			if _, err := k.w.Write(nil); err != nil {
				closeAll(segments)
				return err
			}
			break
		}
	}
	last := len(segments) - 1
	for _, g := range segments[:last] {
		if err == nil {
			err = r.show(ctx, g, c)
		}
		if err == nil {
			err = c.endFile()
		}
		g.close()
	}
	if err != nil || f == nil {
		defer segments[last].close()
		if err == nil {
			err = r.show(ctx, segments[last], c)
		}
		return err
	}
	if n := len(all); n > 1 {
		f.passed = stampOf(s.name, all[n-2].name)
	}
	return f.follow(ctx, segments[last], c)
}

// seek lets the segments begin where the options say.
func seek(ctx context.Context, segments []*segment, opts *v1.PodLogOptions, c *copier) ([]*segment, error) {
	var since time.Time
	switch {
	case opts.SinceSeconds != nil:
		since = time.Now().Add(-time.Duration(*opts.SinceSeconds) * time.Second)
	case opts.SinceTime != nil:
		since = opts.SinceTime.Time
	}
	if !since.IsZero() {
		c.since = instantOf(since)
	}
	switch {
	case opts.TailLines != nil:
		return seekTail(ctx, segments, *opts.TailLines, [2]bool{c.sinks[stdout] != nil, c.sinks[stderr] != nil})
	case !since.IsZero():
		return seekSince(segments, since)
	}
	return segments, nil
}

// show copies the rest of a file and sends it. Buffers are held only as long.
func (r *Reader) show(ctx context.Context, g *segment, c *copier) error {
	in := r.buffers.Get().(*[bufferSize]byte)
	defer r.buffers.Put(in)
	for i, s := range c.sinks {
		if s == nil || i > 0 && s == c.sinks[0] {
			continue
		}
		out := r.buffers.Get().(*[bufferSize]byte)
		s.buf = out[:0]
		defer func() {
			s.buf = nil
			r.buffers.Put(out)
		}()
	}
	err := g.copyTo(ctx, c, in[:])
	if errors.Is(err, errDamaged) {
		klog.FromContext(ctx).Error(err, "Rest of a compressed log cannot be read, going on with the next file", "log", g.name)
		err = nil
	}
	// What was copied goes out whatever stopped the copy.
	if ferr := c.flush(); err == nil || errors.Is(err, errEnough) && ferr != nil {
		err = ferr
	}
	return err
}
