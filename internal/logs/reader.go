package logs

import (
	"context"
	"errors"
	"io"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

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
// time. It has nothing to run: whoever follows a log brings the goroutine.
type Reader struct {
	config ReaderConfig
}

// NewReader returns a Reader.
func NewReader(c ReaderConfig) (*Reader, error) {
	if c.Table == nil || c.PodLogsDir == "" {
		return nil, errors.New("Table and PodLogsDir must be set")
	}
	return &Reader{config: c}, nil
}

// Wake tells those who follow a log of the pod that its containers changed.
// It never blocks.
func (r *Reader) Wake(types.UID) {}

// Read writes the log of one container of the pod. containerID is the
// runtime's, with or without its scheme ("containerd://"); see ContainerID.
//
// A stream whose writer is nil is left out. Writes are large, as much as is
// there, so the caller should flush after each; nothing more will come until
// the container writes again. With opts.Follow, Read returns when the
// container has ended and all that it wrote was read; else at the end of what
// is there. It ends with ctx's error when ctx does, and with the writer's when
// a write fails.
func (r *Reader) Read(ctx context.Context, pod *v1.Pod, containerID string, opts *v1.PodLogOptions, stdout, stderr io.Writer) error {
	return errors.New("reading logs is not built yet")
}
