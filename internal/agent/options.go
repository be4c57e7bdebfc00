package agent

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/opencontainers/cgroups"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	utilversion "k8s.io/apimachinery/pkg/util/version"
	"k8s.io/component-base/version"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"

	"kubelet/internal/apiclient"
	"kubelet/internal/cgroup"
	"kubelet/internal/config"
	"kubelet/internal/cri"
	"kubelet/internal/criconfig"
	"kubelet/internal/image"
	"kubelet/internal/lifecycle"
	"kubelet/internal/logs"
	"kubelet/internal/node"
	"kubelet/internal/podspec"
	"kubelet/internal/preflight"
	"kubelet/internal/security/userns"
	"kubelet/internal/tracing"
)

func preflightConfig(cfg *config.Config) preflight.Config {
	k := &cfg.Kubelet
	return preflight.Config{
		UID:                   os.Getuid(),
		FailSwapOn:            deref(k.FailSwapOn, true),
		FailCgroupV1:          deref(k.FailCgroupV1, true),
		LimitedSwap:           k.MemorySwap.SwapBehavior == "LimitedSwap",
		SingleProcessOOMKill:  k.SingleProcessOOMKill,
		ProtectKernelDefaults: k.ProtectKernelDefaults,
		TolerateUserNamespace: cfg.Gates.Enabled("KubeletInUserNamespace"),
		MaxOpenFiles:          k.MaxOpenFiles,
		OOMScoreAdj:           deref(k.OOMScoreAdj, -999),
		IPTables:              deref(k.MakeIPTablesUtilChains, true),
	}
}

// normalizeNodeName makes a host name the name of a Node object.
func normalizeNodeName(name string) (string, error) {
	name = strings.ToLower(strings.TrimSpace(name))
	if problems := validation.IsDNS1123Subdomain(name); len(problems) > 0 {
		return "", fmt.Errorf("node name %q: %s; name the node with --hostname-override", name, strings.Join(problems, "; "))
	}
	return name, nil
}

// newTracing makes the provider of traces; nil if they are off.
func (a *Agent) newTracing() (*tracing.Provider, error) {
	t := a.cfg.Kubelet.Tracing
	if t == nil {
		return nil, nil
	}
	p, err := tracing.New(tracing.Config{
		Endpoint: deref(t.Endpoint, ""), SamplingRatePerMillion: deref(t.SamplingRatePerMillion, 0),
		Node: a.nodeName, Version: version.Get().GitVersion,
	})
	if err != nil {
		return nil, fmt.Errorf("set up tracing: %w", err)
	}
	return p, nil
}

// leaveUnit lets a child outlive the systemd service that this process is.
func leaveUnit(ctx context.Context, pid int) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := preflight.LeaveUnit(ctx, pid); err != nil && ctx.Err() != context.Canceled {
		klog.FromContext(ctx).Error(err, "Runtime calls under way are cancelled if this process is killed and systemd ends its unit")
	}
}

// connectRuntime makes the runtime's client and waits until it answers.
func (a *Agent) connectRuntime(ctx context.Context) (err error) {
	k := &a.cfg.Kubelet
	if a.runtime, err = cri.New(cri.Config{
		Endpoint: k.ContainerRuntimeEndpoint, ImageEndpoint: k.ImageServiceEndpoint,
		Timeout: k.RuntimeRequestTimeout.Duration, Hold: true, Detach: func(pid int) { go leaveUnit(ctx, pid) },
		Tracer: a.tracing.Tracer(), Registerer: a.registry,
	}); err != nil {
		return fmt.Errorf("set up runtime client: %w", err)
	}
	if err := a.runtime.WaitReady(ctx); err != nil {
		return fmt.Errorf("reach the container runtime: %w", err)
	}
	return nil
}

// connectAPI makes the API server's client and caches; without a kubeconfig
// there are none.
func (a *Agent) connectAPI() (err error) {
	if a.cfg.Flags.Standalone() {
		return nil
	}
	k := &a.cfg.Kubelet
	if a.api, err = apiclient.New(apiclient.Config{
		Kubeconfig: a.cfg.Flags.Kubeconfig,
		QPS:        float32(deref(k.KubeAPIQPS, 50)), Burst: int(k.KubeAPIBurst),
		EventQPS: float32(deref(k.EventRecordQPS, 50)), EventBurst: int(k.EventBurst),
		ContentType:      k.ContentType,
		HeartbeatTimeout: min(k.NodeStatusUpdateFrequency.Duration, time.Duration(k.NodeLeaseDurationSeconds)*time.Second/4),
		UserAgent:        "kubelet/" + version.Get().GitVersion,
		Tracer:           a.tracing.Tracer(), Registerer: a.registry,
	}); err != nil {
		return fmt.Errorf("set up API client: %w", err)
	}
	if a.objects, err = apiclient.NewObjects(apiclient.ObjectsConfig{Client: a.api, Changed: a.objectsChanged}); err != nil {
		return fmt.Errorf("set up object cache: %w", err)
	}
	if a.services, err = apiclient.NewServices(a.api); err != nil {
		return fmt.Errorf("set up service cache: %w", err)
	}
	if a.classes, err = apiclient.NewRuntimeClasses(a.api); err != nil {
		return fmt.Errorf("set up runtime class cache: %w", err)
	}
	return nil
}

func (a *Agent) nodeConfig(started time.Time) node.Config {
	k, f := &a.cfg.Kubelet, &a.cfg.Flags
	kubeReserved, _ := node.ParseReserved(k.KubeReserved) // validated by package config
	systemReserved, _ := node.ParseReserved(k.SystemReserved)
	hostname, _ := os.Hostname()
	if f.HostnameOverride != "" {
		hostname = f.HostnameOverride
	}
	c := node.Config{
		Name: a.nodeName, Hostname: hostname, Runtime: a.runtime,
		Register: deref(k.RegisterNode, true), Labels: f.NodeLabels, Taints: k.RegisterWithTaints, ProviderID: k.ProviderID,
		ExternalCloudProvider:         f.CloudProvider == "external",
		ControllerAttachDetach:        deref(k.EnableControllerAttachDetach, true),
		IPs:                           nodeIPs(f.NodeIP),
		RootDir:                       f.RootDir,
		LocalStorageCapacityIsolation: deref(k.LocalStorageCapacityIsolation, true),
		MaxPods:                       k.MaxPods, PodsPerCore: k.PodsPerCore,
		KubeReserved: kubeReserved, SystemReserved: systemReserved, EvictionHard: k.EvictionHard,
		Port: k.Port, DeclaredFeatures: a.declaredFeatures(),
		UpdateFrequency: k.NodeStatusUpdateFrequency.Duration, ReportFrequency: k.NodeStatusReportFrequency.Duration,
		LeaseDuration: time.Duration(k.NodeLeaseDurationSeconds) * time.Second,
		Images:        a.listImages, MaxImages: deref(k.NodeStatusMaxImages, 50),
		Healthy: a.healthy,
		Event: func(eventType, reason, message string) {
			a.recorder.NodeEvent(eventType, reason, message)
		},
		Changed: func(*v1.Node) {
			a.queue.Recheck()
			if a.mirror != nil {
				a.mirror.NodeChanged()
			}
		},
		Started:    started,
		Registerer: a.registry,
	}
	if a.api != nil {
		c.API = a.api
	}
	return c
}

// nodeIPs parses --node-ip, which package config has validated.
func nodeIPs(text string) (ips []netip.Addr) {
	for part := range strings.SplitSeq(text, ",") {
		if ip, err := netip.ParseAddr(strings.TrimSpace(part)); err == nil {
			ips = append(ips, ip)
		}
	}
	return ips
}

// newCgroups makes the cgroup tree with the runtime's driver, or the
// configured one if the runtime does not tell.
func (a *Agent) newCgroups(ctx context.Context) (*cgroup.Tree, error) {
	k := &a.cfg.Kubelet
	driver := cgroup.Driver(k.CgroupDriver)
	told, err := a.runtime.RuntimeConfig(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask the runtime for its cgroup driver: %w", err)
	}
	if told != cri.NoCgroupDriver {
		driver = cgroup.Driver(told)
	}
	enforce := false
	for _, what := range k.EnforceNodeAllocatable {
		enforce = enforce || what == "pods"
	}
	tree, err := cgroup.New(cgroup.Config{
		Driver: driver, Root: k.CgroupRoot, PerQOS: deref(k.CgroupsPerQOS, true),
		NodeAllocatable: a.node.Node().Status.Allocatable, Enforce: enforce,
		PodPidsLimit: deref(k.PodPidsLimit, -1),
		CPUCFSQuota:  deref(k.CPUCFSQuota, true), CPUCFSQuotaPeriod: cfsPeriod(k),
		IgnorePodLevelResources: !a.cfg.Gates.Enabled("PodLevelResources"),
		Registerer:              a.registry,
	})
	if err != nil {
		return nil, fmt.Errorf("set up cgroups: %w", err)
	}
	return tree, nil
}

func cfsPeriod(k *kubeletconfig.KubeletConfiguration) time.Duration {
	if k.CPUCFSQuotaPeriod == nil {
		return 100 * time.Millisecond
	}
	return k.CPUCFSQuotaPeriod.Duration
}

func (a *Agent) imageConfig() image.Config {
	k := &a.cfg.Kubelet
	c := image.Config{
		Service: a.runtime, Events: a.recorder,
		SerializePulls: deref(k.SerializeImagePulls, true), MaxParallel: k.MaxParallelImagePulls,
		NodeConfigFiles: []string{
			filepath.Join(a.cfg.Flags.RootDir, "config.json"), "/root/.docker/config.json", "/config.json",
			filepath.Join(a.cfg.Flags.RootDir, ".dockercfg"), "/root/.dockercfg", "/.dockercfg",
		},
		QPS: float64(deref(k.RegistryPullQPS, 5)), Burst: int(k.RegistryBurst),
		Registerer: a.registry,
	}
	if a.api != nil {
		c.Secrets = a.pullSecrets
	}
	return c
}

func (a *Agent) criConfig(images *image.Puller, report preflight.Report) criconfig.Config {
	k := &a.cfg.Kubelet
	c := criconfig.Config{
		Root: a.cfg.Flags.RootDir, PodLogsDir: k.PodLogsDir,
		ClusterDNS: k.ClusterDNS, ClusterDomain: k.ClusterDomain, ResolverConfig: deref(k.ResolverConfig, ""),
		CPUCFSQuota: deref(k.CPUCFSQuota, true), CPUCFSQuotaPeriod: cfsPeriod(k),
		CgroupV2: report.CgroupV2, SingleProcessOOMKill: deref(k.SingleProcessOOMKill, !report.CgroupV2),
		SeccompDefault: a.cfg.Flags.SeccompDefault || deref(k.SeccompDefault, false),
		MemoryCapacity: memoryCapacity(a.node.Node()),
		HugePageSizes:  cgroups.HugePageSizes(),
		DefaultSysctls: k.DefaultPodSysctls,
		SELinux:        selinuxEnabled(),
		Handler:        a.handler,
		EnvFiles:       a.cfg.Gates.Enabled("EnvFiles"),
		Swap:           swap(k, report),
		UserNamespace:  a.userNamespace,
		Images:         images, Events: a.recorder, ImageVolumes: a.imageVolumes,
		NodeEvent:       func(reason, message string) { a.recorder.NodeEvent(v1.EventTypeWarning, reason, message) },
		NodeAllocatable: a.allocatable, HostIPs: a.node.HostIPs,
	}
	if a.api != nil {
		c.Objects, c.Services, c.RuntimeClasses = a.objects, a.services, a.classes
	}
	return c
}

// imageVolumes says why the runtime cannot mount images. The CRI has no
// feature for it, and runtimes before these ignore the field.
func (a *Agent) imageVolumes(ctx context.Context) error {
	v, err := a.runtime.Version(ctx)
	if err != nil {
		return fmt.Errorf("ask the runtime for its version: %w", err)
	}
	since, known := map[string]string{"containerd": "2.1", "cri-o": "1.31"}[v.GetRuntimeName()]
	has, err := utilversion.ParseGeneric(v.GetRuntimeVersion())
	if !known || err != nil || has.AtLeast(utilversion.MustParseGeneric(since)) {
		return nil
	}
	return fmt.Errorf("%s %s cannot mount images, it takes %s or newer", v.GetRuntimeName(), v.GetRuntimeVersion(), since)
}

func (a *Agent) rotatorConfig() logs.RotatorConfig {
	k := &a.cfg.Kubelet
	size := resource.MustParse(k.ContainerLogMaxSize) // validated
	return logs.RotatorConfig{
		Runtime: a.runtime, Table: a.observed, Links: a.logs, PodLogsDir: k.PodLogsDir,
		MaxSize: size.Value(), MaxFiles: int(deref(k.ContainerLogMaxFiles, 5)), Workers: int(deref(k.ContainerLogMaxWorkers, 1)),
		MonitorInterval: k.ContainerLogMonitorInterval.Duration,
	}
}

func selinuxEnabled() bool {
	_, err := os.Stat("/sys/fs/selinux/enforce")
	return err == nil
}

// handler says what a runtime handler can do, by the node's status or, before
// there is one, by the runtime itself.
func (a *Agent) handler(ctx context.Context, name string) (criconfig.HandlerFeatures, error) {
	if n := a.node.Node(); n.Status.NodeInfo.ContainerRuntimeVersion != "" {
		for _, h := range n.Status.RuntimeHandlers {
			if h.Name == name && h.Features != nil {
				return criconfig.HandlerFeatures{
					RecursiveReadOnly: deref(h.Features.RecursiveReadOnlyMounts, false),
					UserNamespaces:    deref(h.Features.UserNamespaces, false),
				}, nil
			}
		}
		return criconfig.HandlerFeatures{}, nil
	}
	status, err := a.runtime.Status(ctx, false)
	if err != nil {
		return criconfig.HandlerFeatures{}, err
	}
	for _, h := range status.GetRuntimeHandlers() {
		if h.GetName() == name {
			return criconfig.HandlerFeatures{
				RecursiveReadOnly: h.GetFeatures().GetRecursiveReadOnlyMounts(),
				UserNamespaces:    h.GetFeatures().GetUserNamespaces(),
			}, nil
		}
	}
	return criconfig.HandlerFeatures{}, nil
}

// newUserNamespaces makes the table of pods' user and group ids.
func (a *Agent) newUserNamespaces(ctx context.Context) (err error) {
	perPod := int64(userns.Unit)
	if u := a.cfg.Kubelet.UserNamespaces; u != nil && u.IDsPerPod != nil {
		perPod = *u.IDsPerPod // validated by package config
	}
	ids, err := userns.NodeIDs(ctx, uint32(perPod))
	if err != nil {
		return err
	}
	a.userns, err = userns.New(userns.Config{
		PodsDir: filepath.Join(a.cfg.Flags.RootDir, "pods"), IDs: ids, PerPod: uint32(perPod), MaxPods: a.cfg.Kubelet.MaxPods,
		SandboxPid: a.sandboxPid,
	})
	return err
}

func (a *Agent) userNamespace(pod *v1.Pod) (*runtimeapi.UserNamespace, error) {
	return a.userns.Mapping(context.Background(), pod.UID)
}

// sandboxPid is the first process of a pod's sandbox, 0 if none is known to
// run.
func (a *Agent) sandboxPid(uid types.UID) int {
	for _, s := range a.observed.Get(uid).Sandboxes {
		if s.Pid > 0 {
			return s.Pid
		}
	}
	return 0
}

func swap(k *kubeletconfig.KubeletConfiguration, report preflight.Report) criconfig.Swap {
	return criconfig.Swap{
		Controller: report.SwapController,
		Limited:    k.MemorySwap.SwapBehavior == "LimitedSwap",
		Capacity:   report.SwapTotal,
	}
}

func memoryCapacity(n *v1.Node) int64 {
	q := n.Status.Capacity[v1.ResourceMemory]
	return q.Value()
}

// newGate sizes the start gate: measured, twice the cores at once reach the
// most pods per second, and more only make all of a batch late.
func newGate() *lifecycle.Gate {
	places := max(2*runtime.NumCPU(), 4)
	return lifecycle.NewGate(places, max(places/2, 4), 64, lifecycle.ReadPressure)
}

// crashPolicy is how CrashLoopBackOff grows (KEP-4603).
func crashPolicy(cfg *config.Config) lifecycle.CrashPolicy {
	p := lifecycle.CrashPolicy{Initial: 10 * time.Second, Max: 300 * time.Second}
	if cfg.Gates.Enabled("ReduceDefaultCrashLoopBackOffDecay") {
		p = lifecycle.CrashPolicy{Initial: time.Second, Max: 60 * time.Second}
	}
	if period := cfg.Kubelet.CrashLoopBackOff.MaxContainerRestartPeriod; cfg.Gates.Enabled("KubeletCrashLoopBackOffMax") && period != nil {
		p.Max = period.Duration
	}
	return p
}

// withoutDisabled leaves out of specs what a feature gate has switched off.
func withoutDisabled(cfg *config.Config) podspec.Without {
	return podspec.Without{
		RestartRules: !cfg.Gates.Enabled("ContainerRestartRules"),
		RestartAll:   !cfg.Gates.Enabled("RestartAllContainersOnContainerExits"),
		StopSignals:  !cfg.Gates.Enabled("ContainerStopSignals"),
	}
}

// deref reads an optional field.
func deref[T any](p *T, unset T) T {
	if p == nil {
		return unset
	}
	return *p
}
