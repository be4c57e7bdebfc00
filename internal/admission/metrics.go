package admission

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	v1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"

	"kubelet/internal/podspec"
)

func newRejections() *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kubelet_admission_rejections_total",
		Help: "Pods that this node rejected, by reason.",
	}, []string{"reason"})
}

// newAccepted counts by where pods name their resources (KEP-2837).
func newAccepted() *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kubelet_pod_level_resources_admission_total",
		Help: "Pods that this node accepted, by where they name resources (pod_level, container_level, pod_and_container_level or nowhere) and QoS class.",
	}, []string{"config_mode", "qos_class"})
}

func newInfeasible() *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kubelet_pod_infeasible_resizes_total",
		Help: "Changes of resources that pods asked for and that this node cannot make, by reason.",
	}, []string{"reason_detail"})
}

func newDeferredGranted() *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kubelet_pod_deferred_accepted_resizes_total",
		Help: "Changes of pods' resources that waited for room and were made, by what led to it.",
	}, []string{"retry_trigger"})
}

// resourceLabels are config_mode and qos_class of a pod.
func resourceLabels(pod *v1.Pod) (mode, class string) {
	containers := false
	podspec.EachContainer(pod, func(c *v1.Container, kind podspec.Kind) bool {
		containers = kind != podspec.Ephemeral && len(c.Resources.Requests)+len(c.Resources.Limits) > 0
		return !containers
	})
	switch whole := resourcehelper.IsPodLevelResourcesSet(pod); {
	case whole && containers:
		mode = "pod_and_container_level"
	case whole:
		mode = "pod_level"
	case containers:
		mode = "container_level"
	}
	return mode, strings.ToLower(string(podspec.QoS(pod)))
}

func newPreemptions() *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kubelet_preemptions",
		Help: "Pods that had to go for a critical one, by the resource that it lacked.",
	}, []string{"preemption_signal"})
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
