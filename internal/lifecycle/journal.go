package lifecycle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"k8s.io/apimachinery/pkg/types"

	"kubelet/internal/checkpoint"
	"kubelet/internal/volume/bounded"
)

// Journal keeps the lives of containers over a restart of the kubelet: one
// small file in the directory of each pod that has hooks or probes, removed
// with it. It may be lost: then hooks that are not known to have run are run
// again, and readiness is taken from the last status.
type Journal struct {
	dir   func(types.UID) string
	calls bounded.Calls
}

const (
	journalFile    = "containers.checkpoint"
	journalVersion = 1
	// maxLives bounds what is believed of a file.
	maxLives = 1000
)

// NewJournal returns a journal whose files are in the directories of pods.
func NewJournal(podDir func(types.UID) string) *Journal { return &Journal{dir: podDir} }

func (j *Journal) path(uid types.UID) string { return filepath.Join(j.dir(uid), journalFile) }

// Write replaces what is known of the pod's containers. The pod's directory
// must exist.
func (j *Journal) Write(ctx context.Context, uid types.UID, lives map[string]Life) error {
	body, err := json.Marshal(lives)
	if err != nil {
		return fmt.Errorf("encode journal: %w", err)
	}
	path, ours := j.path(uid), false
	err = j.calls.Do(ctx, path, "journal of the pod's containers", func() error {
		ours = true
		return checkpoint.Write(path, journalVersion, body)
	})
	if err == nil && !ours {
		return fmt.Errorf("write checkpoint %s: an earlier write has only just ended", path)
	}
	return err
}

// Read returns what is known of the pod's containers, by ID; nil if nothing
// is. An error names the file, which is then of no use.
func (j *Journal) Read(uid types.UID) (map[string]Life, error) {
	body, _, err := checkpoint.Read(j.path(uid), journalVersion)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	var lives map[string]Life
	if err := json.Unmarshal(body, &lives); err != nil {
		return nil, fmt.Errorf("read %s: %w", j.path(uid), err)
	}
	if len(lives) > maxLives {
		return nil, fmt.Errorf("read %s: %d containers are too many for a pod", j.path(uid), len(lives))
	}
	return lives, nil
}
