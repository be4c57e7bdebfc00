package status

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubelet/internal/observed"
	"kubelet/internal/podspec"
)

// Pods live random lives under a runtime that loses records and does not always
// know. (Late answers do not pass the observed table.) Whatever it says, a status is the same when it is
// made twice, never goes backwards, and is final when the pod has ended.
func TestRandomLives(t *testing.T) {
	for seed := range uint64(150) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { randomLife(t, rand.New(rand.NewPCG(seed, 1))) })
	}
}

func randomLife(t *testing.T, r *rand.Rand) {
	policies := []v1.RestartPolicy{v1.RestartPolicyAlways, v1.RestartPolicyOnFailure, v1.RestartPolicyNever}
	always := v1.ContainerRestartPolicyAlways
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u", Generation: 1}}
	pod.Spec.RestartPolicy = policies[r.IntN(3)]
	pod.Spec.Containers = []v1.Container{{Name: "a", Image: "a"}, {Name: "b", Image: "b"}}
	if r.IntN(2) == 0 {
		pod.Spec.InitContainers = []v1.Container{{Name: "i", Image: "i"}, {Name: "s", Image: "s", RestartPolicy: &always}}
	}
	var names []string
	podspec.EachContainer(pod, func(c *v1.Container, _ podspec.Kind) bool { names = append(names, c.Name); return true })

	truth := map[string][]observed.Container{} // newest first
	var previous v1.PodStatus
	now := start
	in := Input{PodResources: true, Pod: pod, RuntimeName: "containerd", HostIPs: []string{"10.0.0.1"}}
	for range 60 {
		now = now.Add(time.Duration(r.IntN(5000)) * time.Millisecond)
		name := names[r.IntN(len(names))]
		records := truth[name]
		switch {
		case in.Ended:
		case len(records) == 0 || records[0].State == observed.Exited:
			attempt := uint32(len(records))
			if old := find(append(append([]v1.ContainerStatus(nil), previous.ContainerStatuses...), previous.InitContainerStatuses...), name); old != nil && everStarted(old) {
				attempt = max(attempt, uint32(old.RestartCount)+1)
			}
			truth[name] = append([]observed.Container{{
				ID: fmt.Sprintf("%s-%d-%d", name, attempt, r.Uint32()), Name: name, SandboxID: "s", State: observed.Created, Attempt: attempt, CreatedAt: now,
			}}, records...)
		case records[0].State == observed.Created:
			records[0].State, records[0].StartedAt = observed.Running, now
		default:
			records[0].State, records[0].FinishedAt, records[0].ExitCode = observed.Exited, now, int32(r.IntN(2))
		}
		if r.IntN(15) == 0 { // lost for ever
			truth[name] = nil
		}
		answer := observed.Pod{Sandboxes: []observed.Sandbox{{ID: "s", Ready: r.IntN(8) > 0, IPs: []string{"10.1.0.1"}}}}
		for _, n := range names {
			answer.Containers = append(answer.Containers, truth[n]...)
		}
		if r.IntN(12) == 0 { // does not know
			answer.Containers = append([]observed.Container(nil), answer.Containers...)
			for i := range answer.Containers {
				answer.Containers[i].State = observed.Unknown
			}
		}
		in.Waiting = nil
		if r.IntN(3) == 0 {
			in.Waiting = map[string]v1.ContainerStateWaiting{name: {Reason: "CrashLoopBackOff"}}
		}
		in.Terminating = in.Terminating || r.IntN(40) == 0
		if in.Terminating && r.IntN(4) == 0 {
			in.Ended = true
			for _, n := range names { // then nothing runs
				if l := truth[n]; len(l) > 0 && l[0].State != observed.Exited {
					l[0].State, l[0].FinishedAt = observed.Exited, now
				}
			}
		}
		in.Observed, in.Previous, in.Now = answer, previous, now
		got := Generate(in)

		again := in
		again.Previous, again.Now = got, now.Add(time.Hour)
		if second := Generate(again); !apiequality.Semantic.DeepEqual(got, second) {
			t.Fatalf("made twice, it differs:\n%s", cmp.Diff(got, second))
		}
		if previous.Phase != "" {
			if _, violations := forward(previous, got); len(violations) > 0 {
				t.Fatalf("backwards: %q\nfrom %+v\nto %+v\nobserved %+v", violations, previous.ContainerStatuses, got.ContainerStatuses, answer.Containers)
			}
			if previous.Phase == v1.PodRunning && got.Phase == v1.PodPending {
				t.Fatal("Running to Pending")
			}
		}
		if podspec.IsTerminalPhase(got.Phase) && !in.Ended {
			t.Fatal("terminal before the end")
		}
		if podspec.IsTerminalPhase(got.Phase) {
			for _, c := range got.Conditions {
				if (c.Type == v1.PodReady || c.Type == v1.ContainersReady) && c.Status != v1.ConditionFalse {
					t.Fatalf("%s is %s at the end", c.Type, c.Status)
				}
			}
		}
		previous = got
	}
}
