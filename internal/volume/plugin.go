package volume

import (
	"context"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Plugin is one volume type. It holds no state of its own about volumes:
// whatever it needs is in its arguments, on disk and in the mount table. Calls
// for one pod's volume never overlap; calls for different volumes do.
type Plugin interface {
	// Name is the type's qualified name, "kubernetes.io/empty-dir". The
	// directory of its volumes is named after it.
	Name() string
	// Supports says whether the volume is of this type.
	Supports(v *v1.Volume) bool
	// Immediate says that Mount waits for nothing but this node's disk and
	// objects of the API server, so that the pod's sandbox may start
	// meanwhile.
	Immediate(v *v1.Volume) bool
	// Mount brings the volume to its wanted state, content included.
	// Idempotent: it may have been cut anywhere by a SIGKILL, and called
	// again with nothing to do it makes a system call or two and writes
	// nothing. It heeds ctx; a system call that may hang in the kernel for
	// good runs beside it (package bounded). An error may be an *Error
	// whose Volume is left empty.
	Mount(ctx context.Context, spec Spec) (Mount, error)
	// Unmount undoes what Mount did outside of Target.Dir's own file
	// system: mounts, stages. It does not remove files; the reconciler does
	// that once nothing is mounted any more. Idempotent.
	Unmount(ctx context.Context, target Target) error
}

// Spec is what a plugin mounts.
type Spec struct {
	Pod    *v1.Pod
	Volume *v1.Volume
	// PodDir exists; Dir, the volume's place in it, need not.
	PodDir string
	Dir    string
	// Memo is the plugin's to read and write. Never nil.
	Memo *Memo
	Step Step
}

// Target is what a plugin unmounts. The pod may be long forgotten: all that is
// known of the volume is its directory.
type Target struct {
	UID  types.UID
	Name string
	Dir  string
	Step Step
}

// Step is called before each change that is made outside of memory, and before
// each wait. What it is told is shown to whoever waits for it. An error abandons
// the work there and then, as a SIGKILL would: no cleaning up follows.
type Step func(verb, path string) error

// Memo is what is remembered of a ready volume from one Mount to the next
// within one life of the agent, so that a Mount with nothing to do is cheap.
// The zero value means that nothing is known and the disk has to tell.
type Memo struct {
	// Ready is set once the volume has been set up in this life.
	Ready bool
	// Dev and Ino identify the root directory of the volume.
	Dev, Ino uint64
	// Version and Sum are those of the content last published.
	Version string
	Sum     uint64
	// Refresh is when Mount has to be called again even though no object
	// changed; zero for never.
	Refresh time.Time

	// The reconciler's own: since when the volume is wanted, how often in a row
	// an update failed, and the last message about it.
	asked    time.Time
	failures int
	message  string
}
