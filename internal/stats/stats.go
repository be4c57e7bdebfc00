package stats

import (
	"context"
	"errors"
	"net/http"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"kubelet/internal/observed"
)

// Config of a Reader.
type Config struct {
	NodeName string
	// Root is the kubelet's directory; the file system that holds it is the
	// node's.
	Root string
	// PodLogsDir is the root of the pods' logs.
	PodLogsDir string
	// Started is when the kubelet started.
	Started time.Time
	// Node returns the node's object, for its capacity. It is not modified.
	Node func() *v1.Node
	// Pods returns the pods of the node, tombstones included.
	Pods func() []Pod
	// Observed returns what the runtime has of each pod.
	Observed func() map[types.UID]observed.Pod
	// Cgroups tells where pods are in the cgroup tree.
	Cgroups Cgroups
	Runtime Runtime
	// KubeletCgroups, RuntimeCgroups and SystemCgroups name the cgroups that
	// the summary shows as system containers "kubelet", "runtime" and "misc".
	// Without a name, the first two are found by process.
	KubeletCgroups, RuntimeCgroups, SystemCgroups string
	// VolumeStatsPeriod is the age up to which usage of volumes is not
	// measured again (volumeStatsAggPeriod); negative for never.
	VolumeStatsPeriod time.Duration
}

// Pod is one pod of the node.
type Pod struct {
	// Pod is not modified.
	*v1.Pod
	// StartTime is status.startTime; zero if the kubelet has not acknowledged
	// the pod yet.
	StartTime time.Time
}

// Cgroups is the kubepods tree.
type Cgroups interface {
	// Root is the path of the kubepods level below the mount point of each
	// hierarchy, "/kubepods.slice".
	Root() string
	// PodPath is that of a pod; "" if the runtime owns all cgroups.
	PodPath(pod *v1.Pod) string
}

// Runtime is what the runtime is asked.
type Runtime interface {
	// ImageFsInfo tells where images and writable layers are.
	ImageFsInfo(ctx context.Context) (*runtimeapi.ImageFsInfoResponse, error)
	// ListContainerStats tells the size of writable layers.
	ListContainerStats(ctx context.Context) ([]*runtimeapi.ContainerStats, error)
	// RuntimePID is the runtime's process, 0 if it cannot be known.
	RuntimePID(ctx context.Context) (int, error)
}

// Reader answers questions about usage. Its methods may be called from any
// goroutine.
type Reader struct {
	config Config
}

// New returns a Reader; nothing is read yet.
func New(config Config) (*Reader, error) {
	return &Reader{config: config}, nil
}

var errUnfinished = errors.New("not written yet")

// Summary is the body of /stats/summary. With onlyCPUAndMemory everything
// else is left out. A part that cannot be read is absent and does not hide the
// others.
func (r *Reader) Summary(ctx context.Context, onlyCPUAndMemory bool) (*statsapi.Summary, error) {
	return nil, errUnfinished
}

// SummaryHandler serves /stats/summary, with ?only_cpu_and_memory=true in
// short.
func (r *Reader) SummaryHandler() http.Handler { return unfinished() }

// ResourceHandler serves /metrics/resource.
func (r *Reader) ResourceHandler() http.Handler { return unfinished() }

// CadvisorHandler serves /metrics/cadvisor.
func (r *Reader) CadvisorHandler() http.Handler { return unfinished() }

func unfinished() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, errUnfinished.Error(), http.StatusNotImplemented)
	})
}
