package pleg

import (
	"context"
	"errors"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"kubelet/internal/cri"
	"kubelet/internal/cri/critest"
)

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

// TestLostSandboxIsListedLate: the process of a sandbox is gone, its status says
// so, and the list says so later.
func TestLostSandboxIsListedLate(t *testing.T) {
	const lag = 300 * time.Millisecond
	bubble(t, func(t *testing.T) {
		n := newNode(t, critest.Config{NoEvents: true}, func(n *node) { n.runPod("web", "app") })
		pid := n.r.Sandboxes("web")[0].Pid
		n.lagging.behind.Store(true)
		n.r.KillSandbox("web")
		n.exits.end(pid)
		time.Sleep(lag)
		n.want("web", "ready | app#0 running")
		n.lagging.behind.Store(false)
		time.Sleep(lag / 4)
		synctest.Wait()
		n.want("web", "not ready | app#0 running")
		// And that is the end of it.
		calls := n.r.Calls("PodSandboxStatus")
		time.Sleep(20 * time.Second)
		if more := n.r.Calls("PodSandboxStatus") - calls; more > 0 {
			t.Errorf("the sandbox was asked for %d times more", more)
		}
	})
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

// TestStatusContradictsTheList: listed as ended, while its status says that it
// runs. That is no answer, and it is asked again until the two agree.
func TestStatusContradictsTheList(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t, critest.Config{NoEvents: true}, func(n *node) { n.runPod("web", "app") })
		lie := n.r.Inject(critest.Match{Method: "ContainerStatus"}, critest.Fault{Lie: critest.SayRunning})
		n.r.Exit("web", "app", 2, "")
		if err := n.g.Refresh(t.Context(), uidOf("web")); err == nil || !strings.Contains(err.Error(), "listed as exited") {
			t.Errorf("refresh: %v", err)
		}
		n.want("web", "ready | app#0 running")
		time.Sleep(10 * time.Second)
		lie.Release()
		time.Sleep(20 * time.Second)
		n.want("web", "ready | app#0 exited 2")
	})
}

// TestLateCreate: a create that ran past its deadline and completes is seen
// without anybody asking.
func TestLateCreate(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t, critest.Config{}, nil)
		sandboxID, _ := n.runPod("web", "app")
		n.r.Inject(critest.Match{Method: "CreateContainer", Container: "late"}, critest.Fault{Hang: true, Effect: critest.EffectLate, Late: 3 * time.Minute})
		sandbox := critest.SandboxConfig("default", "web", string(uidOf("web")), 0)
		if _, err := n.c.CreateContainer(t.Context(), sandboxID, critest.ContainerConfig(sandbox, "late", "img", 0), sandbox); !cri.IsUnknown(err) {
			t.Fatal(err)
		}
		n.want("web", "ready | app#0 running")
		time.Sleep(time.Minute + ownActionTime)
		synctest.Wait()
		n.want("web", "ready | late#0 created, app#0 running")
	})
}
