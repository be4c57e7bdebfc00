package pleg

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"kubelet/internal/cri/critest"
)

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
		n.mu.Lock()
		defer n.mu.Unlock()
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

// TestCallsOfAnAction counts what it costs to read only what an action has
// changed, where processes are found without the runtime.
func TestCallsOfAnAction(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t, critest.Config{}, func(n *node) { n.see = true })
		ctx, uid := t.Context(), uidOf("web")
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		before := n.r.Counts()
		costs := func(what string, want map[string]int) {
			t.Helper()
			time.Sleep(5 * time.Second) // what an event asks for comes by then
			now := n.r.Counts()
			for _, method := range []string{"ListPodSandbox", "ListContainers", "PodSandboxStatus", "ContainerStatus"} {
				if got := now[method] - before[method]; got != want[method] {
					t.Errorf("%s: %d calls of %s, want %d", what, got, method, want[method])
				}
			}
			before = now
		}
		sandbox := critest.SandboxConfig("default", "web", string(uid), 0)
		sid, err := n.c.RunPodSandbox(ctx, sandbox, "")
		must(err)
		must(n.g.RefreshSandbox(ctx, uid, sid))
		n.want("web", "ready | ")
		costs("a sandbox", map[string]int{"PodSandboxStatus": 1})

		id, err := n.c.CreateContainer(ctx, sid, critest.ContainerConfig(sandbox, "app", "img", 0), sandbox)
		must(err)
		must(n.c.StartContainer(ctx, id))
		must(n.g.RefreshContainer(ctx, uid, sid, id))
		n.want("web", "ready | app#0 running")
		synctest.Wait()
		if watched := n.exits.watched(); watched != 2 {
			t.Errorf("%d processes are watched, want 2", watched)
		}
		costs("a container", map[string]int{"ContainerStatus": 1})

		must(n.c.StopContainer(ctx, id, 0))
		time.Sleep(time.Millisecond) // the event tells how it ended
		must(n.g.RefreshContainer(ctx, uid, sid, id))
		n.want("web", "ready | app#0 exited 137")
		costs("the end of a container", nil)

		must(n.c.StopPodSandbox(ctx, sid))
		must(n.g.RefreshSandbox(ctx, uid, sid))
		n.want("web", "not ready | app#0 exited 137")
		synctest.Wait() // the event of the sandbox's end has the pod read, perhaps
		must(n.c.RemoveContainer(ctx, id))
		must(n.g.RefreshContainer(ctx, uid, sid, "no-such-container"))
		n.want("web", "not ready | app#0 exited 137")
		must(n.c.RemovePodSandbox(ctx, sid))
		must(n.g.Refresh(ctx, uid))
		n.want("web", " | ")
	})
}

// TestPartsAndWholes: whatever is asked for while a read is under way is
// covered by one that begins later.
func TestPartsAndWholes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := newNode(t, critest.Config{}, nil)
		ctx, uid := t.Context(), uidOf("web")
		sid, _ := n.runPod("web", "app")
		n.r.Inject(critest.Match{Method: "PodSandboxStatus"}, critest.Fault{Delay: time.Second})
		go func() { _ = n.g.RefreshSandbox(ctx, uid, sid) }()
		synctest.Wait()
		id := n.runContainer("web", sid, "second", 0)
		ended := make(chan error, 2)
		go func() { ended <- n.g.RefreshContainer(ctx, uid, sid, id) }()
		go func() { ended <- n.g.Refresh(ctx, uid) }()
		for range 2 {
			if err := <-ended; err != nil {
				t.Error(err)
			}
			n.want("web", "ready | app#0 running, second#0 running")
		}
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
		time.Sleep(65 * time.Second)
		if kept := len(n.g.snapshot()); len(n.table.List()) != 0 || kept != 0 || n.exits.watched() != 0 {
			t.Errorf("left: %d pods in the table, %d in the generator, %d watches", len(n.table.List()), kept, n.exits.watched())
		}
	})
}
