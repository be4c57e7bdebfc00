package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-base/version"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"kubelet/internal/admission"
	"kubelet/internal/explain"
	"kubelet/internal/lifecycle"
	"kubelet/internal/pleg"
	"kubelet/internal/podspec"
	"kubelet/internal/probe"
	"kubelet/internal/resources/allocation"
	"kubelet/internal/server"
	"kubelet/internal/source"
	"kubelet/internal/standalone"
	"kubelet/internal/status"
	"kubelet/internal/volume"
)

// newStatuses makes the ways out: events, statuses, mirror pods.
func (a *Agent) newStatuses() (err error) {
	recorder := status.RecorderConfig{NodeName: a.nodeName, NodeUID: func() types.UID { return a.node.Node().UID }}
	writer := status.WriterConfig{Mirror: a.desired.Mirror, Changed: func(uid types.UID) { a.podsAPI.Wake(uid) }}
	if a.api != nil {
		recorder.Client, writer.Client = a.api, a.api
		if a.mirror, err = status.NewMirrors(status.MirrorsConfig{
			Client: a.api, NodeName: a.nodeName, Node: a.registeredNode,
			Changed: func(mirror *v1.Pod) { a.writer.Observe(mirror) },
		}); err != nil {
			return fmt.Errorf("set up mirror pods: %w", err)
		}
		writer.Mirror = a.mirror.Get
	}
	if a.recorder, err = status.NewRecorder(recorder); err != nil {
		return fmt.Errorf("set up events: %w", err)
	}
	if a.writer, err = status.NewWriter(writer); err != nil {
		return fmt.Errorf("set up status writer: %w", err)
	}
	a.registry.MustRegister(append(a.recorder.Metrics(), a.writer.Metrics()...)...)
	return nil
}

// registeredNode is the node's API object, nil until there is one.
func (a *Agent) registeredNode() *v1.Node {
	n, known := a.node.Known()
	if !known {
		return nil
	}
	return n
}

// sourceNames are the sources that have to report before anything is taken
// for unwanted.
func (a *Agent) sourceNames() (names []string) {
	if a.cfg.Kubelet.StaticPodPath != "" {
		names = append(names, podspec.SourceFile)
	}
	if a.cfg.Kubelet.StaticPodURL != "" {
		names = append(names, podspec.SourceHTTP)
	}
	if a.api != nil {
		names = append(names, podspec.SourceAPI)
	}
	return names
}

// sink is where sources put their pods: the desired table, until the node is
// drained. Those who follow the API's objects hear of them here.
type sink struct{ a *Agent }

func (s sink) Replace(name string, pods []*v1.Pod) {
	if s.a.drained.Load() {
		pods = nil
	}
	for i := range pods {
		pods[i] = s.a.without.From(pods[i])
	}
	before := s.a.desired.Mirrors()
	s.a.desired.Replace(name, pods)
	if name != podspec.SourceAPI {
		return
	}
	listed := make(map[types.UID]bool, len(pods))
	for _, pod := range pods {
		listed[pod.UID] = true
		s.observe(pod)
	}
	for _, mirror := range before {
		if !listed[mirror.UID] {
			s.forget(mirror)
		}
	}
	// A list that succeeded shows that the API server is back.
	s.a.writer.Retry()
	s.a.mirror.Retry()
}

func (s sink) Upsert(name string, pod *v1.Pod) {
	if s.a.drained.Load() {
		return
	}
	pod = s.a.without.From(pod)
	s.a.desired.Upsert(name, pod)
	s.observe(pod)
}

func (s sink) Delete(name string, uid types.UID) {
	var gone *v1.Pod
	if d, ok := s.a.desired.Get(uid); ok {
		gone = d.Pod
	}
	for _, mirror := range s.a.desired.Mirrors() {
		if mirror.UID == uid {
			gone = mirror
		}
	}
	s.a.desired.Delete(name, uid)
	if gone != nil {
		s.forget(gone)
	}
}

func (s sink) observe(pod *v1.Pod) {
	if podspec.IsMirror(pod) {
		s.a.mirror.Observe(pod)
	}
	s.a.writer.Observe(pod)
}

func (s sink) forget(pod *v1.Pod) {
	if podspec.IsMirror(pod) {
		s.a.mirror.ObserveDeleted(pod)
	}
	s.a.writer.ObserveDeleted(pod)
}

// completeMirrors tells the mirrors when all static pods are known, so that
// those of pods that are gone are removed.
func (a *Agent) completeMirrors(ctx context.Context) error {
	select {
	case <-a.desired.SyncedC():
	case <-ctx.Done():
		return nil
	}
	for _, d := range a.desired.List() {
		if podspec.IsStatic(d.Pod) && !d.Removed {
			a.mirror.Ensure(d.Pod)
		}
	}
	a.mirror.Complete()
	<-ctx.Done()
	return nil
}

// Drain makes all pods unwanted and returns when nothing of them is left on
// the node.
func (a *Agent) Drain(ctx context.Context) error {
	a.drained.Store(true)
	for _, name := range a.sourceNames() {
		a.desired.Replace(name, nil)
	}
	return a.pool.WaitEmpty(ctx)
}

// knownPods are the pods of an earlier run of the agent, by their directory.
func (a *Agent) knownPods() (map[types.UID]bool, error) {
	uids, err := a.volumes.OnDisk()
	if err != nil {
		return nil, fmt.Errorf("list pod directories: %w", err)
	}
	known := make(map[types.UID]bool, len(uids))
	for _, uid := range uids {
		known[uid] = true
	}
	return known, nil
}

// remembered reads what an earlier run of the agent knew of the containers of
// these pods. A journal that cannot be read costs a pod that knowledge, and
// nothing else.
func (a *Agent) remembered(ctx context.Context, journal *lifecycle.Journal, known map[types.UID]bool) func(types.UID) map[string]lifecycle.Life {
	all := map[types.UID]map[string]lifecycle.Life{}
	for uid := range known {
		lives, err := journal.Read(uid)
		if err != nil {
			klog.FromContext(ctx).Error(err, "Journal of containers cannot be read, going on without it", "podUID", uid)
			continue
		}
		if len(lives) > 0 {
			all[uid] = lives
		}
	}
	return func(uid types.UID) map[string]lifecycle.Life { return all[uid] }
}

// newAllocations makes the table of allocated resources from what an earlier
// run has left. Without it pods are run with what their specs ask for by now.
func (a *Agent) newAllocations(ctx context.Context) {
	table, err := allocation.New(allocation.Config{
		Dir: a.cfg.Flags.RootDir, Synced: a.desired.SyncedC(),
		Exists: func(uid types.UID) bool {
			_, wanted := a.desired.Get(uid)
			return wanted || !a.observed.Get(uid).Empty()
		},
	})
	if err != nil {
		klog.FromContext(ctx).Error(err, "What was allocated to pods is not wholly known, their containers and specs count")
	}
	a.alloc = table
}

// leftovers are pods of which something is on disk or in the cgroup tree. Logs
// of pods on another kubelet's watch do not count: each has its own podLogsDir.
func (a *Agent) leftovers(ctx context.Context) []types.UID {
	logger := klog.FromContext(ctx)
	uids, err := a.volumes.OnDisk()
	if err != nil {
		logger.Error(err, "Pod directories cannot be listed, what is left over stays")
	}
	inCgroups, err := a.cgroups.Pods()
	if err != nil {
		logger.Error(err, "Pod cgroups cannot be listed, what is left over stays")
	}
	withLogs, err := a.logs.Pods()
	if err != nil {
		logger.Error(err, "Pod logs cannot be listed, what is left over stays")
	}
	return slices.Concat(uids, inCgroups, withLogs)
}

// staleVolume tells that a pod's volume keeps older content.
func (a *Agent) staleVolume(pod *v1.Pod, err *volume.Error) {
	a.recorder.Event(pod, "", v1.EventTypeWarning, "FailedMount", err.Error())
}

// keepQoS keeps the weights of the QoS levels in line with the pods on the
// node.
func (a *Agent) keepQoS(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.qos:
		}
		var pods []*v1.Pod
		for _, d := range a.desired.List() {
			if s, ok := a.writer.Get(d.Pod.UID); ok && !podspec.IsTerminalPhase(s.Phase) {
				pods = append(pods, a.alloc.Apply(d.Pod))
			}
		}
		if err := a.cgroups.UpdateQoS(ctx, pods); err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "QoS cgroups cannot be brought up to date")
		}
		// A batch of pods changes many times a second, and each time all
		// pods are looked at.
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(qosPause):
		}
	}
}

const qosPause = 250 * time.Millisecond

// objectsChanged wakes the pods that refer to a changed object.
func (a *Agent) objectsChanged(uids []types.UID) { a.pool.WakeVolumes(uids) }

// healthy says whether the loops that every pod needs are alive.
func (a *Agent) healthy() error {
	return errors.Join(a.pleg.Healthy())
}

// listImages is the image list of the node status.
func (a *Agent) listImages(ctx context.Context) ([]*runtimeapi.Image, error) {
	return a.runtime.ListImages(ctx, nil)
}

// pullSecrets reads the pull secrets of a pod from the cache.
func (a *Agent) pullSecrets(ctx context.Context, pod *v1.Pod) (secrets []v1.Secret, err error) {
	for _, ref := range pod.Spec.ImagePullSecrets {
		s, serr := a.objects.Secret(ctx, pod.Namespace, ref.Name)
		if serr != nil {
			err = errors.Join(err, fmt.Errorf("read pull secret %q: %w", ref.Name, serr))
			continue
		}
		secrets = append(secrets, *s)
	}
	return secrets, err
}

// newProber makes the prober. Its metrics are many and have an endpoint of
// their own.
func (a *Agent) newProber() (err error) {
	a.probed = prometheus.NewRegistry()
	started := prometheus.NewGauge(prometheus.GaugeOpts{Name: "process_start_time_seconds", Help: "Unix time at which the kubelet started."})
	started.SetToCurrentTime()
	a.probed.MustRegister(started)
	a.prober, err = probe.New(probe.Config{
		Exec: a.runtime, Events: a.recorder, Wake: func(uid types.UID) { a.pool.Wake(uid) },
		Registerer: a.probed, Version: shortVersion(), Cores: runtime.NumCPU(),
		H2C: a.cfg.Gates.Enabled("H2CContainerProbe"), GRPCTLS: a.cfg.Gates.Enabled("GRPCContainerProbeTLS"),
	})
	if err != nil {
		return fmt.Errorf("set up probes: %w", err)
	}
	return nil
}

// shortVersion is MAJOR.MINOR, as probes and hooks present themselves.
func shortVersion() string {
	parts := strings.SplitN(strings.TrimPrefix(version.Get().GitVersion, "v"), ".", 3)
	return strings.Join(parts[:min(len(parts), 2)], ".")
}

func (a *Agent) plegConfig() pleg.Config {
	return pleg.Config{
		Runtime: a.runtime, Table: a.observed, RuntimePID: a.runtime.RuntimePID, Registerer: a.registry,
		Processes: func(uid types.UID, id string) []int {
			d, ok := a.desired.Get(uid)
			if !ok {
				return nil
			}
			return a.cgroups.Processes(d.Pod, id)
		},
	}
}

func (a *Agent) admissionConfig() (admission.Config, error) {
	options := admission.Options{
		AllowedUnsafeSysctls: a.cfg.Kubelet.AllowedUnsafeSysctls,
		KernelVersion:        kernelVersion(),
		AppArmor:             appArmorEnforced(),
		PodLevelResources:    a.cfg.Gates.Enabled("PodLevelResources"),
		TaintComparison:      a.cfg.Gates.Enabled("TaintTolerationComparisonOperators"),
		DeclaredFeatures:     append([]string{}, a.declaredFeatures()...),
	}
	if a.security != nil {
		options.PodSecurity = a.security
	}
	checks, err := admission.Chain(options)
	if err != nil {
		return admission.Config{}, err
	}
	c := admission.Config{Checks: checks, Node: a.node.Known, Ready: a.settled, Preempt: a.preempt, Registerer: a.registry, Resizes: a.resizeRules()}
	if a.api != nil {
		c.RefreshNode = a.node.Refresh
	}
	return c, nil
}

// preempt ends a pod in favour of a critical one, in upstream's words.
func (a *Agent) preempt(p admission.Preemption) {
	const reason, message = "Preempting", "Preempted in order to admit critical pod"
	victim, ok := a.desired.Get(p.Victim)
	if !ok {
		return // it goes already
	}
	a.recorder.Event(victim.Pod, "", v1.EventTypeWarning, reason, message)
	a.pool.Evict(p.Victim, status.Failure{
		Reason: reason, Message: message,
		DisruptionReason:  v1.PodReasonTerminationByKubelet,
		DisruptionMessage: "Pod was preempted by Kubelet to accommodate a critical pod.",
	}, podspec.Grace(victim.Pod))
}

// resizeRules are what pods that run cannot ask for here.
func (a *Agent) resizeRules() admission.ResizeRules {
	k := &a.cfg.Kubelet
	return admission.ResizeRules{
		OwnResources: a.cfg.Gates.Enabled("InPlacePodLevelResourcesVerticalScaling"),
		Swap:         k.MemorySwap.SwapBehavior == "LimitedSwap",
		StaticCPU:    k.CPUManagerPolicy == "static" && !a.cfg.Gates.Enabled("InPlacePodVerticalScalingExclusiveCPUs"),
		StaticMemory: k.MemoryManagerPolicy == "Static" && !a.cfg.Gates.Enabled("InPlacePodVerticalScalingExclusiveMemory"),
	}
}

func kernelVersion() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

func appArmorEnforced() bool {
	text, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	return err == nil && strings.HasPrefix(string(text), "Y")
}

// manifestProblem shows what is wrong with a manifest where a person asks for
// pods that are not there.
func (a *Agent) manifestProblem(origin string, err error) {
	uid := types.UID("manifest:" + origin)
	if err == nil {
		a.explain.Delete(uid)
		return
	}
	a.explain.Set(explain.Entry{UID: uid, Name: origin, Stage: explain.Source,
		WaitsFor: "the manifest to be mended", LastError: err.Error()})
	a.signalRows()
}

// newSources makes the ways in.
func (a *Agent) newSources() (parts []part, err error) {
	k := &a.cfg.Kubelet
	if k.StaticPodPath != "" {
		file, err := source.NewFile(source.FileConfig{
			Path: k.StaticPodPath, Node: a.nodeName, Recheck: k.FileCheckFrequency.Duration,
			Features: a.manifestFeatures(), Sink: sink{a}, Problem: a.manifestProblem, Running: a.runningStatic,
		})
		if err != nil {
			return nil, fmt.Errorf("set up static pods: %w", err)
		}
		parts = append(parts, part{"static pods", file.Run})
	}
	if k.StaticPodURL != "" {
		url, err := source.NewHTTP(source.HTTPConfig{
			URL: k.StaticPodURL, Header: http.Header(k.StaticPodURLHeader), Node: a.nodeName, Every: k.HTTPCheckFrequency.Duration,
			Features: a.manifestFeatures(), Sink: sink{a}, Problem: a.manifestProblem, Running: a.runningStatic,
		})
		if err != nil {
			return nil, fmt.Errorf("set up static pods by URL: %w", err)
		}
		parts = append(parts, part{"static pods by URL", url.Run})
	}
	if a.api != nil {
		api, err := source.NewAPI(source.APIConfig{
			ListWatch: a.api.WatchPods(a.nodeName), Gate: a.node.WaitKnown, Sink: sink{a},
		})
		if err != nil {
			return nil, fmt.Errorf("set up pods of the API server: %w", err)
		}
		parts = append(parts, part{"pods of the API server", api.Run})
	}
	return parts, nil
}

// manifestFeatures are the gates that static pods are validated with.
func (a *Agent) manifestFeatures() source.Features {
	f := source.DefaultFeatures()
	f.UserNamespacesHostNetworkSupport = a.cfg.Gates.Enabled("UserNamespacesHostNetworkSupport")
	f.PodLevelResources = a.cfg.Gates.Enabled("PodLevelResources")
	f.PodLevelResourcesFixDefaulting = a.cfg.Gates.Enabled("PodLevelResourcesFixDefaulting")
	return f
}

// runningStatic lists the static pods that the runtime has, so that they keep
// their UID. It waits until the runtime was listed once.
func (a *Agent) runningStatic(ctx context.Context) ([]source.Running, error) {
	select {
	case <-a.observed.Synced():
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	var running []source.Running
	for uid, p := range a.observed.List() {
		s := p.ReadySandbox()
		if s == nil {
			continue
		}
		if from := s.Annotations[podspec.SourceAnnotation]; from != podspec.SourceFile && from != podspec.SourceHTTP {
			continue
		}
		r := source.Running{UID: uid, Name: p.Name, Namespace: p.Namespace, Annotations: s.Annotations, Containers: map[string]string{},
			Mirror: a.desired.Mirror(podspec.Name(p.Name + "_" + p.Namespace))}
		for i := range p.Containers {
			c := &p.Containers[i]
			if _, newer := r.Containers[c.Name]; !newer {
				r.Containers[c.Name] = c.Hash
			}
		}
		running = append(running, r)
	}
	return running, nil
}

// newServers makes the ports and the local socket.
func (a *Agent) newServers(started time.Time) (parts []part, err error) {
	k := &a.cfg.Kubelet
	if deref(k.HealthzPort, 10248) > 0 {
		s, err := server.NewHealthz(server.HealthzConfig{
			Address: k.HealthzBindAddress, Port: int(*k.HealthzPort), Checks: map[string]func() error{"syncloop": a.healthy},
		})
		if err != nil {
			return nil, fmt.Errorf("set up health port: %w", err)
		}
		parts = append(parts, part{"health port", s.Run})
	}
	shown, err := a.shown()
	if err != nil {
		return nil, err
	}
	if deref(k.EnableServer, true) {
		s, err := a.newHTTPS(shown, started)
		if err != nil {
			return nil, err
		}
		parts = append(parts, part{"HTTPS port", s.Run})
	}
	if k.ReadOnlyPort > 0 {
		s, err := server.NewReadOnly(server.ReadOnlyConfig{Address: k.Address, Port: int(k.ReadOnlyPort), Shown: shown})
		if err != nil {
			return nil, fmt.Errorf("set up read-only port: %w", err)
		}
		parts = append(parts, part{"read-only port", s.Run})
	}
	if a.podsAPI != nil {
		parts = append(parts, part{"pods API", a.podsAPI.Run})
	}
	s, err := explain.NewServer(explain.ServerConfig{
		Path: filepath.Join(a.cfg.Flags.RootDir, explain.SocketName), Table: a.explain, Events: a.recentEvents,
	})
	if err != nil {
		return nil, fmt.Errorf("set up explanations: %w", err)
	}
	return append(parts, part{"explanations", s.Run}), nil
}

// recentEvents is what happened to a pod lately.
func (a *Agent) recentEvents(uid types.UID) (events []explain.Event) {
	for _, e := range a.recorder.Recent(uid) {
		message := e.Message
		if e.Container != "" {
			message = e.Container + ": " + message
		}
		events = append(events, explain.Event{Time: e.Time, Type: e.Type, Reason: e.Reason, Message: message})
	}
	return events
}

// podList is the pods of this node with their newest status.
func (a *Agent) podList() *v1.PodList {
	list := &v1.PodList{}
	for _, d := range a.desired.List() {
		pod := *d.Pod
		if s, ok := a.writer.Get(pod.UID); ok {
			pod.Status = s
		}
		list.Items = append(list.Items, pod)
	}
	return list
}

// signalRows tells the table in the terminal and the QoS levels that
// something changed.
func (a *Agent) signalRows() {
	for _, c := range []chan struct{}{a.rows, a.qos} {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// Changed is signalled when what Rows shows may have changed.
func (a *Agent) Changed() <-chan struct{} { return a.rows }

// Rows shows each pod in a line.
func (a *Agent) Rows() []standalone.Row {
	var rows []standalone.Row
	for _, e := range a.explain.Snapshot() {
		r := standalone.Row{Pod: e.Namespace + "/" + e.Name, Since: e.Since, Why: explain.Line(e, time.Now()), Phase: string(e.Stage)}
		if s, ok := a.writer.Get(e.UID); ok {
			ready := 0
			for _, c := range s.ContainerStatuses {
				r.Restarts += c.RestartCount
				if c.Ready {
					ready++
				}
			}
			r.Phase, r.IP = string(s.Phase), s.PodIP
			r.Ready = fmt.Sprintf("%d/%d", ready, len(s.ContainerStatuses))
		}
		rows = append(rows, r)
	}
	return rows
}
