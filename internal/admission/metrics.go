package admission

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

func newRejections() *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kubelet_admission_rejections_total",
		Help: "Pods that this node rejected, by reason.",
	}, []string{"reason"})
}

// label keeps the metric's reasons few, as upstream does: resources with
// names of the cluster's own count as OutOfExtendedResources, and what has no
// dashboard as Other.
func label(reason string) string {
	switch reason {
	case "AppArmor", "PodOSSelectorNodeLabelDoesNotMatch", "PodOSNotSupported", InvalidNodeInfo,
		"InitContainerRestartPolicyForbidden", "SupplementalGroupsPolicyNotSupported", UnexpectedAdmissionError,
		"UnknownReason", "UnexpectedPredicateFailureType",
		"OutOfcpu", "OutOfmemory", "OutOfephemeral-storage", "OutOfpods",
		"PodLevelResourcesNotAdmitted", "PodFeatureUnsupported", "Evicted", "SysctlForbidden",
		"TopologyAffinityError", "NodeShutdown", "VolumeAttachmentLimitExceeded", reasonPodSecurity:
		return reason
	}
	if strings.HasPrefix(reason, OutOf) {
		return "OutOfExtendedResources"
	}
	return "Other"
}
