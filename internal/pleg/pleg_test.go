package pleg

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
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
	pc := Config{Runtime: n.c, Table: n.table, Exits: n.exits, Registerer: prometheus.NewRegistry()}
	if before != nil {
		before(n)
		if n.exits == nil {
			pc.Exits = nil
		}
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

func TestFirstListFindsWhatRan(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t, critest.Config{}, func(n *node) {
			n.r.Script("done", critest.ExitAfter(0, 3))
			n.runPod("web", "app", "done")
			n.runPod("other", "app")
		})
		select {
		case <-n.table.Synced():
		default:
			t.Fatal("not synced after the first list")
		}
		n.want("web", "ready | app#0 running, done#0 exited 3")
		n.want("other", "ready | app#0 running")
		p := n.table.Get(uidOf("web"))
		if s := p.ReadySandbox(); s == nil || len(s.IPs) != 1 || s.Pid == 0 || p.Name != "web" || p.Namespace != "default" {
			t.Errorf("pod: %+v", p)
		}
		if c := p.Latest("app"); c.Pid == 0 || c.Hash != "1" || c.StartedAt.IsZero() || c.Image != "docker.io/library/img:latest" || c.LogPath == "" {
			t.Errorf("container: %+v", c)
		}
		if c := p.Latest("done"); c.Reason != "Error" || c.FinishedAt.IsZero() {
			t.Errorf("ended container: %+v", c)
		}
		if err := n.g.Healthy(); err != nil {
			t.Error(err)
		}
	})
}

// TestExitIsSeen ends a container in each way that the generator can learn of
// it, with the other ways broken, and measures how long that takes.
func TestExitIsSeen(t *testing.T) {
	const lag = 30 * time.Millisecond // between process and runtime
	cases := []struct {
		name   string
		cfg    critest.Config
		before func(*node)
		end    func(*node)
		within time.Duration
	}{
		{"by event, no pidfd", critest.Config{}, func(n *node) { n.exits = nil },
			func(n *node) { n.r.Exit("web", "app", 3, "") }, 0},
		{"by pidfd, stream silent", critest.Config{}, func(n *node) { n.r.MuteEvents(true) },
			func(n *node) { pid := n.pidOf("web", "app"); n.r.Exit("web", "app", 3, ""); n.exits.end(pid) }, 0},
		{"by pidfd, runtime without events", critest.Config{NoEvents: true}, nil,
			func(n *node) { pid := n.pidOf("web", "app"); n.r.Exit("web", "app", 3, ""); n.exits.end(pid) }, 0},
		{"by pidfd before the runtime knows", critest.Config{NoEvents: true}, nil,
			func(n *node) {
				n.exits.end(n.pidOf("web", "app"))
				time.Sleep(lag)
				n.r.Exit("web", "app", 3, "")
			}, lag + 10*time.Millisecond},
		{"by pidfd, then the event", critest.Config{}, nil,
			func(n *node) {
				n.exits.end(n.pidOf("web", "app"))
				time.Sleep(lag)
				n.r.Exit("web", "app", 3, "")
			}, 0},
		{"by the list every second, without both", critest.Config{NoEvents: true}, func(n *node) { n.exits = nil },
			func(n *node) { n.r.Exit("web", "app", 3, "") }, time.Second},
		{"by the list every second, pids are unknown", critest.Config{NoEvents: true, NoPids: true}, nil,
			func(n *node) { n.r.Exit("web", "app", 3, "") }, time.Second},
		{"by the list every second, pids are of others", critest.Config{NoEvents: true}, func(n *node) { n.exits.alien = true },
			func(n *node) { n.r.Exit("web", "app", 3, "") }, time.Second},
		{"by the safety net, events and pidfd are lost", critest.Config{}, func(n *node) { n.r.MuteEvents(true) },
			func(n *node) { n.r.Exit("web", "app", 3, "") }, 30 * time.Second},
		{"when the stream is opened again", critest.Config{}, nil,
			func(n *node) { n.r.MuteEvents(true); n.r.Exit("web", "app", 3, ""); n.r.DropStreams() }, 100 * time.Millisecond},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				n := newNode(t, tc.cfg, func(n *node) {
					n.runPod("web", "app", "sidecar")
					if tc.before != nil {
						tc.before(n)
					}
				})
				time.Sleep(5 * time.Minute)
				n.want("web", "ready | app#0 running, sidecar#0 running")
				tc.end(n)
				time.Sleep(tc.within)
				synctest.Wait()
				n.want("web", "ready | app#0 exited 3, sidecar#0 running")
			})
		})
	}
}

// TestExitWhileTheWatchIsSet: a process that is gone when it should be held
// is asked about at once.
func TestExitWhileTheWatchIsSet(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t, critest.Config{NoEvents: true}, nil)
		n.exits.refuse = syscall.ESRCH
		n.runPod("web", "app")
		if err := n.g.Refresh(t.Context(), uidOf("web")); err != nil {
			t.Fatal(err)
		}
		n.want("web", "ready | app#0 running")
		n.r.Exit("web", "app", 1, "")
		time.Sleep(10 * time.Millisecond)
		synctest.Wait()
		n.want("web", "ready | app#0 exited 1")
	})
}

func TestLostSandboxIsSeen(t *testing.T) {
	for _, how := range []string{"event", "pidfd"} {
		t.Run(how, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				n := newNode(t, critest.Config{NoEvents: how == "pidfd"}, func(n *node) { n.runPod("web", "app") })
				pid := n.r.Sandboxes("web")[0].Pid
				n.r.KillSandbox("web")
				if how == "pidfd" {
					n.exits.end(pid)
				}
				synctest.Wait()
				n.want("web", "not ready | app#0 running")
				if ips := n.table.Get(uidOf("web")).Sandboxes[0].IPs; len(ips) != 1 {
					t.Errorf("the IP of a lost sandbox is forgotten: %v", ips)
				}
			})
		})
	}
}

// TestLiesAboutTheEnd: the process is gone, the runtime goes on to say that it
// runs. It is asked until it tells the truth, more and more slowly.
func TestLiesAboutTheEnd(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t, critest.Config{NoEvents: true}, func(n *node) { n.runPod("web", "app") })
		lie := n.r.Inject(critest.Match{Method: "ContainerStatus", Container: "app"}, critest.Fault{Lie: critest.SayRunning})
		pid := n.pidOf("web", "app")
		n.r.Exit("web", "app", 9, "OOMKilled")
		n.exits.end(pid)
		time.Sleep(20 * time.Second)
		n.want("web", "ready | app#0 running")
		if asked := lie.Hits(); asked < 10 || asked > 40 {
			t.Errorf("asked %d times in 20 s", asked)
		}
		lie.Release()
		time.Sleep(time.Second)
		n.want("web", "ready | app#0 exited 9")
		if r := n.table.Get(uidOf("web")).Latest("app").Reason; r != "OOMKilled" {
			t.Errorf("reason %q", r)
		}
	})
}

// TestListOmitsWhatRuns: a list without a running container does not make it
// gone, or a second one would be started beside it.
func TestListOmitsWhatRuns(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t, critest.Config{}, func(n *node) { n.runPod("web", "app") })
		a := n.r.Inject(critest.Match{Method: "ListContainers"}, critest.Fault{Lie: critest.Omit("app")})
		b := n.r.Inject(critest.Match{Method: "ListPodSandbox"}, critest.Fault{Lie: critest.Omit("web")})
		if err := n.g.Refresh(t.Context(), uidOf("web")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		n.want("web", "ready | app#0 running")
		c := n.r.Inject(critest.Match{Method: "ContainerStatus"}, critest.Fault{Hang: true})
		if err := n.g.Refresh(t.Context(), uidOf("web")); !cri.IsUnknown(err) {
			t.Errorf("refresh: %v; want that something was not answered", err)
		}
		n.want("web", "ready | app#0 running")
		for _, in := range []*critest.Injection{a, b, c} {
			in.Release()
		}
		n.r.LoseState()
		if err := n.g.Refresh(t.Context(), uidOf("web")); err != nil {
			t.Fatal(err)
		}
		n.want("web", " | ")
	})
}

// TestRefresh: what it returns with was asked for after the call.
func TestRefresh(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t, critest.Config{NoEvents: true}, nil)
		sandboxID, _ := n.runPod("web", "app")
		slow := n.r.Inject(critest.Match{Method: "ListPodSandbox", Pod: "web"}, critest.Fault{Delay: time.Second})
		first := make(chan error, 1)
		go func() { first <- n.g.Refresh(context.Background(), uidOf("web")) }()
		time.Sleep(100 * time.Millisecond)

		// The first read is under way. Many ask meanwhile, after a change.
		n.runContainer("web", sandboxID, "late", 0)
		asked := time.Now()
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if err := n.g.Refresh(context.Background(), uidOf("web")); err != nil {
					t.Error(err)
				}
				p := n.table.Get(uidOf("web"))
				if p.Latest("late") == nil || p.At.Before(asked) {
					t.Errorf("the answer is from %v before the question: %s", asked.Sub(p.At), describe(p))
				}
			})
		}
		wg.Wait()
		if err := <-first; err != nil {
			t.Error(err)
		}
		if slow.Hits() != 2 {
			t.Errorf("%d reads for 51 calls, want 2", slow.Hits())
		}
		slow.Release()

		// A refresh moves the time of the answer on even if nothing changed.
		time.Sleep(time.Second)
		asked = time.Now()
		if err := n.g.Refresh(t.Context(), uidOf("web")); err != nil {
			t.Fatal(err)
		}
		if p := n.table.Get(uidOf("web")); p.At.Before(asked) {
			t.Error("the table holds an older answer")
		}
		// Nobody needs to wait for ever.
		n.r.Inject(critest.Match{Pod: "web"}, critest.Fault{Hang: true})
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if err := n.g.Refresh(ctx, uidOf("web")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("refresh past its deadline: %v", err)
		}
	})
}

func TestRefreshFailsAndRecovers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t, critest.Config{NoEvents: true}, nil)
		n.runPod("web", "app", "second")
		broken := n.r.Inject(critest.Match{Method: "ContainerStatus", Container: "app"}, critest.Fault{Code: codes.Internal, Message: "corrupt"})
		if err := n.g.Refresh(t.Context(), uidOf("web")); err == nil || !strings.Contains(err.Error(), "corrupt") {
			t.Errorf("refresh: %v", err)
		}
		n.want("web", "ready | app#0 running, second#0 running")
		if _, err := n.g.Staleness(uidOf("web")); err == nil || !strings.Contains(err.Error(), "corrupt") {
			t.Errorf("staleness does not tell why: %v", err)
		}
		if c := n.table.Get(uidOf("web")).Latest("app"); c.Pid != 0 {
			t.Errorf("a status that failed told %+v", c)
		}
		broken.Release()
		time.Sleep(2 * time.Second)
		if c := n.table.Get(uidOf("web")).Latest("app"); c.Pid == 0 {
			t.Error("not read again in the background")
		}
		if _, err := n.g.Staleness(uidOf("web")); err != nil {
			t.Error(err)
		}
	})
}

// TestExitedWithoutStatus: while its status cannot be read, a container that
// ended is not taken for a success.
func TestExitedWithoutStatus(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t, critest.Config{}, func(n *node) {
			n.r.Script("app", critest.ExitAfter(0, 1))
			n.runPod("web", "app", "second")
			n.r.Inject(critest.Match{Method: "ContainerStatus", Container: "app"}, critest.Fault{Hang: true})
		})
		time.Sleep(5 * time.Second)
		select {
		case <-n.table.Synced():
		default:
			t.Error("one hung status keeps the table from being synced")
		}
		n.want("web", "ready | app#0 unknown, second#0 running")
	})
}

// TestOneHungPod is the failure behind "PLEG is not healthy": the status of
// one pod's containers hangs for ever. The others do not notice.
func TestOneHungPod(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t, critest.Config{}, func(n *node) {
			for i := range 110 {
				n.runPod(fmt.Sprintf("pod-%d", i), "app")
			}
		})
		var hung []*critest.Injection
		for i := range 20 { // and it has many containers
			name := fmt.Sprintf("c-%d", i)
			hung = append(hung, n.r.Inject(critest.Match{Method: "ContainerStatus", Pod: "pod-0", Container: name}, critest.Fault{Hang: true}))
			n.runContainer("pod-0", n.r.Sandboxes("pod-0")[0].ID, name, 0)
		}
		go n.g.Refresh(context.Background(), uidOf("pod-0"))
		synctest.Wait()
		for round := range 5 {
			begin := time.Now()
			for i := 1; i < 110; i++ {
				pod := fmt.Sprintf("pod-%d", i)
				n.r.Exit(pod, "app", int32(round), "")
				synctest.Wait()
				if c := n.table.Get(uidOf(pod)).Latest("app"); c.State != observed.Exited {
					t.Fatalf("round %d: the exit in %s was not seen at once", round, pod)
				}
				n.runContainer(pod, n.r.Sandboxes(pod)[0].ID, "app", uint32(round+1))
				if err := n.g.Refresh(context.Background(), uidOf(pod)); err != nil {
					t.Fatal(err)
				}
				if c := n.table.Get(uidOf(pod)).Latest("app"); c.State != observed.Running || int(c.Attempt) != round+1 {
					t.Fatalf("round %d: the restart in %s was not seen", round, pod)
				}
			}
			if took := time.Since(begin); took > 0 {
				t.Fatalf("round %d: the other pods took %v", round, took)
			}
			time.Sleep(30 * time.Second)
			if err := n.g.Healthy(); err != nil {
				t.Fatal(err)
			}
		}
		if age, err := n.g.Staleness(uidOf("pod-0")); err == nil || age < 2*time.Minute {
			t.Errorf("the hung pod's staleness: %v, %v", age, err)
		}
		if age, err := n.g.Staleness(uidOf("pod-1")); err != nil || age > 30*time.Second {
			t.Errorf("another pod's staleness: %v, %v", age, err)
		}
		// The rest of the hung pod is seen all the same.
		n.r.Exit("pod-0", "app", 7, "")
		synctest.Wait()
		if c := n.table.Get(uidOf("pod-0")).Latest("app"); c.State != observed.Exited {
			t.Errorf("in the hung pod itself: %+v", c)
		}
		for _, h := range hung {
			h.Release()
		}
		time.Sleep(time.Minute)
		if _, err := n.g.Staleness(uidOf("pod-0")); err != nil {
			t.Errorf("after the hang: %v", err)
		}
		if got := n.exits.watched(); got != 110+109+20 {
			t.Errorf("%d processes are watched, want one per sandbox and running container", got)
		}
	})
}

func TestHealth(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t, critest.Config{}, func(n *node) { n.runPod("web", "app") })
		hang := n.r.Inject(critest.Match{}, critest.Fault{Hang: true})
		time.Sleep(2 * time.Minute)
		if err := n.g.Healthy(); err != nil {
			t.Errorf("after 2 min: %v", err)
		}
		time.Sleep(2 * time.Minute)
		if err := n.g.Healthy(); err == nil || !strings.Contains(err.Error(), "list sandboxes") || !strings.Contains(err.Error(), "last listed") {
			t.Errorf("after 4 min: %v", err)
		}
		n.want("web", "ready | app#0 running")
		hang.Release()
		time.Sleep(2 * time.Second)
		if err := n.g.Healthy(); err != nil {
			t.Error(err)
		}
	})
}

// TestRuntimeIsAwayAtTheStart: the table is not synced, and nobody is told
// that pods are gone.
func TestRuntimeIsAwayAtTheStart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var away *critest.Injection
		n := newNode(t, critest.Config{}, func(n *node) {
			n.runPod("web", "app")
			away = n.r.Inject(critest.Match{}, critest.Fault{Code: codes.Unavailable, Message: "connection refused"})
		})
		time.Sleep(10 * time.Second)
		select {
		case <-n.table.Synced():
			t.Error("synced without a list")
		default:
		}
		if err := n.g.Healthy(); err == nil || !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("health: %v", err)
		}
		away.Release()
		time.Sleep(2 * time.Second)
		n.want("web", "ready | app#0 running")
	})
}

// TestStreamIsTriedAgain: the runtime restarts some times.
func TestStreamIsTriedAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t, critest.Config{}, func(n *node) { n.runPod("web", "app") })
		if n.r.Streams() != 1 {
			t.Fatal("no stream is open")
		}
		for range 3 {
			n.r.Restart()
			time.Sleep(5 * time.Second)
			if n.r.Streams() != 1 {
				t.Fatal("the stream is not open again")
			}
		}
		n.want("web", "ready | app#0 running")
	})
}

// TestNothingHappens counts the calls of an hour in which nothing happens.
func TestNothingHappens(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t, critest.Config{}, func(n *node) {
			for i := range 50 {
				n.runPod(fmt.Sprintf("pod-%d", i), "app")
			}
		})
		time.Sleep(65 * time.Second) // between two lists
		before := n.r.Counts()
		n.mu.Lock()
		clear(n.changes)
		n.mu.Unlock()
		time.Sleep(time.Hour)
		for method, count := range n.r.Counts() {
			want := 0
			if method == "ListPodSandbox" || method == "ListContainers" {
				want = 120
			}
			if got := count - before[method]; got != want {
				t.Errorf("%s: %d calls in an hour, want %d", method, got, want)
			}
		}
		if len(n.changes) > 0 {
			t.Errorf("the table changed: %v", n.changes)
		}
	})
}

// TestCallsOfAStart counts what reading costs when a pod starts, with the
// refresh that the lifecycle makes after each action.
func TestCallsOfAStart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t, critest.Config{}, nil)
		before := n.r.Counts()
		ctx := t.Context()
		refresh := func() {
			time.Sleep(time.Millisecond)
			if err := n.g.Refresh(ctx, uidOf("web")); err != nil {
				t.Fatal(err)
			}
		}
		sandbox := critest.SandboxConfig("default", "web", string(uidOf("web")), 0)
		sid, err := n.c.RunPodSandbox(ctx, sandbox, "")
		if err != nil {
			t.Fatal(err)
		}
		refresh()
		id, err := n.c.CreateContainer(ctx, sid, critest.ContainerConfig(sandbox, "app", "img", 0), sandbox)
		if err != nil {
			t.Fatal(err)
		}
		if err := n.c.StartContainer(ctx, id); err != nil {
			t.Fatal(err)
		}
		refresh()
		time.Sleep(time.Second)
		for method, most := range map[string]int{"ListPodSandbox": 2, "ListContainers": 2, "PodSandboxStatus": 2, "ContainerStatus": 2} {
			if got := n.r.Calls(method) - before[method]; got != most {
				t.Errorf("%s: %d calls, want %d", method, got, most)
			}
		}
		n.want("web", "ready | app#0 running")
	})
}

func TestWhatIsGoneIsForgotten(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t, critest.Config{}, nil)
		for i := range 100 {
			pod := fmt.Sprintf("pod-%d", i)
			sid, _ := n.runPod(pod, "app")
			if err := n.g.Refresh(t.Context(), uidOf(pod)); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if err := n.c.StopPodSandbox(t.Context(), sid); err != nil {
				t.Fatal(err)
			}
			if err := n.c.RemovePodSandbox(t.Context(), sid); err != nil {
				t.Fatal(err)
			}
			if err := n.g.Refresh(t.Context(), uidOf(pod)); err != nil {
				t.Fatal(err)
			}
			n.want(pod, " | ")
		}
		time.Sleep(time.Minute)
		if len(n.table.List()) != 0 || len(n.g.pods) != 0 || n.exits.watched() != 0 {
			t.Errorf("left: %d pods in the table, %d in the generator, %d watches", len(n.table.List()), len(n.g.pods), n.exits.watched())
		}
	})
}

// TestEndedStaysEnded: an answer that was on its way when the end became known
// does not bring the container back to life.
func TestEndedStaysEnded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t, critest.Config{}, nil)
		n.runPod("web", "app")
		// The status that the refresh asks for says running, and comes late.
		late := n.r.Inject(critest.Match{Method: "ContainerStatus", Nth: 1}, critest.Fault{Hang: true, Effect: critest.EffectFirst})
		done := make(chan error, 1)
		go func() { done <- n.g.Refresh(context.Background(), uidOf("web")) }()
		<-late.Reached()
		time.Sleep(3 * time.Second) // the list's word is taken for now
		n.want("web", "ready | app#0 running")
		n.r.Exit("web", "app", 5, "")
		synctest.Wait()
		n.want("web", "ready | app#0 exited 5")
		late.Release()
		if err := <-done; err != nil {
			t.Error(err)
		}
		n.want("web", "ready | app#0 exited 5")
	})
}

func TestForeignContainersAreLeftOut(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t, critest.Config{}, func(n *node) {
			sandbox := &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Name: "crictl", Namespace: "default", Uid: "x"}}
			if _, err := n.c.RunPodSandbox(context.Background(), sandbox, ""); err != nil {
				t.Fatal(err)
			}
		})
		time.Sleep(time.Minute)
		if l := n.table.List(); len(l) != 0 {
			t.Errorf("table: %v", l)
		}
	})
}

// TestHostileLists: lists with nothing in them where something should be.
func TestHostileLists(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t, critest.Config{}, func(n *node) { n.runPod("web", "app") })
		n.r.Inject(critest.Match{Method: "ListContainers"}, critest.Fault{Lie: func(m proto.Message) {
			for _, c := range m.(*runtimeapi.ListContainersResponse).Containers {
				labels := c.Labels
				proto.Reset(c)
				c.Labels = labels
			}
		}})
		_ = n.g.Refresh(t.Context(), uidOf("web"))
		time.Sleep(time.Minute)
		if n.table.Get(uidOf("web")).Latest("app") == nil {
			t.Error("the container is gone")
		}
	})
}
