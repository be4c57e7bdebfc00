package node

import (
	"fmt"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// setConditions returns previous with the kubelet's own conditions at their
// newest; those of others stay as they are. Ready comes last, where version
// skewed controllers expect it.
//
// The pressure conditions are False until eviction measures them.
func setConditions(previous []v1.NodeCondition, problems []error, now time.Time) []v1.NodeCondition {
	own := []v1.NodeCondition{
		{Type: v1.NodeMemoryPressure, Status: v1.ConditionFalse, Reason: "KubeletHasSufficientMemory",
			Message: "kubelet has sufficient memory available"},
		{Type: v1.NodeDiskPressure, Status: v1.ConditionFalse, Reason: "KubeletHasNoDiskPressure",
			Message: "kubelet has no disk pressure"},
		{Type: v1.NodePIDPressure, Status: v1.ConditionFalse, Reason: "KubeletHasSufficientPID",
			Message: "kubelet has sufficient PID available"},
		readyCondition(problems),
	}
	out := append(make([]v1.NodeCondition, 0, len(previous)+len(own)), previous...)
	for _, condition := range own {
		condition.LastHeartbeatTime = metav1.NewTime(now)
		condition.LastTransitionTime = condition.LastHeartbeatTime
		at := conditionAt(out, condition.Type)
		if at < 0 {
			out = append(out, condition)
			continue
		}
		if out[at].Status == condition.Status {
			condition.LastTransitionTime = out[at].LastTransitionTime
		}
		out[at] = condition
	}
	return out
}

func readyCondition(problems []error) v1.NodeCondition {
	if len(problems) == 0 {
		return v1.NodeCondition{Type: v1.NodeReady, Status: v1.ConditionTrue, Reason: "KubeletReady",
			Message: "kubelet is posting ready status"}
	}
	messages := make([]string, len(problems))
	for i, problem := range problems {
		messages[i] = problem.Error()
	}
	message := strings.Join(messages, ", ")
	if len(messages) > 1 {
		message = "[" + message + "]"
	}
	return v1.NodeCondition{Type: v1.NodeReady, Status: v1.ConditionFalse, Reason: "KubeletNotReady", Message: message}
}

func conditionAt(conditions []v1.NodeCondition, kind v1.NodeConditionType) int {
	for i := range conditions {
		if conditions[i].Type == kind {
			return i
		}
	}
	return -1
}

func isReady(node *v1.Node) bool {
	at := conditionAt(node.Status.Conditions, v1.NodeReady)
	return at >= 0 && node.Status.Conditions[at].Status == v1.ConditionTrue
}

// event is an event about the node.
type event struct{ kind, reason, message string }

// transitions returns the events that tell of what changed between two states
// of a node, with upstream's reasons.
func transitions(before, after *v1.Node) []event {
	var out []event
	status := func(reason string) {
		out = append(out, event{v1.EventTypeNormal, reason, fmt.Sprintf("Node %s status is now: %s", after.Name, reason)})
	}
	for _, condition := range after.Status.Conditions {
		at := conditionAt(before.Status.Conditions, condition.Type)
		if at >= 0 && before.Status.Conditions[at].Status == condition.Status {
			continue
		}
		is := condition.Status == v1.ConditionTrue
		switch condition.Type {
		case v1.NodeReady:
			if at < 0 && !is {
				// A node that is new was never ready.
				continue
			}
			status(choose(is, "NodeReady", "NodeNotReady"))
		case v1.NodeMemoryPressure:
			status(choose(is, "NodeHasInsufficientMemory", "NodeHasSufficientMemory"))
		case v1.NodeDiskPressure:
			status(choose(is, "NodeHasDiskPressure", "NodeHasNoDiskPressure"))
		case v1.NodePIDPressure:
			status(choose(is, "NodeHasInsufficientPID", "NodeHasSufficientPID"))
		}
	}
	boot := after.Status.NodeInfo.BootID
	if old := before.Status.NodeInfo.BootID; old != "" && old != boot {
		out = append(out, event{v1.EventTypeWarning, "Rebooted",
			fmt.Sprintf("Node %s has been rebooted, boot id: %s", after.Name, boot)})
	}
	return out
}

func choose(condition bool, yes, no string) string {
	if condition {
		return yes
	}
	return no
}
