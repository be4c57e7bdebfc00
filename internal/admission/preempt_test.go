package admission

import (
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"
)

func TestPreempt(t *testing.T) {
	data, err := os.ReadFile("testdata/preempt.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Name     string   `json:"name"`
		Places   int64    `json:"places"`
		Held     []v1.Pod `json:"held"`
		Pod      v1.Pod   `json:"pod"`
		Want     []string `json:"want"`
		Rejected string   `json:"rejected"`
		Message  string   `json:"message"`
	}
	if err := yaml.UnmarshalStrict(data, &cases); err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var gone []string
				b := start(t, func(config *Config) {
					config.Preempt = func(p Preemption) {
						if p.For.UID != "critical" || p.Resource == "" {
							t.Errorf("preemption %+v", p)
						}
						gone = append(gone, string(p.Victim))
					}
				})
				if c.Places > 0 {
					b.node.Load().Status.Allocatable[v1.ResourcePods] = *resource.NewQuantity(c.Places, resource.DecimalSI)
				}
				for i := range c.Held {
					r := b.request(&c.Held[i])
					r.Accepted = true
					b.queue.Submit(r)
				}
				synctest.Wait()
				c.Pod.UID = "critical"
				var last Verdict
				r := b.request(&c.Pod)
				r.Answer = func(v Verdict) { last = v }
				b.queue.Submit(r)
				synctest.Wait()
				slices.Sort(gone)
				if diff := cmp.Diff(c.Want, gone); diff != "" && len(c.Want)+len(gone) > 0 {
					t.Errorf("victims (-want +got):\n%s", diff)
				}
				if c.Rejected != "" {
					if last.Decision != Reject || last.Reason != c.Rejected || !strings.Contains(last.Message, c.Message) {
						t.Errorf("answer %+v, want a rejection as %s with %q", last, c.Rejected, c.Message)
					}
					return
				}
				// It is in as soon as those that go have gone.
				for _, h := range c.Held {
					if slices.Contains(gone, string(h.UID)) || h.DeletionTimestamp != nil {
						if last.Decision != Wait || !strings.Contains(last.Message, "which is being stopped") {
							t.Errorf("answer %+v, want to wait for those that go", last)
						}
						b.queue.Forget(h.UID)
						synctest.Wait()
					}
				}
				if last.Decision != Accept {
					t.Errorf("answer %+v, want acceptance", last)
				}
				if diff := cmp.Diff(c.Want, gone, cmp.Transformer("sorted", func(s []string) []string { return slices.Sorted(slices.Values(s)) })); diff != "" && len(c.Want)+len(gone) > 0 {
					t.Errorf("more went while it waited:\n%s", diff)
				}
			})
		})
	}
}

// The room that a critical pod waits for is its own: who comes later waits.
func TestRoomOfACriticalPod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var gone []types.UID
		b := start(t, func(config *Config) {
			config.Preempt = func(p Preemption) { gone = append(gone, p.Victim) }
		})
		b.queue.Submit(b.request(pod("victim", "2", 9)))
		b.expect("victim accept")
		b.queue.Submit(b.request(static(pod("critical", "1500m", 5))))
		b.expect("critical wait OutOfcpu")
		b.queue.Submit(b.request(pod("late", "1", 0)))
		b.expect("late wait OutOfcpu")
		b.queue.Submit(b.request(static(pod("second", "500m", 1))))
		b.expect("second wait OutOfcpu")
		b.queue.Forget("victim")
		b.expect("critical accept", "second accept", "late reject OutOfcpu")
		if diff := cmp.Diff([]types.UID{"victim"}, gone); diff != "" {
			t.Errorf("preempted: %s", diff)
		}
	})
}
