package stats

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"
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
	// Node returns the node's object, for its capacity and identity. It is
	// not modified.
	Node func() *v1.Node
	// Pods returns the pods of the node, tombstones included.
	Pods func() []Pod
	// Observed returns what the runtime has of each pod.
	Observed func() map[types.UID]observed.Pod
	// Cgroups tells where pods are in the cgroup tree.
	Cgroups Cgroups
	Runtime Runtime
	// Volumes returns the volumes of a pod that have usage to show.
	Volumes func(pod *v1.Pod) []Volume
	// KubeletCgroups, RuntimeCgroups and SystemCgroups name the cgroups that
	// the summary shows as system containers "kubelet", "runtime" and "misc".
	// Without a name, the first two are found by process.
	KubeletCgroups, RuntimeCgroups, SystemCgroups string
	// VolumeStatsPeriod is the age up to which usage of volumes is not
	// measured again (volumeStatsAggPeriod); 0 or less for never at all.
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

// Volume is one volume of a pod.
type Volume struct {
	Name string // in the pod's spec
	Dir  string
	// Walk says that the volume shares its file system with others, so that
	// what it uses has to be summed up.
	Walk bool
	// Ephemeral says that it counts as the pod's local ephemeral storage.
	Ephemeral bool
	// Claim that the volume belongs to, or nil.
	Claim *statsapi.PVCReference
}

// Cgroups is the kubepods tree.
type Cgroups interface {
	// Root is the path of the kubepods level below the mount point of each
	// hierarchy, "/kubepods.slice".
	Root() string
	// PodPath is that of a pod; "" if the runtime owns all cgroups.
	PodPath(pod *v1.Pod) string
}

// Runtime is what the runtime is asked. Its calls have deadlines.
type Runtime interface {
	// ImageFsInfo tells where images and writable layers are.
	ImageFsInfo(ctx context.Context) (*runtimeapi.ImageFsInfoResponse, error)
	// ListContainerStats tells the size of writable layers.
	ListContainerStats(ctx context.Context) ([]*runtimeapi.ContainerStats, error)
	// RuntimePID is the runtime's process, 0 if it cannot be known.
	RuntimePID(ctx context.Context) (int, error)
}

const (
	// patience is how long one question waits for all that may hang.
	patience = time.Second
	// fsAge, runtimeAge and logsAge are how old a size may be before it is
	// measured again.
	fsAge      = time.Second
	runtimeAge = 10 * time.Second
	logsAge    = 10 * time.Second
	// idleAge is how long files stay open without a question.
	idleAge = 5 * time.Minute
)

// Reader answers questions about usage. Its methods may be called from any
// goroutine.
type Reader struct {
	config    Config
	hierarchy *hierarchy
	machine   *machine
	statFS    func(dir string) (fileSystem, error)

	// What may hang or takes long.
	disks      measurements[fileSystem]
	volumes    measurements[volumeUsage]
	imageFS    measurements[*runtimeapi.ImageFsInfoResponse]
	layers     measurements[map[string]*runtimeapi.FilesystemUsage]
	runtimePID measurements[int]
	openFiles  measurements[map[string]openFiles]

	families  []family // of /metrics/cadvisor
	collected collected
	gzip      sync.Pool // *gzip.Writer

	mu     sync.Mutex
	round  uint64               // of the last topology
	groups map[string]*known    // by path
	found  map[string]foundPath // cgroups of containers by id
	asked  time.Time
	idle   *time.Timer // nil while no files are open

	scrapes chan struct{} // holds a place per scrape under way
	buffers sync.Pool     // *[]byte, of answers that were written

	system    []system
	systemAt  time.Time
	systemPID int
}

// New returns a Reader; of the node's usage nothing is read yet.
func New(config Config) (*Reader, error) {
	hierarchy, err := mounted()
	if err != nil {
		return nil, err
	}
	return newReader(config, hierarchy, &machine{proc: "/proc", sys: "/sys"}), nil
}

func newReader(config Config, h *hierarchy, m *machine) *Reader {
	if config.Volumes == nil {
		config.Volumes = func(*v1.Pod) []Volume { return nil }
	}
	return &Reader{
		config: config, hierarchy: h, machine: m, statFS: statFS,
		groups: map[string]*known{}, found: map[string]foundPath{}, scrapes: make(chan struct{}, maxScrapes),
		families: cadvisorFamilies(m), collected: newCollected(),
	}
}

// mounted finds the cgroup hierarchies of this machine.
func mounted() (*hierarchy, error) {
	// Half of the descriptors are for everybody else; files beyond that are
	// opened for each read.
	most := int64(1 << 16)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err == nil {
		most = int64(min(uint64(most), limit.Cur/2))
	}
	if cgroups.IsCgroup2UnifiedMode() {
		return newUnified("/sys/fs/cgroup", most), nil
	}
	mounts := map[string]string{}
	for _, controller := range []string{"cpu", "cpuacct", "memory", "blkio", "pids"} {
		if dir, err := cgroups.FindCgroupMountpoint("", controller); err == nil {
			mounts[controller] = dir
		}
	}
	if mounts["memory"] == "" || mounts["cpuacct"] == "" {
		return nil, errors.New("find cgroup hierarchies: neither cgroup v2 nor the v1 controllers memory and cpuacct are mounted")
	}
	return newSplit(mounts, most), nil
}

// begin notes that somebody asks, so that files stay open for a while.
func (r *Reader) begin() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = time.Now()
	if r.idle == nil {
		r.idle = time.AfterFunc(idleAge, r.rest)
	}
}

// rest closes all files if nobody asked for a while.
func (r *Reader) rest() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.idle == nil {
		return
	}
	if left := idleAge - time.Since(r.asked); left > 0 {
		r.idle.Reset(left)
		return
	}
	r.idle = nil
	for _, k := range r.groups {
		k.group.close()
	}
}

// Close closes all files. A question that comes later opens them again.
func (r *Reader) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.idle != nil {
		r.idle.Stop()
		r.idle = nil
	}
	for _, k := range r.groups {
		k.group.close()
	}
}

// askRuntime begins to ask the runtime where images are and how large
// writable layers are.
func (r *Reader) askRuntime() (waits []<-chan struct{}) {
	// These calls end by their own deadlines, not with the question: others
	// may wait for them too.
	ctx := context.Background()
	return []<-chan struct{}{
		r.imageFS.ask("", runtimeAge, func() (*runtimeapi.ImageFsInfoResponse, error) { return r.config.Runtime.ImageFsInfo(ctx) }),
		r.layers.ask("", runtimeAge, func() (map[string]*runtimeapi.FilesystemUsage, error) {
			stats, err := r.config.Runtime.ListContainerStats(ctx)
			if err != nil {
				return nil, err
			}
			layers := make(map[string]*runtimeapi.FilesystemUsage, len(stats))
			for _, s := range stats {
				if l := s.GetWritableLayer(); l != nil {
					layers[s.GetAttributes().GetId()] = l
				}
			}
			return layers, nil
		}),
	}
}

// awaitRuntimePID looks up the runtime's process, for whose cgroup the summary
// has a place. A runtime that hangs is not waited for.
func (r *Reader) awaitRuntimePID(ctx context.Context) {
	if r.config.RuntimeCgroups != "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, patience/10)
	defer cancel()
	await(ctx, r.runtimePID.ask("", time.Minute, func() (int, error) { return r.config.Runtime.RuntimePID(context.Background()) }))
}

// askDisk begins to look at a file system.
func (r *Reader) askDisk(dir string) <-chan struct{} {
	return r.disks.ask(dir, fsAge, func() (fileSystem, error) { return r.statFS(dir) })
}

// askVolume begins to measure a volume.
func (r *Reader) askVolume(v *Volume) <-chan struct{} {
	dir, walk := v.Dir, v.Walk
	return r.volumes.ask(dir, r.config.VolumeStatsPeriod, func() (u volumeUsage, err error) {
		if u.fs, err = r.statFS(dir); err != nil {
			return u, fmt.Errorf("measure volume: %w", err)
		}
		if walk {
			u.size, err = usedBelow(dir)
		}
		return u, err
	})
}

// askFiles begins to measure logs and hosts file of a pod.
func (r *Reader) askFiles(p *v1.Pod) <-chan struct{} {
	logs := r.logsDir(p)
	hosts := filepath.Join(r.config.Root, "pods", string(p.UID), "etc-hosts")
	return r.volumes.ask(logs, logsAge, func() (volumeUsage, error) { return podFiles(logs, hosts) })
}
