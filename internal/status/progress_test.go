package status

import (
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestOnlyProgress: what a write may wait for, and what it may not.
func TestOnlyProgress(t *testing.T) {
	waiting := v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: reasonCreating}}
	running := v1.ContainerState{Running: &v1.ContainerStateRunning{}}
	ended := func(code int32) v1.ContainerState {
		return v1.ContainerState{Terminated: &v1.ContainerStateTerminated{ExitCode: code}}
	}
	start := metav1.NewTime(time.Unix(1000, 0))
	told := v1.PodStatus{
		Phase: v1.PodPending, StartTime: &start,
		Conditions: []v1.PodCondition{
			{Type: v1.PodReadyToStartContainers, Status: v1.ConditionFalse}, {Type: v1.PodInitialized, Status: v1.ConditionFalse},
			{Type: v1.PodReady, Status: v1.ConditionFalse, Message: "two are missing"},
		},
		InitContainerStatuses: []v1.ContainerStatus{{Name: "init", State: waiting}},
		ContainerStatuses:     []v1.ContainerStatus{{Name: "a", State: waiting}, {Name: "b", State: waiting}},
	}
	tests := map[string]struct {
		change func(*v1.PodStatus)
		want   bool
	}{
		"nothing":                     {func(*v1.PodStatus) {}, true},
		"the sandbox is up":           {func(s *v1.PodStatus) { s.Conditions[0].Status, s.PodIP = v1.ConditionTrue, "10.0.0.1" }, true},
		"an init container runs":      {func(s *v1.PodStatus) { s.InitContainerStatuses[0].State = running }, true},
		"an init container succeeded": {func(s *v1.PodStatus) { s.InitContainerStatuses[0].State = ended(0) }, true},
		"an init container failed":    {func(s *v1.PodStatus) { s.InitContainerStatuses[0].State = ended(1) }, false},
		"one of two containers runs":  {func(s *v1.PodStatus) { s.ContainerStatuses[0].State = running }, true},
		"one fewer is missing":        {func(s *v1.PodStatus) { s.Conditions[2].Message = "one is missing" }, true},
		"a container succeeded":       {func(s *v1.PodStatus) { s.ContainerStatuses[0].State = ended(0) }, false},
		"a container was restarted":   {func(s *v1.PodStatus) { s.ContainerStatuses[0].RestartCount = 1 }, false},
		"a container waits for a pull": {func(s *v1.PodStatus) {
			s.ContainerStatuses[0].State.Waiting = &v1.ContainerStateWaiting{Reason: "ErrImagePull"}
		}, false},
		"the pod runs":                  {func(s *v1.PodStatus) { s.Phase = v1.PodRunning }, false},
		"the pod is ready":              {func(s *v1.PodStatus) { s.Conditions[2].Status = v1.ConditionTrue }, false},
		"the sandbox is lost":           {func(s *v1.PodStatus) { s.Conditions[0].Reason = "gone" }, false},
		"a new generation was observed": {func(s *v1.PodStatus) { s.ObservedGeneration = 2 }, false},
		"somebody's condition":          {func(s *v1.PodStatus) { s.Conditions = append(s.Conditions, v1.PodCondition{Type: "theirs"}) }, false},
		"nothing was told before":       {func(s *v1.PodStatus) { s.StartTime = nil }, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			now := *told.DeepCopy()
			tt.change(&now)
			if got := OnlyProgress(told, now); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

// TestOnlyUnwinding: of a pod that is being deleted, nobody waits for news of
// its sandbox.
func TestOnlyUnwinding(t *testing.T) {
	told := v1.PodStatus{
		Phase: v1.PodRunning, ObservedGeneration: 1,
		Conditions: []v1.PodCondition{
			{Type: v1.PodReadyToStartContainers, Status: v1.ConditionTrue, ObservedGeneration: 1}, {Type: v1.PodReady, Status: v1.ConditionTrue, ObservedGeneration: 1},
		},
		ContainerStatuses: []v1.ContainerStatus{{Name: "a", Ready: true, State: v1.ContainerState{Running: &v1.ContainerStateRunning{}}}},
	}
	tests := map[string]struct {
		change func(*v1.PodStatus)
		want   bool
	}{
		"the deletion was seen": {func(s *v1.PodStatus) { s.ObservedGeneration, s.Conditions[1].ObservedGeneration = 2, 2 }, true},
		"the sandbox is gone":   {func(s *v1.PodStatus) { s.Conditions[0].Status, s.Conditions[0].Reason = v1.ConditionFalse, "gone" }, true},
		"it is not ready":       {func(s *v1.PodStatus) { s.Conditions[1].Status = v1.ConditionFalse }, false},
		"a container ended":     {func(s *v1.PodStatus) { s.ContainerStatuses[0].State.Running = nil }, false},
		"it has ended":          {func(s *v1.PodStatus) { s.Phase = v1.PodFailed }, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			now := *told.DeepCopy()
			tt.change(&now)
			if got := OnlyUnwinding(told, now); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}
