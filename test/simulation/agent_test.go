package simulation

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"kubelet/internal/admission"
	"kubelet/internal/cri"
	"kubelet/internal/desired"
	"kubelet/internal/explain"
	"kubelet/internal/image"
	"kubelet/internal/lifecycle"
	"kubelet/internal/observed"
	"kubelet/internal/pleg"
	"kubelet/internal/podspec"
	"kubelet/internal/source"
	"kubelet/internal/status"
	"kubelet/internal/worker"
)

const nodeName = "node"

// agent is one life of the kubelet, put together as package agent does it.
type agent struct {
	w      *world
	wire   *wire
	ctx    context.Context
	cancel context.CancelFunc
	parts  sync.WaitGroup

	desired  *desired.Table
	observed *observed.Table
	explain  *explain.Table
	writer   *status.Writer
	mirrors  *status.Mirrors
	recorder *status.Recorder
	pleg     *pleg.Generator
	queue    *admission.Queue
	pool     *worker.Pool
	source   *source.API
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

var theNode = &v1.Node{
	ObjectMeta: metav1.ObjectMeta{Name: nodeName, UID: "node-uid", Labels: map[string]string{v1.LabelOSStable: "linux"}},
	Status: v1.NodeStatus{Allocatable: v1.ResourceList{
		v1.ResourcePods: resource.MustParse("250"), v1.ResourceCPU: resource.MustParse("4"), v1.ResourceMemory: resource.MustParse("16Gi"),
	}},
}

func newAgent(w *world, n int) *agent {
	a := &agent{w: w, wire: newWire(w)}
	a.ctx, a.cancel = context.WithCancel(klog.NewContext(context.Background(), logr.New(agentLog{w: w, n: n})))
	a.wire.phase = func(uid types.UID) worker.Phase { return a.pool.States()[uid] }

	conn := &runtimeWire{a.wire, w.runtime.Conn()}
	client := must(cri.NewOver(cri.Config{}, runtimeapi.NewRuntimeServiceClient(conn), runtimeapi.NewImageServiceClient(conn)))
	api, rim := apiClient{a.wire, w.api}, rim{a.wire, w.disk}

	wake := func(uid types.UID) { a.pool.Wake(uid) }
	a.desired = desired.NewTable(wake, podspec.SourceFile, podspec.SourceAPI)
	a.observed = observed.NewTable(wake)
	a.explain = explain.NewTable()
	a.recorder = must(status.NewRecorder(status.RecorderConfig{Client: api, NodeName: nodeName}))
	a.writer = must(status.NewWriter(status.WriterConfig{Client: api, Mirror: a.desired.Mirror}))
	a.mirrors = must(status.NewMirrors(status.MirrorsConfig{
		Client: api, NodeName: nodeName, Node: func() *v1.Node { return theNode },
		Changed: func(mirror *v1.Pod) { a.writer.Observe(mirror) },
	}))
	generator := pleg.Config{Runtime: client, Table: a.observed}
	if !w.noExits {
		generator.Exits = w.exits
		generator.Processes = func(uid types.UID, id string) []int {
			for _, c := range w.runtime.Containers(string(uid)) {
				if c.ID == id && c.Running {
					return []int{c.Pid}
				}
			}
			return nil
		}
	}
	a.pleg = must(pleg.New(generator))
	settled := make(chan struct{})
	a.queue = must(admission.New(admission.Config{
		Checks: must(admission.Chain(admission.Options{})),
		Node:   func() (*v1.Node, bool) { return theNode, true },
		Ready:  settled,
	}))
	known := map[types.UID]bool{}
	for _, uid := range w.disk.list(w.disk.volumes) {
		known[uid] = true
	}
	a.pool = worker.New(worker.Config{
		Desired: a.desired, Observed: a.observed, Admission: a.queue, Volumes: rim,
		Statuses: a.writer, Events: a.recorder, Explain: a.explain, Mirrors: a.mirrors,
		Steps: &lifecycle.Steps{
			Runtime: client, Refresher: a.pleg, Volumes: rim, Cgroups: rim, Logs: rim, Configs: configs{},
			Images:   must(image.New(image.Config{Service: client, Events: a.recorder})),
			Statuses: a.writer, Events: a.recorder,
			Gate:      lifecycle.NewGate(w.places, w.critical, 64, nil),
			IsUnknown: cri.IsUnknown,
			PodIPs:    func(_ *v1.Pod, s *observed.Sandbox) []string { return s.IPs },
		},
		Settled:     func() { close(settled) },
		Leftovers:   func(context.Context) []types.UID { return w.disk.list(w.disk.volumes, w.disk.cgroups, w.disk.logs) },
		Known:       func(uid types.UID) bool { return known[uid] },
		Tracer:      w.tracer,
		HostIPs:     func() []string { return []string{"10.0.0.1"} },
		RuntimeName: "containerd",
		Crash:       w.crash,
		Budget:      lifecycle.NewBudget(w.budget),
	})
	a.source = must(source.NewAPI(source.APIConfig{ListWatch: api, Sink: sink{a}}))
	return a
}

// agentLog brings what an agent logs into the transcript.
type agentLog struct {
	w      *world
	n      int
	values string
}

func (l agentLog) Init(logr.RuntimeInfo)  {}
func (l agentLog) Enabled(level int) bool { return level <= 2 }

func (l agentLog) Info(_ int, message string, keysAndValues ...any) {
	l.w.say("agent %d: %s%s%s", l.n, message, l.values, render(keysAndValues))
}

func (l agentLog) Error(err error, message string, keysAndValues ...any) {
	l.w.say("agent %d: %s%s%s: %v", l.n, message, l.values, render(keysAndValues), err)
}

func (l agentLog) WithName(string) logr.LogSink { return l }

func (l agentLog) WithValues(keysAndValues ...any) logr.LogSink {
	l.values += render(keysAndValues)
	return l
}

func render(keysAndValues []any) string {
	var b strings.Builder
	for i := 0; i+1 < len(keysAndValues); i += 2 {
		fmt.Fprintf(&b, " %v=%v", keysAndValues[i], keysAndValues[i+1])
	}
	return b.String()
}

func (a *agent) start() {
	for _, run := range []func(context.Context) error{
		a.pleg.Run, a.queue.Run, a.writer.Run, a.recorder.Run, a.mirrors.Run, a.pool.Run, a.source.Run, a.watchManifests, a.completeMirrors,
	} {
		a.parts.Go(func() { _ = run(a.ctx) })
	}
}

// watchManifests reads the manifest directory a moment after the start: pods
// of a source that has not reported yet are not to be touched.
func (a *agent) watchManifests(ctx context.Context) error {
	delay := time.Duration(a.w.fate("manifests").IntN(2000)) * time.Millisecond
	if a.wire.travel(ctx, delay) == nil {
		a.readManifests()
	}
	return nil
}

func (a *agent) readManifests() {
	if !a.wire.dead.Load() {
		a.desired.Replace(podspec.SourceFile, a.w.staticPods())
	}
}

func (a *agent) completeMirrors(ctx context.Context) error {
	select {
	case <-a.desired.SyncedC():
	case <-ctx.Done():
		return nil
	}
	for _, d := range a.desired.List() {
		if podspec.IsStatic(d.Pod) && !d.Removed {
			a.mirrors.Ensure(d.Pod)
		}
	}
	a.mirrors.Complete()
	return nil
}

// sink is where the API server's pods go.
type sink struct{ a *agent }

func (s sink) Replace(name string, pods []*v1.Pod) {
	if s.a.wire.dead.Load() {
		return
	}
	before := s.a.desired.Mirrors()
	s.a.desired.Replace(name, pods)
	listed := map[types.UID]bool{}
	for _, pod := range pods {
		listed[pod.UID] = true
		s.observe(pod)
	}
	for _, mirror := range before {
		if !listed[mirror.UID] {
			s.a.writer.ObserveDeleted(mirror)
		}
	}
	s.a.mirrors.ObserveList(pods)
	s.a.writer.Retry()
	s.a.mirrors.Retry()
}

func (s sink) Upsert(name string, pod *v1.Pod) {
	if s.a.wire.dead.Load() {
		return
	}
	s.a.desired.Upsert(name, pod)
	s.observe(pod)
}

func (s sink) Delete(name string, uid types.UID) {
	if s.a.wire.dead.Load() {
		return
	}
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
		s.a.mirrors.Observe(pod)
	}
	s.a.writer.Observe(pod)
}

func (s sink) forget(pod *v1.Pod) {
	if podspec.IsMirror(pod) {
		s.a.mirrors.ObserveDeleted(pod)
	}
	s.a.writer.ObserveDeleted(pod)
}
