package pleg

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"kubelet/internal/observed"
)

// Runtime is what is read of the container runtime. Each call has a deadline
// of its own.
type Runtime interface {
	ListPodSandbox(ctx context.Context, filter *runtimeapi.PodSandboxFilter) ([]*runtimeapi.PodSandbox, error)
	ListContainers(ctx context.Context, filter *runtimeapi.ContainerFilter) ([]*runtimeapi.Container, error)
	PodSandboxStatus(ctx context.Context, id string, verbose bool) (*runtimeapi.PodSandboxStatusResponse, error)
	ContainerStatus(ctx context.Context, id string, verbose bool) (*runtimeapi.ContainerStatusResponse, error)
	// GetContainerEvents calls opened when the stream is open and deliver for
	// each event; it returns when the stream ends, always with an error.
	GetContainerEvents(ctx context.Context, opened func(), deliver func(*runtimeapi.ContainerEventResponse)) error
}

const (
	defaultRelistPeriod  = 30 * time.Second
	defaultMaxInFlight   = 16
	defaultHealthTimeout = 3 * time.Minute

	// unwatchedPeriod is the relist period while something runs whose end
	// only a list can tell.
	unwatchedPeriod = time.Second
	// patience is how long a call may hold a place in the bounded set, and
	// how long what is known of a pod waits for the rest of it.
	patience = 2 * time.Second
)

// Config of a Generator.
type Config struct {
	Runtime Runtime
	// Table is written by the generator alone.
	Table *observed.Table
	// RelistPeriod of the safety net; 0 means 30 s.
	RelistPeriod time.Duration
	// MaxInFlight bounds the calls to the runtime that are under way at one
	// time; 0 means 16. Calls older than 2 s do not count.
	MaxInFlight int
	// HealthTimeout is how old the last full list may be before Healthy says
	// so; 0 means 3 min, and it has to be longer than RelistPeriod.
	HealthTimeout time.Duration
	// Exits watches processes. Nil: pidfds, if RuntimePID shows that the
	// runtime's process ids are ours, else none.
	Exits ProcessExits
	// Processes returns the ids of the processes in the cgroup of a sandbox
	// or container, as seen from here; empty if that is not known. It saves
	// asking the runtime for the pid and for a confirmation of it. May be nil.
	Processes func(uid types.UID, id string) []int
	// RuntimePID returns the process id of the runtime, 0 if it cannot be
	// seen from here (cri.Client.RuntimePID). Nil: it cannot.
	RuntimePID func(context.Context) (int, error)
	// Registerer of the metrics; nil registers none.
	Registerer prometheus.Registerer
}

// Generator reads the runtime into the table.
type Generator struct {
	rt      Runtime
	table   *observed.Table
	cfg     Config
	metrics metrics
	places  chan struct{}

	running chan struct{} // closed when Run has begun
	ctx     context.Context
	log     klog.Logger
	work    sync.WaitGroup

	exits       atomic.Pointer[ProcessExits] // nil: processes are not watched
	relistSoon  chan struct{}
	runtimeBack chan struct{}

	mu       sync.Mutex
	pods     map[types.UID]*pod
	lastList time.Time // when the last full list that succeeded was asked for
	listErr  error     // of the last full list
	stopped  bool
}

// New returns a Generator; Run starts it.
func New(cfg Config) (*Generator, error) {
	if cfg.Runtime == nil || cfg.Table == nil {
		return nil, errors.New("make the pod lifecycle event generator: it needs a runtime and a table")
	}
	if cfg.RelistPeriod <= 0 {
		cfg.RelistPeriod = defaultRelistPeriod
	}
	if cfg.MaxInFlight <= 0 {
		cfg.MaxInFlight = defaultMaxInFlight
	}
	if cfg.HealthTimeout <= 0 {
		cfg.HealthTimeout = defaultHealthTimeout
	}
	g := &Generator{
		rt:          cfg.Runtime,
		table:       cfg.Table,
		cfg:         cfg,
		places:      make(chan struct{}, cfg.MaxInFlight),
		running:     make(chan struct{}),
		relistSoon:  make(chan struct{}, 1),
		runtimeBack: make(chan struct{}, 1),
		pods:        map[types.UID]*pod{},
	}
	g.metrics = newMetrics(g.table, g.stalest)
	if err := g.metrics.register(cfg.Registerer); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	return g, nil
}

// Run reads the runtime until ctx ends. It may be called once.
func (g *Generator) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	g.ctx, g.log = ctx, klog.FromContext(ctx)
	close(g.running)

	group.Go(func() error { return g.relistLoop(ctx, group) })
	group.Go(func() error { return g.eventLoop(ctx) })
	err := group.Wait()
	g.mu.Lock()
	g.stopped = true
	g.mu.Unlock()
	g.work.Wait()
	g.closeWatches()
	return err
}

// Refresh reads one pod from the runtime. It returns when the table holds an
// answer that was asked for after the call, or an error if part of the answer
// could not be had; the rest is stored then, and the pod is read again in the
// background. Calls at the same time share one read.
func (g *Generator) Refresh(ctx context.Context, uid types.UID) error {
	return g.refresh(ctx, uid, request{forced: true})
}

// RefreshSandbox is Refresh for one sandbox: of everything else of the pod the
// table keeps what it has.
func (g *Generator) RefreshSandbox(ctx context.Context, uid types.UID, id string) error {
	return g.refresh(ctx, uid, request{forced: true, only: []part{{sandboxID: id}}})
}

// RefreshContainer is Refresh for one container of a sandbox. If the table has
// its end already, nothing is asked.
func (g *Generator) RefreshContainer(ctx context.Context, uid types.UID, sandboxID, id string) error {
	return g.refresh(ctx, uid, request{forced: true, only: []part{{sandboxID, id}}})
}

func (g *Generator) refresh(ctx context.Context, uid types.UID, req request) error {
	select {
	case <-g.running:
	case <-ctx.Done():
		return fmt.Errorf("refresh pod: %w", ctx.Err())
	}
	r := g.ask(uid, req)
	if r == nil {
		return fmt.Errorf("refresh pod: %w", context.Canceled)
	}
	select {
	case <-r.done:
	case <-ctx.Done():
		return fmt.Errorf("refresh pod: %w", ctx.Err())
	}
	if r.err != nil {
		return fmt.Errorf("refresh pod: %w", r.err)
	}
	return nil
}

// Healthy says why the table cannot be trusted: the runtime has not been
// listed yet, or not for too long. One pod that cannot be read is no reason,
// see Staleness.
func (g *Generator) Healthy() error {
	g.mu.Lock()
	last, err := g.lastList, g.listErr
	g.mu.Unlock()
	if err == nil {
		err = errors.New("no answer yet")
	}
	if last.IsZero() {
		return fmt.Errorf("the pods of the runtime have not been listed yet: %w", err)
	}
	if age := time.Since(last); age > g.cfg.HealthTimeout {
		return fmt.Errorf("the pods of the runtime were last listed %v ago (allowed are %v): %w",
			age.Round(time.Second), g.cfg.HealthTimeout, err)
	}
	return nil
}

// Staleness returns the age of the newest complete answer about a pod, and
// what keeps a newer one away, if anything does. A pod of which nothing is
// known has the age 0.
func (g *Generator) Staleness(uid types.UID) (time.Duration, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.pods[uid]
	if p == nil {
		return 0, nil
	}
	age := time.Since(p.confirmed)
	if p.busy && time.Since(p.begun) > patience {
		return age, fmt.Errorf("the runtime has not answered about the pod for %v", time.Since(p.begun).Round(time.Second))
	}
	return age, p.lastErr
}

// stalest is the greatest staleness of all pods, in seconds.
func (g *Generator) stalest() float64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	var age time.Duration
	for _, p := range g.pods {
		age = max(age, time.Since(p.confirmed))
	}
	return age.Seconds()
}

// call makes one call about a pod. It waits for a place in the bounded set,
// in the order of arrival, and leaves it when the answer takes longer than
// patience. A pod may hold some of the places only, and one whose last call
// took that long does without a place from the start.
func (g *Generator) call(ctx context.Context, p *pod, f func(context.Context) error) error {
	if !p.slow.Load() {
		for _, places := range []chan struct{}{p.places, g.places} {
			select {
			case places <- struct{}{}:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		leave := sync.OnceFunc(func() { <-g.places; <-p.places })
		defer leave()
		timer := time.AfterFunc(patience, func() { p.slow.Store(true); leave() })
		defer timer.Stop()
	}
	begin := time.Now()
	err := f(ctx)
	if time.Since(begin) < patience {
		p.slow.Store(false)
	}
	return err
}

// spawn runs f in the background until Run's context ends; nothing is started
// once Run is ending.
func (g *Generator) spawn(f func(ctx context.Context)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.spawnLocked(f)
}

func (g *Generator) spawnLocked(f func(ctx context.Context)) bool {
	if g.stopped || g.ctx.Err() != nil {
		return false
	}
	g.work.Go(func() { f(g.ctx) })
	return true
}

func notify(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
