package node

import (
	"encoding/json"
	"fmt"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
)

// statusPatch returns the strategic merge patch for nodes/status that makes
// before into after: labels, annotations and status. What others may have
// written meanwhile stays: maps and conditions are merged by key.
// https://kubernetes.io/docs/tasks/manage-kubernetes-objects/update-api-object-kubectl-patch/
func statusPatch(before, after *v1.Node) ([]byte, error) {
	type object = map[string]any
	metadata, status := object{}, object{}
	for field, change := range map[string]object{
		"labels":      mapChange(before.Labels, after.Labels),
		"annotations": mapChange(before.Annotations, after.Annotations),
	} {
		if len(change) > 0 {
			metadata[field] = change
		}
	}
	old, now := &before.Status, &after.Status
	for field, change := range map[string]object{
		"capacity":    mapChange(old.Capacity, now.Capacity),
		"allocatable": mapChange(old.Allocatable, now.Allocatable),
	} {
		if len(change) > 0 {
			status[field] = change
		}
	}
	var conditions []v1.NodeCondition
	var order []object
	added := false
	for _, condition := range now.Conditions {
		at := conditionAt(old.Conditions, condition.Type)
		if at < 0 || !equality.Semantic.DeepEqual(old.Conditions[at], condition) {
			conditions = append(conditions, condition)
		}
		added = added || at < 0
		order = append(order, object{"type": condition.Type})
	}
	if len(conditions) > 0 {
		status["conditions"] = conditions
	}
	if added {
		status["$setElementOrder/conditions"] = order
	}
	if !equality.Semantic.DeepEqual(old.Addresses, now.Addresses) {
		// The merge key of addresses is their type, which a dual-stack node
		// has twice: merging would lose one, so the list is replaced.
		list := make([]any, 0, len(now.Addresses)+1)
		for _, address := range now.Addresses {
			list = append(list, address)
		}
		status["addresses"] = append(list, object{"$patch": "replace"})
	}
	set := func(field string, old, now any, empty bool) {
		switch {
		case equality.Semantic.DeepEqual(old, now):
		case empty:
			status[field] = nil
		default:
			status[field] = now
		}
	}
	// Lists without a merge key are replaced as a whole.
	set("images", old.Images, now.Images, len(now.Images) == 0)
	set("runtimeHandlers", old.RuntimeHandlers, now.RuntimeHandlers, len(now.RuntimeHandlers) == 0)
	set("declaredFeatures", old.DeclaredFeatures, now.DeclaredFeatures, len(now.DeclaredFeatures) == 0)
	set("features", old.Features, now.Features, now.Features == nil)
	set("daemonEndpoints", old.DaemonEndpoints, now.DaemonEndpoints, false)
	if !equality.Semantic.DeepEqual(old.NodeInfo, now.NodeInfo) {
		status["nodeInfo"] = nodeInfo{now.NodeInfo, now.NodeInfo.Swap}
	}

	patch := object{}
	if len(metadata) > 0 {
		patch["metadata"] = metadata
	}
	if len(status) > 0 {
		patch["status"] = status
	}
	raw, err := json.Marshal(patch)
	if err != nil {
		return nil, fmt.Errorf("encode patch of node %s: %w", after.Name, err)
	}
	return raw, nil
}

// mapChange returns what to merge into before to get after; nil removes.
func mapChange[K ~string, V any](before, after map[K]V) map[string]any {
	change := make(map[string]any)
	for key, value := range after {
		old, ok := before[key]
		if !ok || !equality.Semantic.DeepEqual(old, value) {
			change[string(key)] = value
		}
	}
	for key := range before {
		if _, ok := after[key]; !ok {
			change[string(key)] = nil
		}
	}
	return change
}

// nodeInfo is v1.NodeSystemInfo with null for swap that is gone.
type nodeInfo struct {
	v1.NodeSystemInfo
	Swap *v1.NodeSwapStatus `json:"swap"`
}
