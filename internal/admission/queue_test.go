package admission

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"kubelet/internal/podspec"
)

// bench runs a queue on a node of 2 CPUs inside a synctest bubble and notes
// what it answers, in order.
type bench struct {
	t       *testing.T
	queue   *Queue
	node    atomic.Pointer[v1.Node] // nil for unknown
	answers []string
}

func start(t *testing.T, change func(*Config)) *bench {
	b := &bench{t: t}
	node := defaultNode()
	node.Status.Allocatable[v1.ResourcePods] = resource.MustParse("10")
	b.node.Store(node)
	checks, err := Chain(Options{})
	if err != nil {
		t.Fatal(err)
	}
	config := Config{
		Checks:     checks,
		Node:       func() (*v1.Node, bool) { n := b.node.Load(); return n, n != nil },
		Registerer: prometheus.NewRegistry(),
	}
	if change != nil {
		change(&config)
	}
	if b.queue, err = New(config); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.queue.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	})
	return b
}

// pod is p with a CPU request, age seconds old.
func pod(name, cpu string, age int) *v1.Pod {
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "d", UID: types.UID(name),
			CreationTimestamp: metav1.NewTime(time.Unix(1_000_000-int64(age), 0))},
		Spec: v1.PodSpec{Containers: []v1.Container{{Name: "c", Resources: v1.ResourceRequirements{
			Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu)}}}}},
	}
}

func static(p *v1.Pod) *v1.Pod {
	p.Annotations = map[string]string{podspec.SourceAnnotation: podspec.SourceFile}
	return p
}

func (b *bench) request(p *v1.Pod) Request {
	return Request{Pod: p, Answer: func(v Verdict) {
		decision := []string{"accept", "reject", "wait"}[v.Decision]
		b.answers = append(b.answers, strings.TrimSpace(p.Name+" "+decision+" "+v.Reason))
	}}
}

// expect takes the answers since the last call.
func (b *bench) expect(want ...string) {
	b.t.Helper()
	synctest.Wait()
	if diff := cmp.Diff(want, b.answers); diff != "" {
		b.t.Errorf("answers (-want +got):\n%s", diff)
	}
	b.answers = nil
}

func deleting(p *v1.Pod) *v1.Pod {
	p = p.DeepCopy()
	p.DeletionTimestamp = &metav1.Time{Time: time.Unix(1_000_000, 0)}
	return p
}

func TestOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, nil)
		young, old := pod("young", "1", 1), pod("old", "1", 9)
		important := pod("important", "1", 1)
		priority := int32(1000)
		important.Spec.Priority = &priority
		running := b.request(pod("running", "1", 0))
		running.Running = true
		// Accepted earlier, and more than the node has by now: never judged.
		accepted := b.request(pod("accepted", "1", 0))
		accepted.Accepted = true
		b.queue.SubmitAll([]Request{b.request(young), b.request(important), b.request(old), running, accepted})
		b.expect("accepted accept", "running accept", "old reject OutOfcpu", "important reject OutOfcpu", "young reject OutOfcpu")
	})
}

func TestAcceptedIsNeverJudgedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, nil)
		b.node.Store(nil) // and not even a node is needed
		r := b.request(pod("a", "64", 1))
		r.Accepted = true
		b.queue.Submit(r)
		b.expect("a accept")
		b.node.Store(defaultNode())
		b.queue.Recheck()
		b.queue.Update(r.Pod)
		b.expect()
		b.queue.Submit(b.request(r.Pod))
		b.expect("a accept")
		if !b.queue.IsAccepted("a") {
			t.Error("not in the table of accepted pods")
		}
	})
}

func TestWaitsForNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, nil)
		node := b.node.Load()
		b.node.Store(nil)
		b.queue.SubmitAll([]Request{b.request(pod("b", "1", 1)), b.request(pod("a", "1", 2))})
		b.expect("a wait InvalidNodeInfo", "b wait InvalidNodeInfo")
		b.queue.Recheck() // still unknown: nothing new to say
		b.expect()
		b.node.Store(node)
		b.queue.Recheck()
		b.expect("a accept", "b accept")
	})
}

func TestWaitsForPodsThatLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, nil)
		first := pod("first", "1500m", 9)
		b.queue.Submit(b.request(first))
		b.expect("first accept")
		b.queue.Update(deleting(first))
		// next needs what first holds; small would fit beside first, but not
		// beside next, which came before it; tiny fits beside both.
		b.queue.SubmitAll([]Request{b.request(pod("small", "500m", 1)), b.request(pod("next", "1800m", 2)), b.request(pod("tiny", "100m", 0))})
		b.expect("next wait OutOfcpu", "small wait OutOfcpu", "tiny wait OutOfcpu")
		b.queue.Forget(first.UID)
		b.expect("next accept", "small reject OutOfcpu", "tiny accept")
	})
}

// A static pod has no deletion timestamp when its file goes.
func TestLeavingStaticPod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, nil)
		b.queue.Submit(b.request(static(pod("s1", "2", 1))))
		b.queue.Leaving("s1")
		b.expect("s1 accept")
		b.queue.Leaving("s1")
		b.queue.Submit(b.request(static(pod("s2", "2", 1))))
		b.expect("s2 wait OutOfcpu")
		b.queue.Forget("s1")
		b.expect("s2 accept")
	})
}

func TestStaticPodsDoNotWaitForOtherSources(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ready := make(chan struct{})
		b := start(t, func(c *Config) { c.Ready = ready })
		known := b.request(pod("known", "100m", 1))
		known.Accepted = true
		b.queue.SubmitAll([]Request{b.request(pod("api", "100m", 5)), b.request(static(pod("static", "100m", 0))), known})
		b.expect("known accept", "static accept")
		close(ready)
		b.expect("api accept")
	})
}

func TestForgottenPodIsNotAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, nil)
		node := b.node.Load()
		b.node.Store(nil)
		b.queue.Submit(b.request(pod("a", "1", 1)))
		b.expect("a wait InvalidNodeInfo")
		b.queue.Forget("a")
		b.node.Store(node)
		b.queue.Recheck()
		b.expect()
	})
}

func TestLabelsAreReadAfreshBeforeRejection(t *testing.T) {
	selecting := func() *v1.Pod {
		p := pod("picky", "1", 1)
		p.Spec.NodeSelector = map[string]string{"disk": "ssd"}
		return p
	}
	for name, c := range map[string]struct {
		refresh func(ctx context.Context) (*v1.Node, error)
		want    []string
	}{
		"the label is there by now": {func(context.Context) (*v1.Node, error) {
			n := defaultNode()
			n.Labels["disk"] = "ssd"
			return n, nil
		}, []string{"picky wait NodeAffinity", "other accept", "picky accept"}},
		"the label is not there": {func(context.Context) (*v1.Node, error) { return defaultNode(), nil },
			[]string{"picky wait NodeAffinity", "other accept", "picky reject NodeAffinity"}},
		"the API server hangs": {func(ctx context.Context) (*v1.Node, error) { <-ctx.Done(); return nil, ctx.Err() },
			[]string{"picky wait NodeAffinity", "other accept", "picky reject NodeAffinity"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				asked := 0
				b := start(t, func(config *Config) {
					config.RefreshNode = func(ctx context.Context) (*v1.Node, error) {
						asked++
						time.Sleep(time.Second)
						return c.refresh(ctx)
					}
				})
				b.queue.Submit(b.request(selecting()))
				synctest.Wait()
				b.queue.Submit(b.request(pod("other", "1", 0))) // not held up by the question
				time.Sleep(time.Minute)
				b.expect(c.want...)
				if asked != 1 {
					t.Errorf("asked %d times", asked)
				}
			})
		})
	}
}

func TestRejectionMetric(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := prometheus.NewRegistry()
		b := start(t, func(c *Config) { c.Registerer = registry })
		b.queue.Submit(b.request(pod("a", "64", 1)))
		b.expect("a reject OutOfcpu")
		// One that is accepted counts elsewhere.
		b.queue.Submit(b.request(pod("b", "1", 1)))
		b.expect("b accept")
		families, err := registry.Gather()
		if err != nil || len(families) != 2 {
			t.Fatalf("%d metric families, %v", len(families), err)
		}
		accepted := families[1].GetMetric()[0]
		if families[1].GetName() != "kubelet_pod_level_resources_admission_total" || len(families[1].GetMetric()) != 1 ||
			accepted.GetLabel()[0].GetValue() != "container_level" || accepted.GetLabel()[1].GetValue() != "burstable" {
			t.Errorf("metric: %v", families[1])
		}
		m := families[0].GetMetric()[0]
		if families[0].GetName() != "kubelet_admission_rejections_total" || m.GetLabel()[0].GetValue() != "OutOfcpu" || m.GetCounter().GetValue() != 1 {
			t.Errorf("metric: %v", families[0])
		}
	})
	for reason, want := range map[string]string{"OutOfpods": "OutOfpods", "OutOfexample.com/x": "OutOfExtendedResources", "NodeAffinity": "Other"} {
		if got := label(reason); got != want {
			t.Errorf("label of %s: %s, want %s", reason, got, want)
		}
	}
}

func BenchmarkSubmit500(b *testing.B) {
	checks, err := Chain(Options{})
	if err != nil {
		b.Fatal(err)
	}
	node := defaultNode()
	node.Status.Allocatable[v1.ResourcePods] = resource.MustParse("1000")
	node.Status.Allocatable[v1.ResourceCPU] = resource.MustParse("1000")
	for b.Loop() {
		q, _ := New(Config{Checks: checks, Node: func() (*v1.Node, bool) { return node, true }})
		ctx, cancel := context.WithCancel(b.Context())
		go q.Run(ctx)
		done := make(chan struct{}, 500)
		var all []Request
		for i := range 500 {
			all = append(all, Request{Pod: pod(fmt.Sprint("p", i), "1m", i), Answer: func(Verdict) { done <- struct{}{} }})
		}
		q.SubmitAll(all)
		for range all {
			<-done
		}
		cancel()
	}
}
