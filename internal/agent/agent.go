// Package agent is the composition root: it builds every part of the kubelet
// in plain sight and runs them. Only this package reads package config;
// feature gates and fields are resolved here, once, into the typed options of
// each part (options.go). It owns no table and decides nothing.
package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"kubelet/internal/admission"
	"kubelet/internal/apiclient"
	"kubelet/internal/cgroup"
	"kubelet/internal/config"
	"kubelet/internal/cri"
	"kubelet/internal/criconfig"
	"kubelet/internal/desired"
	"kubelet/internal/explain"
	"kubelet/internal/hook"
	"kubelet/internal/image"
	"kubelet/internal/lifecycle"
	"kubelet/internal/logs"
	"kubelet/internal/node"
	"kubelet/internal/observed"
	"kubelet/internal/pleg"
	"kubelet/internal/podspec"
	"kubelet/internal/preflight"
	"kubelet/internal/probe"
	"kubelet/internal/resources/allocation"
	"kubelet/internal/security/podsecurity"
	"kubelet/internal/security/userns"
	"kubelet/internal/server/podsapi"
	"kubelet/internal/stats"
	"kubelet/internal/status"
	"kubelet/internal/tracing"
	"kubelet/internal/volume"
	"kubelet/internal/volume/builtin"
	"kubelet/internal/worker"
)

// Agent is one kubelet, built and not yet running.
type Agent struct {
	cfg      *config.Config
	nodeName string
	registry *prometheus.Registry
	without  podspec.Without

	runtime  *cri.Client
	api      *apiclient.Client // nil without an API server
	objects  *apiclient.Objects
	services *apiclient.Services
	classes  *apiclient.RuntimeClasses

	node     *node.Node
	cgroups  *cgroup.Tree
	volumes  *volume.Reconciler
	logs     *criconfig.Logs
	logFiles *logs.Reader
	rotator  *logs.Rotator
	tracing  *tracing.Provider // nil if off
	configs  *criconfig.Builder
	userns   *userns.Allocator
	lock     *preflight.Lock // nil without a lock file
	desired  *desired.Table
	observed *observed.Table
	explain  *explain.Table
	pleg     *pleg.Generator
	prober   *probe.Prober
	probed   *prometheus.Registry // served apart from the others
	security *podsecurity.File    // nil without a pod security policy
	queue    *admission.Queue
	alloc    *allocation.Table
	writer   *status.Writer
	mirror   *status.Mirrors // nil without an API server
	recorder *status.Recorder
	pool     *worker.Pool
	stats    *stats.Reader
	podsAPI  *podsapi.Server // nil if off
	sources  []part
	servers  []part
	watchdog *preflight.Watchdog

	// rows is signalled when what Rows shows may have changed.
	rows, qos chan struct{}
	// settled is closed when admission knows of all pods that are here.
	settled chan struct{}
	// drained, once set, makes every source's pods unwanted.
	drained atomic.Bool
}

// part is something that runs until its context ends.
type part struct {
	name string
	run  func(context.Context) error
}

// Run builds a kubelet and runs it until ctx ends.
func Run(ctx context.Context, cfg *config.Config) error {
	a, err := New(ctx, cfg)
	if err != nil {
		return err
	}
	return a.Run(ctx)
}

// New checks the machine and builds all parts. It waits for the runtime, and
// starts nothing.
func New(ctx context.Context, cfg *config.Config) (*Agent, error) {
	started := time.Now()
	// Before anything on the node is touched: another kubelet may have it.
	lock, err := acquireLock(ctx, cfg)
	if err != nil {
		return nil, err
	}
	report, err := prepareMachine(ctx, cfg)
	if err != nil {
		return nil, err
	}
	a := &Agent{cfg: cfg, lock: lock, without: withoutDisabled(cfg), registry: prometheus.NewRegistry(), rows: make(chan struct{}, 1), qos: make(chan struct{}, 1), settled: make(chan struct{})}
	a.registry.MustRegister(
		// Without those of each GODEBUG setting, which are half of all.
		collectors.NewGoCollector(collectors.WithGoCollectorRuntimeMetrics(collectors.GoRuntimeMetricsRule{
			Matcher: regexp.MustCompile(`^/(cgo|cpu|gc|memory|sched|sync)/`),
		})), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if a.nodeName, err = nodeName(cfg); err != nil {
		return nil, err
	}

	if a.tracing, err = a.newTracing(); err != nil {
		return nil, err
	}

	// Drivers.
	if err := a.connectRuntime(ctx); err != nil {
		return nil, err
	}
	if err := a.connectAPI(); err != nil {
		return nil, err
	}
	if a.node, err = node.New(a.nodeConfig(started)); err != nil {
		return nil, fmt.Errorf("set up node: %w", err)
	}
	if a.cgroups, err = a.newCgroups(ctx); err != nil {
		return nil, err
	}

	// Tables. Whatever changes wakes the pod's worker.
	wake := func(uid types.UID) {
		a.pool.Wake(uid)
		a.logFiles.Wake(uid)
		a.rotator.Wake(uid)
		a.signalRows()
	}
	a.desired = desired.NewTable(func(uid types.UID) {
		wake(uid)
		a.podsAPI.Wake(uid)
	}, a.sourceNames()...)
	a.observed = observed.NewTable(wake)
	a.explain = explain.NewTable()
	if a.logFiles, err = logs.NewReader(logs.ReaderConfig{Table: a.observed, PodLogsDir: cfg.Kubelet.PodLogsDir}); err != nil {
		return nil, fmt.Errorf("set up container logs: %w", err)
	}
	if err := a.newUserNamespaces(ctx); err != nil {
		return nil, err
	}

	// The way out.
	if a.podsAPI, err = a.newPodsAPI(); err != nil {
		return nil, err
	}
	if err := a.newStatuses(); err != nil {
		return nil, err
	}

	// What acts at the rim.
	var objects volume.Objects = volume.Standalone{}
	var tokens volume.Tokens = volume.Standalone{}
	if a.api != nil {
		objects = a.objects
		if tokens, err = apiclient.NewTokens(a.api); err != nil {
			return nil, fmt.Errorf("set up tokens: %w", err)
		}
	}
	if a.volumes, err = volume.New(volume.Config{
		Root:    cfg.Flags.RootDir,
		Objects: objects, Stale: a.staleVolume,
		Plugins: builtin.Plugins(builtin.Config{Objects: objects, Tokens: tokens, Allocatable: a.allocatable}),
	}); err != nil {
		return nil, fmt.Errorf("set up volumes: %w", err)
	}
	a.logs = criconfig.NewLogs(cfg.Kubelet.PodLogsDir)
	if a.rotator, err = logs.NewRotator(a.rotatorConfig()); err != nil {
		return nil, fmt.Errorf("set up log rotation: %w", err)
	}
	images, err := image.New(a.imageConfig())
	if err != nil {
		return nil, fmt.Errorf("set up images: %w", err)
	}
	if a.configs, err = criconfig.New(a.criConfig(images, report)); err != nil {
		return nil, fmt.Errorf("set up container configuration: %w", err)
	}
	if a.pleg, err = pleg.New(a.plegConfig()); err != nil {
		return nil, fmt.Errorf("set up pod lifecycle events: %w", err)
	}

	if err := a.newProber(); err != nil {
		return nil, err
	}
	hooks, err := hook.New(hook.Config{Exec: a.runtime, Events: a.recorder, Version: shortVersion(), Registerer: a.registry})
	if err != nil {
		return nil, fmt.Errorf("set up hooks: %w", err)
	}

	// Decisions.
	if a.security, err = a.newPodSecurity(); err != nil {
		return nil, err
	}
	admissionConfig, err := a.admissionConfig()
	if err != nil {
		return nil, fmt.Errorf("set up admission: %w", err)
	}
	if a.queue, err = admission.New(admissionConfig); err != nil {
		return nil, fmt.Errorf("set up admission: %w", err)
	}
	known, err := a.knownPods()
	if err != nil {
		return nil, err
	}
	a.newAllocations(ctx)
	starts := lifecycle.NewMetrics()
	journal := lifecycle.NewJournal(func(uid types.UID) string { return filepath.Join(cfg.Flags.RootDir, "pods", string(uid)) })
	poolConfig := worker.Config{
		Desired: forgetting{a.desired, a}, Observed: a.observed, Admission: a.queue, Volumes: a.volumes,
		Statuses: a.writer, Events: a.recorder, Explain: a.explain, Probes: a.prober, Allocations: a.alloc,
		Steps: &lifecycle.Steps{
			Runtime: a.runtime, Refresher: a.pleg, Volumes: a.volumes, Images: images, Cgroups: a.cgroups,
			Configs: a.configs, Logs: a.logs, Journal: journal, Allocations: a.alloc, Hooks: hooks, Statuses: a.writer, Events: a.recorder, Metrics: starts,
			Gate: newGate(), IsUnknown: cri.IsUnknown, NextRefresh: a.volumes.NextRefresh, PodIPs: a.podIPs,
		},
		Leftovers:    a.leftovers,
		Settled:      func() { close(a.settled) },
		Known:        func(uid types.UID) bool { return known[uid] },
		HostIPs:      a.node.HostIPs,
		RuntimeName:  a.runtimeName(ctx),
		Crash:        crashPolicy(cfg),
		Budget:       lifecycle.NewBudget(cfg.Flags.RestartBudget),
		PodResources: cfg.Gates.Enabled("InPlacePodLevelResourcesVerticalScaling"),
		StopSignals:  cfg.Gates.Enabled("ContainerStopSignals"),
		Remembered:   a.remembered(ctx, journal, known),
		Tracer:       a.tracing.Tracer(),
	}
	if a.mirror != nil {
		poolConfig.Mirrors = a.mirror
	}
	if a.api != nil {
		poolConfig.References = references{a.objects, tokens.(*apiclient.Tokens), images}
	}
	a.pool = worker.New(poolConfig)
	if a.stats, err = stats.New(a.statsConfig(started)); err != nil {
		return nil, fmt.Errorf("set up stats: %w", err)
	}
	a.registry.MustRegister(slices.Concat(a.pool.Metrics(), starts.Collectors(), a.volumes.Metrics(), a.aboutMetrics(), []prometheus.Collector{a.stats})...)

	// The ways in.
	if a.sources, err = a.newSources(); err != nil {
		return nil, err
	}
	if a.servers, err = a.newServers(started); err != nil {
		return nil, err
	}
	if a.watchdog, err = preflight.NewWatchdog(preflight.WatchdogConfig{Alive: func(context.Context) error { return a.healthy() }}); err != nil {
		return nil, fmt.Errorf("set up systemd watchdog: %w", err)
	}
	return a, nil
}

// Run runs all parts until ctx ends or one of them fails. Pods are left as
// they are.
func (a *Agent) Run(ctx context.Context) error {
	logger := klog.FromContext(ctx)
	if err := a.cgroups.Start(ctx); err != nil {
		return fmt.Errorf("set up cgroups: %w", err)
	}
	defer a.runtime.Close()
	defer a.stats.Close()

	a.configs.CheckResolvConf()
	parts := []part{
		{"node", a.node.Run},
		{"pod lifecycle events", a.pleg.Run},
		{"admission", a.queue.Run},
		{"probes", a.prober.Run},
		{"status writer", a.writer.Run},
		{"events", a.recorder.Run},
		{"workers", a.pool.Run},
		{"qos cgroups", a.keepQoS},
		{"log rotation", a.rotator.Run},
		{"allocations", a.alloc.Run},
	}
	if a.api != nil {
		parts = append(parts, part{"objects", a.objects.Run}, part{"services", a.services.Run},
			part{"runtime classes", a.classes.Run}, part{"mirror pods", a.mirror.Run}, part{"orphaned mirror pods", a.completeMirrors})
	}
	if a.security != nil {
		parts = append(parts, part{"pod security policy", a.security.Run})
	}
	if a.tracing != nil {
		parts = append(parts, part{"tracing", a.tracing.Run})
	}
	parts = append(parts, a.servers...)
	parts = append(parts, a.sources...)
	if a.lock != nil && a.lock.Contended() != nil {
		var end context.CancelFunc
		ctx, end = context.WithCancel(ctx)
		defer end()
		parts = append(parts, part{"lock file", func(ctx context.Context) error {
			select {
			case <-a.lock.Contended():
				logger.Info("Another process wants the lock file, ending", "file", a.cfg.Flags.LockFile)
				end()
			case <-ctx.Done():
			}
			return nil
		}})
	}
	if deref(a.cfg.Kubelet.MakeIPTablesUtilChains, true) {
		parts = append(parts, part{"iptables chains", preflight.KeepIPTables})
	}
	if a.watchdog.Enabled() {
		parts = append(parts, part{"systemd watchdog", a.watchdog.Run})
	}
	if err := preflight.NotifyReady(); err != nil {
		logger.Error(err, "systemd was not told that the kubelet is ready")
	}
	defer func() { _ = preflight.NotifyStopping() }()
	a.recorder.NodeEvent(v1.EventTypeNormal, "Starting", "Starting kubelet.")
	logger.Info("Kubelet runs", "node", a.nodeName, "standalone", a.api == nil, "root", a.cfg.Flags.RootDir)
	return runAll(ctx, parts)
}

// runAll runs the parts side by side. The first that fails ends the others.
func runAll(ctx context.Context, parts []part) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error)
	var late sync.Map // names of parts that run
	for _, p := range parts {
		late.Store(p.name, true)
		go func() {
			defer late.Delete(p.name)
			err := p.run(ctx)
			if err != nil && (ctx.Err() == nil || !errors.Is(err, context.Canceled)) {
				err = fmt.Errorf("%s: %w", p.name, err)
			} else {
				err = nil
			}
			ended <- err
		}()
	}
	context.AfterFunc(ctx, func() {
		time.Sleep(patience)
		late.Range(func(name, _ any) bool {
			klog.FromContext(ctx).Info("Part of the kubelet takes long to end", "part", name)
			return true
		})
	})
	var first error
	for range parts {
		if err := <-ended; err != nil && first == nil {
			first = err
			cancel()
		}
	}
	return first
}

// patience is how long parts may take to end before it is said which do not.
const patience = 5 * time.Second

func nodeName(cfg *config.Config) (string, error) {
	name := cfg.Flags.HostnameOverride
	if name == "" {
		var err error
		if name, err = os.Hostname(); err != nil {
			return "", fmt.Errorf("read host name: %w", err)
		}
	}
	return normalizeNodeName(name)
}

// acquireLock takes the lock file, if there is to be one.
func acquireLock(ctx context.Context, cfg *config.Config) (*preflight.Lock, error) {
	if cfg.Flags.LockFile == "" {
		return nil, nil
	}
	lock, err := preflight.AcquireLock(ctx, cfg.Flags.LockFile, cfg.Flags.ExitOnLockContention)
	if err != nil {
		return nil, fmt.Errorf("take the lock file: %w", err)
	}
	return lock, nil
}

// prepareMachine runs the checks of the machine.
func prepareMachine(ctx context.Context, cfg *config.Config) (preflight.Report, error) {
	report, err := preflight.Check(ctx, preflightConfig(cfg))
	for _, w := range report.Warnings {
		klog.FromContext(ctx).Info("Warning about the machine", "warning", w)
	}
	if err != nil {
		return report, fmt.Errorf("check the machine: %w", err)
	}
	for _, dir := range []string{cfg.Flags.RootDir, filepath.Join(cfg.Flags.RootDir, "pods"), cfg.Kubelet.PodLogsDir} {
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return report, fmt.Errorf("make directory: %w", err)
		}
	}
	return report, nil
}

// podIPs of a sandbox: its own, or the node's on the host network.
func (a *Agent) podIPs(pod *v1.Pod, s *observed.Sandbox) []string {
	if podspec.IsHostNetwork(pod) {
		return a.node.HostIPs()
	}
	return s.IPs
}

func (a *Agent) allocatable() v1.ResourceList { return a.node.Node().Status.Allocatable }

// runtimeName is the scheme of container ids in statuses.
func (a *Agent) runtimeName(ctx context.Context) string {
	v, err := a.runtime.Version(ctx)
	if err != nil {
		return "containerd"
	}
	return v.GetRuntimeName()
}

// references tells those that keep something for a pod when it comes and goes.
type references struct {
	objects *apiclient.Objects
	tokens  *apiclient.Tokens
	images  *image.Puller
}

func (r references) Register(pod *v1.Pod) { r.objects.Register(pod) }

func (r references) Unregister(uid types.UID) {
	r.objects.Unregister(uid)
	r.tokens.Forget(uid)
	r.images.Forget(uid)
}
