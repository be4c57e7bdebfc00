package pleg

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	"kubelet/internal/cri/critest"
	"kubelet/internal/observed"
)

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
