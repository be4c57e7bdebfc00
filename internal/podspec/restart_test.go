package podspec

import (
	"testing"

	v1 "k8s.io/api/core/v1"
)

func rule(action v1.ContainerRestartRuleAction, op v1.ContainerRestartRuleOnExitCodesOperator, codes ...int32) v1.ContainerRestartRule {
	return v1.ContainerRestartRule{Action: action, ExitCodes: &v1.ContainerRestartRuleOnExitCodes{Operator: op, Values: codes}}
}

const (
	restart    = v1.ContainerRestartRuleActionRestart
	restartAll = v1.ContainerRestartRuleActionRestartAllContainers
	in         = v1.ContainerRestartRuleOnExitCodesOpIn
	notIn      = v1.ContainerRestartRuleOnExitCodesOpNotIn
)

func TestRestarts(t *testing.T) {
	tests := []struct {
		name   string
		policy v1.RestartPolicy
		own    string // the container's policy
		rules  []v1.ContainerRestartRule
		kind   Kind
		code   int32
		want   bool
	}{
		{"always", "Always", "", nil, Regular, 0, true},
		{"default is always", "", "", nil, Regular, 0, true},
		{"on failure, failed", "OnFailure", "", nil, Regular, 1, true},
		{"on failure, succeeded", "OnFailure", "", nil, Regular, 0, false},
		{"never", "Never", "", nil, Regular, 1, false},
		{"own policy wins", "Never", "Always", nil, Regular, 0, true},
		{"own policy wins the other way", "Always", "Never", nil, Regular, 1, false},
		{"own on failure", "Always", "OnFailure", nil, Regular, 0, false},
		{"rule matches", "Never", "Never", []v1.ContainerRestartRule{rule(restart, in, 42)}, Regular, 42, true},
		{"rule does not match", "Always", "Never", []v1.ContainerRestartRule{rule(restart, in, 42)}, Regular, 1, false},
		{"rule by exclusion", "Never", "Never", []v1.ContainerRestartRule{rule(restart, notIn, 0)}, Regular, 7, true},
		{"second rule", "Never", "Never", []v1.ContainerRestartRule{rule(restart, in, 1), rule(restartAll, in, 2)}, Regular, 2, true},
		{"unknown operator", "Never", "Never", []v1.ContainerRestartRule{rule(restart, "Maybe", 1)}, Regular, 1, false},
		{"rule without codes", "Never", "Never", []v1.ContainerRestartRule{{Action: restart}}, Regular, 1, false},
		{"init container succeeded", "Always", "", nil, Init, 0, false},
		{"init container failed", "OnFailure", "", nil, Init, 1, true},
		{"init container failed for good", "Never", "", nil, Init, 1, false},
		{"init container with a policy", "Never", "OnFailure", nil, Init, 1, true},
		{"sidecar", "Never", "Always", nil, Init, 0, true},
		{"ephemeral", "Always", "", nil, Ephemeral, 1, false},
	}
	for _, tt := range tests {
		pod := &v1.Pod{Spec: v1.PodSpec{RestartPolicy: tt.policy}}
		c := &v1.Container{RestartPolicyRules: tt.rules}
		if tt.own != "" {
			c.RestartPolicy = new(v1.ContainerRestartPolicy(tt.own))
		}
		if got := Restarts(pod, c, tt.kind, tt.code); got != tt.want {
			t.Errorf("%s: restarted %v, want %v", tt.name, got, tt.want)
		}
	}
}

// Fields whose gate is off do nothing; other specs are not even copied.
func TestWithout(t *testing.T) {
	always, never := v1.ContainerRestartPolicyAlways, v1.ContainerRestartPolicyNever
	signal := v1.SIGUSR1
	spec := func() *v1.Pod {
		return &v1.Pod{Spec: v1.PodSpec{
			InitContainers: []v1.Container{{Name: "sidecar", RestartPolicy: &always}, {Name: "init", RestartPolicy: &never}},
			Containers: []v1.Container{{Name: "main", RestartPolicy: &never, Lifecycle: &v1.Lifecycle{StopSignal: &signal},
				RestartPolicyRules: []v1.ContainerRestartRule{rule(restartAll, in, 1), rule(restart, in, 2)}}},
		}}
	}
	pod := spec()
	if got := (Without{}).From(pod); got != pod {
		t.Error("a pod was copied although all gates are on")
	}
	plain := &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{Name: "main"}}}}
	if got := (Without{true, true, true}).From(plain); got != plain {
		t.Error("a pod was copied that sets none of the fields")
	}
	got := Without{RestartAll: true}.From(pod)
	if CanRestartAll(got) || len(got.Spec.Containers[0].RestartPolicyRules) != 1 || got.Spec.Containers[0].Lifecycle.StopSignal == nil {
		t.Errorf("without rules that restart all: %+v", got.Spec.Containers[0])
	}
	got = Without{RestartRules: true, StopSignals: true}.From(pod)
	main := got.Spec.Containers[0]
	if main.RestartPolicy != nil || main.RestartPolicyRules != nil || main.Lifecycle.StopSignal != nil || got.Spec.InitContainers[1].RestartPolicy != nil {
		t.Errorf("without rules and signals: %+v", got.Spec)
	}
	if !IsSidecar(&got.Spec.InitContainers[0]) {
		t.Error("a sidecar is none any more")
	}
	if before := spec(); len(pod.Spec.Containers[0].RestartPolicyRules) != len(before.Spec.Containers[0].RestartPolicyRules) || pod.Spec.Containers[0].RestartPolicy == nil {
		t.Error("the pod itself was changed")
	}
}
