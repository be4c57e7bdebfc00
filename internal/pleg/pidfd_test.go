package pleg

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"kubelet/internal/cri"
	"kubelet/internal/cri/critest"
	"kubelet/internal/observed"
)

// wait fails the test if ch stays silent.
func wait[T any](t *testing.T, what string, ch <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-ch:
	case <-time.After(10 * time.Second):
		t.Fatalf("timed out waiting for %s", what)
	}
	return v
}

// child starts a process that runs until it is killed. It is reaped only by
// reap: until then its pid is taken.
func child(t *testing.T) (pid int, kill, reap func()) {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = func() { _ = cmd.Process.Signal(syscall.SIGKILL) }
	reap = sync.OnceFunc(func() { _ = cmd.Wait() })
	t.Cleanup(func() { kill(); reap() })
	return cmd.Process.Pid, kill, reap
}

func startPidfds(t *testing.T) *pidfds {
	t.Helper()
	s, err := newPidfds()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := wait(t, "the epoll loop", done); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestPidfds(t *testing.T) {
	s := startPidfds(t)
	ended := make(chan string, 10)
	watch := func(name string, pid int) Process {
		p, err := s.Open(pid)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Notify(func() { ended <- name }); err != nil {
			t.Fatal(err)
		}
		return p
	}
	pid1, kill1, reap1 := child(t)
	pid2, kill2, _ := child(t)
	pid3, kill3, reap3 := child(t)
	watch("one", pid1)
	dropped := watch("two", pid2)
	dropped.Close()
	dropped.Close()

	kill2()
	kill1()
	if got := wait(t, "the first exit", ended); got != "one" {
		t.Errorf("%q ended", got)
	}
	reap1()
	if _, err := s.Open(pid1); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("a process that is gone: %v", err)
	}

	// One that ended before the watch began.
	p, err := s.Open(pid3)
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := p.Leads(); ok || err != nil {
		t.Errorf("the first process of a PID namespace: %v, %v", ok, err)
	}
	if ok, err := p.BelongsTo("no-such-cgroup"); ok || err != nil {
		t.Errorf("in a cgroup that is not there: %v, %v", ok, err)
	}
	kill3()
	reap3()
	if _, err := p.BelongsTo("x"); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the cgroup of a process that is gone: %v", err)
	}
	if err := p.Notify(func() { ended <- "three" }); err != nil {
		t.Fatal(err)
	}
	if got := wait(t, "the exit that was earlier", ended); got != "three" {
		t.Errorf("%q ended", got)
	}
}

func TestPIDNamespace(t *testing.T) {
	if shared, err := sharesPIDNamespace(os.Getpid()); !shared || err != nil {
		t.Errorf("our own: %v, %v", shared, err)
	}
	if shared, err := sharesPIDNamespace(0); shared || err != nil {
		t.Errorf("a runtime that is not visible: %v, %v", shared, err)
	}
}

func TestNamesOne(t *testing.T) {
	const id, uid = "3f2a9c", "1b4e28ba-2fa1-11d2-883f-0016d3cca427"
	for cgroup, want := range map[string]bool{
		"0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1b4e28ba_2fa1_11d2_883f_0016d3cca427.slice/cri-containerd-3f2a9c.scope\n": true,
		"0::/kubepods.slice/kubepods-pod1b4e28ba_2fa1_11d2_883f_0016d3cca427.slice/kata_overhead\n":                                                  true,
		"12:pids:/\n4:memory:/kubepods/besteffort/pod1b4e28ba-2fa1-11d2-883f-0016d3cca427/3f2a9c\n":                                                  true,
		"0::/../../3f2a9c/init.scope\n":   true,
		"0::/system.slice/sshd.service\n": false,
		"1:name=3f2a9c:/user.slice\n":     false,
		"":                                false,
		"garbage 3f2a9c":                  false,
		"0::/kubepods/pod-of-another/deadbeef0000\n": false,
	} {
		if got := namesOne(cgroup, []string{id, uid, ""}); got != want {
			t.Errorf("%q: %v", cgroup, got)
		}
	}
}

// anyCgroup takes processes of the test for processes of containers.
type anyCgroup struct{ ProcessExits }

func (a anyCgroup) Open(pid int) (Process, error) {
	p, err := a.ProcessExits.Open(pid)
	if err != nil {
		return nil, err
	}
	return anyCgroupProcess{p}, nil
}

type anyCgroupProcess struct{ Process }

func (anyCgroupProcess) BelongsTo(...string) (bool, error) { return true, nil }

// TestOverSocket is the whole path on a real socket, with real processes
// behind the containers and a stream of events that stays silent: 110 pods,
// one of which hangs, and the others' exits are seen.
func TestOverSocket(t *testing.T) {
	const pods = 110
	type proc struct{ kill, reap func() }
	var mu sync.Mutex
	byID := map[string]proc{}
	r := critest.New(critest.Config{Start: func(id string) int {
		if id[0] != 'c' {
			return 0 // sandboxes have fake processes
		}
		pid, kill, reap := child(t)
		mu.Lock()
		byID[id] = proc{kill, reap}
		mu.Unlock()
		return pid
	}})
	defer r.Close()
	path := filepath.Join(t.TempDir(), "cri.sock")
	stop, err := r.Serve(path)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	c, err := cri.New(cri.Config{Endpoint: "unix://" + path})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r.AddImage("img")
	r.MuteEvents(true)

	ids := map[types.UID]string{}
	ctx := t.Context()
	for i := range pods {
		pod := fmt.Sprintf("pod-%d", i)
		sandbox := critest.SandboxConfig("default", pod, string(uidOf(pod)), 0)
		sid, err := c.RunPodSandbox(ctx, sandbox, "")
		if err != nil {
			t.Fatal(err)
		}
		id, err := c.CreateContainer(ctx, sid, critest.ContainerConfig(sandbox, "app", "img", 0), sandbox)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.StartContainer(ctx, id); err != nil {
			t.Fatal(err)
		}
		ids[uidOf(pod)] = id
	}
	hang := r.Inject(critest.Match{Method: "ContainerStatus", Pod: "pod-0"}, critest.Fault{Hang: true})

	changed := make(chan types.UID, 10*pods)
	table := observed.NewTable(func(uid types.UID) { changed <- uid })
	g, err := New(Config{Runtime: c, Table: table, Exits: anyCgroup{startPidfds(t)}, RelistPeriod: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	runCtx, cancel := context.WithCancel(klog.NewContext(context.Background(), klog.Logger{}))
	done := make(chan error, 1)
	go func() { done <- g.Run(runCtx) }()
	defer func() {
		cancel()
		if err := wait(t, "the end of Run", done); err != nil {
			t.Error(err)
		}
	}()
	<-hang.Reached()
	for seen := map[types.UID]bool{}; len(seen) < pods; { // pod-0 from its list entry
		seen[wait(t, "the first reads", changed)] = true
	}
	wait(t, "the first list", table.Synced())
	// A pod is stored before its process is watched. A refresh that finds
	// nothing to watch comes after that.
	for i := 1; i < pods; i++ {
		uid := uidOf(fmt.Sprintf("pod-%d", i))
		for !watches(g, uid, ids[uid]) {
			if err := g.Refresh(ctx, uid); err != nil {
				t.Fatal(err)
			}
		}
	}
	for len(changed) > 0 {
		<-changed
	}

	lists := r.Calls("ListContainers")
	var slowest time.Duration
	for i := 1; i < pods; i++ {
		pod := fmt.Sprintf("pod-%d", i)
		uid := uidOf(pod)
		begin := time.Now()
		mu.Lock()
		p := byID[ids[uid]]
		mu.Unlock()
		p.kill()
		r.Exit(pod, "app", 137, "")
		for wait(t, "the exit of "+pod, changed) != uid {
		}
		slowest = max(slowest, time.Since(begin))
		p.reap()
		if c := table.Get(uid).Latest("app"); c.State != observed.Exited || c.ExitCode != 137 {
			t.Fatalf("%s: %+v", pod, c)
		}
	}
	t.Logf("slowest of %d exits: %v after the kill", pods-1, slowest)
	if n := r.Calls("ListContainers") - lists; n > 0 {
		t.Errorf("the runtime was asked for a list %d times, the processes' ends alone were to tell", n)
	}
	if err := g.Healthy(); err != nil {
		t.Error(err)
	}
	if p := table.Get(uidOf("pod-0")); p.Latest("app") == nil || p.Latest("app").State != observed.Running {
		t.Errorf("the hung pod: %+v", p)
	}
}

// watches says whether the process of a container is watched.
func watches(g *Generator, uid types.UID, id string) bool {
	g.mu.Lock()
	p := g.pods[uid]
	g.mu.Unlock()
	p.store.Lock()
	defer p.store.Unlock()
	w := p.watches[id]
	return w != nil && w.process != nil
}

func FuzzNamesOne(f *testing.F) {
	f.Add([]byte("0::/kubepods/x\n"))
	f.Add([]byte("::\n:"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if namesOne(string(b), []string{"needle"}) && !bytes.Contains(b, []byte("needle")) {
			t.Error("found what is not there")
		}
	})
}
