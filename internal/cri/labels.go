package cri

// Labels of sandboxes and containers in the runtime. They are the identity by
// which either kubelet, this one or upstream's, finds what belongs to a pod,
// so the names may never change. A sandbox carries the pod's own labels too;
// a container only these.
const (
	LabelPodName       = "io.kubernetes.pod.name"
	LabelPodNamespace  = "io.kubernetes.pod.namespace"
	LabelPodUID        = "io.kubernetes.pod.uid"
	LabelContainerName = "io.kubernetes.container.name"
)

// Annotations of containers in the runtime. A sandbox carries the pod's own
// annotations and none of these.
const (
	// AnnotationHash is podspec.ContainerHash: lower-case hexadecimal.
	AnnotationHash = "io.kubernetes.container.hash"
	// AnnotationRestartCount is the decimal restart count, which is also the
	// attempt in the container's metadata.
	AnnotationRestartCount = "io.kubernetes.container.restartCount"
	// AnnotationTerminationMessagePath is where in the container the message
	// is written; the mount of that container path leads to the host's file.
	AnnotationTerminationMessagePath = "io.kubernetes.container.terminationMessagePath"
	// AnnotationTerminationMessagePolicy is File or FallbackToLogsOnError.
	AnnotationTerminationMessagePolicy = "io.kubernetes.container.terminationMessagePolicy"
	// AnnotationPreStopHandler is the JSON of the v1.LifecycleHandler, set
	// only if the container has one.
	AnnotationPreStopHandler = "io.kubernetes.container.preStopHandler"
	// AnnotationPorts is the JSON of the []v1.ContainerPort, set only if the
	// container has any.
	AnnotationPorts = "io.kubernetes.container.ports"
	// AnnotationRestartDelay is how long the restart of this container will
	// have to wait if it crashes, as a Go duration (CrashLoopBackOff). It is
	// ours: upstream keeps the back-off in memory.
	AnnotationRestartDelay = "io.kubernetes.container.restartDelay"
	// AnnotationResources is what the container was created with, as JSON of
	// podspec.Amounts. It is ours: upstream keeps a file of its own.
	AnnotationResources = "io.kubernetes.container.resources"
	// AnnotationPodResources is the JSON of the pod's own
	// v1.ResourceRequirements when the container was created, beside
	// AnnotationResources and only if the pod had any.
	AnnotationPodResources = "io.kubernetes.pod.resources"
	// AnnotationPodDeletionGracePeriod is in decimal seconds, set only if the
	// pod was being deleted when the container was created.
	AnnotationPodDeletionGracePeriod = "io.kubernetes.pod.deletionGracePeriod"
	// AnnotationPodTerminationGracePeriod is in decimal seconds, set only if
	// the pod's spec has one.
	AnnotationPodTerminationGracePeriod = "io.kubernetes.pod.terminationGracePeriod"
)
