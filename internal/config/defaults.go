package config

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	logsapi "k8s.io/component-base/logs/api/v1"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	"k8s.io/utils/ptr"
)

// applyDefaults fills the fields that are not set with the defaults of 1.37.
// A zero number or duration counts as not set, except where the type is a
// pointer: that is what the v1beta1 API says.
func applyDefaults(kc *kubeletconfig.KubeletConfiguration, gates Gates) {
	defaultStaticPods(kc)
	defaultServer(kc)
	defaultAPIClient(kc)
	defaultNode(kc)
	defaultImages(kc)
	defaultResources(kc)
	defaultPods(kc)
	logsapi.SetRecommendedLoggingConfiguration(&kc.Logging)

	if gates.Enabled(KubeletCrashLoopBackOffMax) {
		setPointer(&kc.CrashLoopBackOff.MaxContainerRestartPeriod, metav1.Duration{Duration: 300 * time.Second})
	}
	if gates.Enabled(KubeletEnsureSecretPulledImages) {
		set(&kc.ImagePullCredentialsVerificationPolicy, kubeletconfig.NeverVerifyPreloadedImages)
	}
}

func defaultStaticPods(kc *kubeletconfig.KubeletConfiguration) {
	setDuration(&kc.SyncFrequency, time.Minute)
	setDuration(&kc.FileCheckFrequency, 20*time.Second)
	setDuration(&kc.HTTPCheckFrequency, 20*time.Second)
}

func defaultServer(kc *kubeletconfig.KubeletConfiguration) {
	setPointer(&kc.EnableServer, true)
	set(&kc.Address, "0.0.0.0")
	set(&kc.Port, 10250)
	setPointer(&kc.Authentication.Anonymous.Enabled, false)
	setPointer(&kc.Authentication.Webhook.Enabled, true)
	setDuration(&kc.Authentication.Webhook.CacheTTL, 2*time.Minute)
	set(&kc.Authorization.Mode, kubeletconfig.KubeletAuthorizationModeWebhook)
	setDuration(&kc.Authorization.Webhook.CacheAuthorizedTTL, 5*time.Minute)
	setDuration(&kc.Authorization.Webhook.CacheUnauthorizedTTL, 30*time.Second)
	setPointer(&kc.EnableDebuggingHandlers, true)
	setPointer(&kc.EnableSystemLogHandler, true)
	setPointer(&kc.EnableSystemLogQuery, false)
	setPointer(&kc.EnableProfilingHandler, true)
	setPointer(&kc.EnableDebugFlagsHandler, true)
	setPointer(&kc.HealthzPort, 10248)
	set(&kc.HealthzBindAddress, "127.0.0.1")
	setDuration(&kc.StreamingConnectionIdleTimeout, 4*time.Hour)
}

func defaultAPIClient(kc *kubeletconfig.KubeletConfiguration) {
	set(&kc.ContentType, "application/vnd.kubernetes.protobuf")
	setPointer(&kc.KubeAPIQPS, 50)
	set(&kc.KubeAPIBurst, 100)
	setPointer(&kc.EventRecordQPS, 50)
	set(&kc.EventBurst, 100)
	set(&kc.ConfigMapAndSecretChangeDetectionStrategy, kubeletconfig.WatchChangeDetectionStrategy)
}

func defaultNode(kc *kubeletconfig.KubeletConfiguration) {
	setPointer(&kc.RegisterNode, true)
	// Who sets only the update frequency gets the report frequency with it,
	// as before the two were told apart.
	report := 5 * time.Minute
	if kc.NodeStatusUpdateFrequency.Duration != 0 {
		report = kc.NodeStatusUpdateFrequency.Duration
	}
	setDuration(&kc.NodeStatusReportFrequency, report)
	setDuration(&kc.NodeStatusUpdateFrequency, 10*time.Second)
	set(&kc.NodeLeaseDurationSeconds, 40)
	setPointer(&kc.NodeStatusMaxImages, 50)
	setPointer(&kc.OOMScoreAdj, -999)
	set(&kc.MaxOpenFiles, 1000000)
	setPointer(&kc.FailSwapOn, true)
	setPointer(&kc.FailCgroupV1, true)
	setPointer(&kc.MakeIPTablesUtilChains, true)
	setPointer(&kc.IPTablesMasqueradeBit, 14)
	setPointer(&kc.IPTablesDropBit, 15)
	set(&kc.VolumePluginDir, "/usr/libexec/kubernetes/kubelet-plugins/volume/exec/")
	setPointer(&kc.EnableControllerAttachDetach, true)
}

func defaultImages(kc *kubeletconfig.KubeletConfiguration) {
	set(&kc.ContainerRuntimeEndpoint, "unix:///run/containerd/containerd.sock")
	setDuration(&kc.RuntimeRequestTimeout, 2*time.Minute)
	setPointer(&kc.RegistryPullQPS, 5)
	set(&kc.RegistryBurst, 10)
	// Allowing several pulls at once is enough; both need not be said.
	setPointer(&kc.SerializeImagePulls, ptr.Deref(kc.MaxParallelImagePulls, 0) < 2)
	setDuration(&kc.ImageMinimumGCAge, 2*time.Minute)
	setPointer(&kc.ImageGCHighThresholdPercent, 85)
	setPointer(&kc.ImageGCLowThresholdPercent, 80)
}

func defaultResources(kc *kubeletconfig.KubeletConfiguration) {
	setPointer(&kc.CgroupsPerQOS, true)
	set(&kc.CgroupDriver, "cgroupfs")
	set(&kc.CPUManagerPolicy, "none")
	setDuration(&kc.CPUManagerReconcilePeriod, 10*time.Second)
	set(&kc.MemoryManagerPolicy, kubeletconfig.NoneMemoryManagerPolicy)
	set(&kc.MemoryReservationPolicy, kubeletconfig.NoneMemoryReservationPolicy)
	set(&kc.TopologyManagerPolicy, kubeletconfig.NoneTopologyManagerPolicy)
	set(&kc.TopologyManagerScope, kubeletconfig.ContainerTopologyManagerScope)
	setPointer(&kc.CPUCFSQuota, true)
	setPointer(&kc.CPUCFSQuotaPeriod, metav1.Duration{Duration: 100 * time.Millisecond})
	if kc.EnforceNodeAllocatable == nil {
		kc.EnforceNodeAllocatable = []string{"pods"}
	}
	setDuration(&kc.EvictionPressureTransitionPeriod, 5*time.Minute)
	setPointer(&kc.MergeDefaultEvictionSettings, false)
	setDuration(&kc.VolumeStatsAggPeriod, time.Minute)
	setPointer(&kc.LocalStorageCapacityIsolation, true)
	if kc.PodPidsLimit == nil || *kc.PodPidsLimit < 0 {
		kc.PodPidsLimit = ptr.To[int64](-1)
	}
}

func defaultPods(kc *kubeletconfig.KubeletConfiguration) {
	set(&kc.MaxPods, 110)
	set(&kc.HairpinMode, kubeletconfig.PromiscuousBridge)
	setPointer(&kc.ResolverConfig, "/etc/resolv.conf")
	setPointer(&kc.SeccompDefault, false)
	set(&kc.PodLogsDir, "/var/log/pods")
	set(&kc.ContainerLogMaxSize, "10Mi")
	setPointer(&kc.ContainerLogMaxFiles, 5)
	setPointer(&kc.ContainerLogMaxWorkers, 1)
	setPointer(&kc.ContainerLogMonitorInterval, metav1.Duration{Duration: 10 * time.Second})
}

// defaultEvictionHard fills the hard eviction thresholds. They apply only with
// a configuration file: without one, upstream sets no threshold at all.
func defaultEvictionHard(kc *kubeletconfig.KubeletConfiguration) {
	defaults := map[string]string{
		"memory.available":   "100Mi",
		"nodefs.available":   "10%",
		"nodefs.inodesFree":  "5%",
		"imagefs.available":  "15%",
		"imagefs.inodesFree": "5%",
	}
	if kc.EvictionHard == nil {
		kc.EvictionHard = defaults
		return
	}
	if !ptr.Deref(kc.MergeDefaultEvictionSettings, false) {
		return
	}
	for signal, threshold := range defaults {
		if _, ok := kc.EvictionHard[signal]; !ok {
			kc.EvictionHard[signal] = threshold
		}
	}
}

// applyFlagDefaults puts the few defaults of the flags that differ from those
// of the file. They hold only when there is no --config.
func applyFlagDefaults(kc *kubeletconfig.KubeletConfiguration) {
	kc.Authentication.Anonymous.Enabled = ptr.To(true)
	kc.Authentication.Webhook.Enabled = ptr.To(false)
	kc.Authorization.Mode = kubeletconfig.KubeletAuthorizationModeAlwaysAllow
	kc.ReadOnlyPort = 10255
}

func set[T comparable](field *T, value T) {
	if *field == *new(T) {
		*field = value
	}
}

func setPointer[T any](field **T, value T) {
	if *field == nil {
		*field = &value
	}
}

func setDuration(field *metav1.Duration, value time.Duration) {
	if field.Duration == 0 {
		field.Duration = value
	}
}
