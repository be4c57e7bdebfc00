package pleg

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"kubelet/internal/cri"
	"kubelet/internal/cri/critest"
	"kubelet/internal/observed"
)

// node is an in-memory runtime with a generator on it. It is made inside a
// synctest bubble, so time passes only when everything waits.
type node struct {
	t       *testing.T
	r       *critest.Runtime
	c       *cri.Client
	table   *observed.Table
	g       *Generator
	exits   *fakeExits
	lagging *lagging
	see     bool // processes are found in cgroups
	stop    context.CancelFunc
	stopped chan error

	mu      sync.Mutex
	changes map[types.UID]int
}

// fakeExits stands for pidfds: processes of the in-memory runtime, which end
// when the test says so.
type fakeExits struct {
	mu     sync.Mutex
	open   map[int]*fakeProcess
	opened int
	refuse error // of Open
	alien  bool  // the process is in another cgroup
	leads  bool  // processes are the first of a PID namespace
}

type fakeProcess struct {
	exits *fakeExits
	pid   int
	f     func()
}

func (e *fakeExits) Open(pid int) (Process, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.refuse != nil {
		return nil, e.refuse
	}
	e.opened++
	return &fakeProcess{exits: e, pid: pid}, nil
}

func (p *fakeProcess) BelongsTo(...string) (bool, error) { return !p.exits.alien, nil }

func (p *fakeProcess) Leads() (bool, error) { return p.exits.leads, nil }

func (p *fakeProcess) Notify(f func()) error {
	p.exits.mu.Lock()
	defer p.exits.mu.Unlock()
	p.f = f
	p.exits.open[p.pid] = p
	return nil
}

func (p *fakeProcess) Close() {
	p.exits.mu.Lock()
	defer p.exits.mu.Unlock()
	if p.exits.open[p.pid] == p {
		delete(p.exits.open, p.pid)
	}
}

func (e *fakeExits) end(pid int) {
	e.mu.Lock()
	p := e.open[pid]
	e.mu.Unlock()
	if p != nil {
		p.f()
	}
}

func (e *fakeExits) watched() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.open)
}

// lagging is a runtime whose lists call sandboxes ready for a while after their
// statuses have ceased to do so.
type lagging struct {
	Runtime
	behind atomic.Bool
}

func (l *lagging) ListPodSandbox(ctx context.Context, f *runtimeapi.PodSandboxFilter) ([]*runtimeapi.PodSandbox, error) {
	list, err := l.Runtime.ListPodSandbox(ctx, f)
	if l.behind.Load() {
		for i := range list {
			list[i] = proto.CloneOf(list[i])
			list[i].State = runtimeapi.PodSandboxState_SANDBOX_READY
		}
	}
	return list, err
}

// newNode makes a node; before is called before the generator runs.
func newNode(t *testing.T, cfg critest.Config, before func(*node)) *node {
	n := &node{t: t, r: critest.New(cfg), changes: map[types.UID]int{}}
	n.c = n.r.Client(cri.Config{})
	n.r.AddImage("img")
	n.exits = &fakeExits{open: map[int]*fakeProcess{}}
	n.table = observed.NewTable(func(uid types.UID) {
		n.mu.Lock()
		n.changes[uid]++
		n.mu.Unlock()
	})
	n.lagging = &lagging{Runtime: n.c}
	pc := Config{Runtime: n.lagging, Table: n.table, Exits: n.exits, Registerer: prometheus.NewRegistry()}
	if before != nil {
		before(n)
		if n.exits == nil {
			pc.Exits = nil
		}
	}
	if n.see {
		n.exits.leads = true
		pc.Processes = n.processes
	}
	var err error
	if n.g, err = New(pc); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(klog.NewContext(context.Background(), klog.Logger{}))
	n.stop, n.stopped = cancel, make(chan error, 1)
	go func() { n.stopped <- n.g.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-n.stopped; err != nil {
			t.Errorf("Run: %v", err)
		}
		n.r.Close()
		if v := n.r.Violations(); len(v) > 0 {
			t.Error(v)
		}
	})
	synctest.Wait()
	return n
}

// processes stands for the cgroups of containers: the first process, and one
// that it started.
func (n *node) processes(uid types.UID, id string) []int {
	for _, s := range n.r.Sandboxes("") {
		if s.ID == id && s.Pid > 0 {
			return []int{s.Pid}
		}
	}
	for _, c := range n.r.Containers("") {
		if c.ID == id && c.Pid > 0 {
			return []int{c.Pid}
		}
	}
	return nil
}

func uidOf(pod string) types.UID { return types.UID("uid-" + pod) }

// runPod runs a pod with containers, behind the generator's back.
func (n *node) runPod(pod string, names ...string) (sandboxID string, ids []string) {
	n.t.Helper()
	ctx := context.Background()
	sandbox := critest.SandboxConfig("default", pod, string(uidOf(pod)), 0)
	sandboxID, err := n.c.RunPodSandbox(ctx, sandbox, "")
	if err != nil {
		n.t.Fatal(err)
	}
	for _, name := range names {
		ids = append(ids, n.runContainer(pod, sandboxID, name, 0))
	}
	return sandboxID, ids
}

func (n *node) runContainer(pod, sandboxID, name string, attempt uint32) string {
	n.t.Helper()
	ctx := context.Background()
	sandbox := critest.SandboxConfig("default", pod, string(uidOf(pod)), 0)
	id, err := n.c.CreateContainer(ctx, sandboxID, critest.ContainerConfig(sandbox, name, "img", attempt), sandbox)
	if err != nil {
		n.t.Fatal(err)
	}
	if err := n.c.StartContainer(ctx, id); err != nil {
		n.t.Fatal(err)
	}
	return id
}

// pidOf is the pid of the running container of that name.
func (n *node) pidOf(pod, name string) int {
	for _, c := range n.r.Containers(pod) {
		if c.Name == name && c.Running {
			return c.Pid
		}
	}
	n.t.Fatalf("no container %s of %s runs", name, pod)
	return 0
}

// want compares a pod in the table with a short form, newest first:
// "ready | app#0 running, app#0 exited 3".
func (n *node) want(pod, want string) {
	n.t.Helper()
	if got := describe(n.table.Get(uidOf(pod))); got != want {
		n.t.Errorf("%s is %q, want %q", pod, got, want)
	}
}

func describe(p observed.Pod) string {
	var s, c []string
	for _, x := range p.Sandboxes {
		if x.Ready {
			s = append(s, "ready")
		} else {
			s = append(s, "not ready")
		}
	}
	for _, x := range p.Containers {
		d := fmt.Sprintf("%s#%d %s", x.Name, x.Attempt, x.State)
		if x.State == observed.Exited {
			d += fmt.Sprintf(" %d", x.ExitCode)
		}
		c = append(c, d)
	}
	return strings.Join(s, ", ") + " | " + strings.Join(c, ", ")
}

func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}
