package config

import (
	"fmt"
	"math"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/component-helpers/node/util/sysctl"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	"k8s.io/utils/ptr"
)

// validator collects what is wrong with a merged configuration. It accepts
// what upstream 1.37 accepts; it also refuses here what upstream refuses only
// later in its start.
type validator struct {
	cfg      *Config
	kc       *kubeletconfig.KubeletConfiguration
	origins  *origins
	problems Errors
}

func validate(cfg *Config, o *origins) Errors {
	v := &validator{cfg: cfg, kc: &cfg.Kubelet, origins: o}
	v.flags()
	v.amounts()
	v.images()
	v.server()
	v.logging()
	v.containerLogs()
	v.node()
	v.taints()
	v.shutdown()
	v.backOff()
	v.sysctls()
	v.cgroups()
	v.reservations()
	v.resourceManagers()
	v.evictionThresholds()
	return v.problems
}

// bad reports a field.
func (v *validator) bad(path, format string, args ...any) {
	v.problems = append(v.problems, Problem{Source: v.origins.of(path), Field: path, Reason: fmt.Sprintf(format, args...)})
}

// number is what the bounds below apply to.
type number interface{ ~int32 | ~int64 }

func atLeast[N number](v *validator, path string, value, lowest N) {
	if value < lowest {
		v.bad(path, "is %d, must be at least %d", value, lowest)
	}
}

func between[N number](v *validator, path string, value, lowest, highest N) {
	if value < lowest || value > highest {
		v.bad(path, "is %d, must be between %d and %d", value, lowest, highest)
	}
}

func (v *validator) oneOf(path, value string, allowed ...string) {
	quoted := make([]string, len(allowed))
	for i, a := range allowed {
		if value == a {
			return
		}
		quoted[i] = fmt.Sprintf("%q", a)
	}
	reason := fmt.Sprintf("is %q, must be one of %s", value, strings.Join(quoted, ", "))
	if near := nearest(value, allowed); near != "" && value != "" {
		reason += fmt.Sprintf("; did you mean %q?", near)
	}
	v.bad(path, "%s", reason)
}

func (v *validator) notNegative(path string, d time.Duration) {
	if d < 0 {
		v.bad(path, "is %s, must not be negative", d)
	}
}

// amounts checks plain numbers.
func (v *validator) amounts() {
	kc := v.kc
	atLeast(v, "nodeLeaseDurationSeconds", kc.NodeLeaseDurationSeconds, 1)
	atLeast(v, "eventBurst", kc.EventBurst, 0)
	atLeast(v, "eventRecordQPS", ptr.Deref(kc.EventRecordQPS, 0), 0)
	atLeast(v, "kubeAPIBurst", kc.KubeAPIBurst, 0)
	atLeast(v, "kubeAPIQPS", ptr.Deref(kc.KubeAPIQPS, 0), 0)
	atLeast(v, "nodeStatusMaxImages", ptr.Deref(kc.NodeStatusMaxImages, 0), -1)
	atLeast(v, "maxOpenFiles", kc.MaxOpenFiles, 0)
	atLeast(v, "maxPods", kc.MaxPods, 0)
	atLeast(v, "podsPerCore", kc.PodsPerCore, 0)
	between(v, "oomScoreAdj", ptr.Deref(kc.OOMScoreAdj, 0), -1000, 1000)
	between(v, "iptablesDropBit", ptr.Deref(kc.IPTablesDropBit, 0), 0, 31)
	between(v, "iptablesMasqueradeBit", ptr.Deref(kc.IPTablesMasqueradeBit, 0), 0, 31)
}

func (v *validator) images() {
	kc := v.kc
	if kc.ContainerRuntimeEndpoint == "" {
		v.bad("containerRuntimeEndpoint", "must not be empty")
	}
	atLeast(v, "registryBurst", kc.RegistryBurst, 0)
	atLeast(v, "registryPullQPS", ptr.Deref(kc.RegistryPullQPS, 0), 0)
	if parallel := kc.MaxParallelImagePulls; parallel != nil {
		atLeast(v, "maxParallelImagePulls", *parallel, 1)
		if *parallel > 1 && ptr.Deref(kc.SerializeImagePulls, false) {
			v.bad("maxParallelImagePulls", "is %d, which needs serializeImagePulls to be false", *parallel)
		}
	}

	low, high := ptr.Deref(kc.ImageGCLowThresholdPercent, 0), ptr.Deref(kc.ImageGCHighThresholdPercent, 0)
	between(v, "imageGCHighThresholdPercent", high, 0, 100)
	between(v, "imageGCLowThresholdPercent", low, 0, 100)
	if low >= high {
		v.bad("imageGCLowThresholdPercent", "is %d, must be less than imageGCHighThresholdPercent, which is %d", low, high)
	}
	v.notNegative("imageMinimumGCAge", kc.ImageMinimumGCAge.Duration)
	v.notNegative("imageMaximumGCAge", kc.ImageMaximumGCAge.Duration)
	if oldest, youngest := kc.ImageMaximumGCAge.Duration, kc.ImageMinimumGCAge.Duration; oldest > 0 && oldest <= youngest {
		v.bad("imageMaximumGCAge", "is %s, must be more than imageMinimumGCAge, which is %s", oldest, youngest)
	}

	v.imageCredentials()
}

func (v *validator) imageCredentials() {
	kc := v.kc
	const policyField, listField = "imagePullCredentialsVerificationPolicy", "preloadedImagesVerificationAllowlist"
	policy, allowed := kc.ImagePullCredentialsVerificationPolicy, kc.PreloadedImagesVerificationAllowlist
	if !v.cfg.Gates.Enabled(KubeletEnsureSecretPulledImages) {
		if policy != "" {
			v.bad(policyField, "needs the feature gate %s", KubeletEnsureSecretPulledImages)
		}
		if len(allowed) > 0 {
			v.bad(listField, "needs the feature gate %s", KubeletEnsureSecretPulledImages)
		}
		return
	}
	v.oneOf(policyField, string(policy), string(kubeletconfig.NeverVerify), string(kubeletconfig.NeverVerifyPreloadedImages),
		string(kubeletconfig.NeverVerifyAllowlistedImages), string(kubeletconfig.AlwaysVerify))
	if len(allowed) > 0 && policy != kubeletconfig.NeverVerifyAllowlistedImages {
		v.bad(listField, "needs %s to be %s", policyField, kubeletconfig.NeverVerifyAllowlistedImages)
		return
	}
	for i, pattern := range allowed {
		if reason := imagePatternProblem(pattern); reason != "" {
			v.bad(fmt.Sprintf("%s[%d]", listField, i), "%q %s", pattern, reason)
		}
	}
}

// imageRepository is the grammar of an image reference without tag and digest
// (github.com/distribution/reference), where a first component with a dot, a
// port or capitals is a registry.
var imageRepository = regexp.MustCompile(`^(?:(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])(?:\.(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9]))*(?::[0-9]+)?/|\[[a-fA-F0-9:]+\](?::[0-9]+)?/)?[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$`)

func imagePatternProblem(pattern string) string {
	prefix, wildcard := strings.CutSuffix(pattern, "/*")
	switch {
	case pattern != strings.TrimSpace(pattern):
		return "has white space around it"
	case pattern == "":
		return "is empty"
	case strings.Contains(prefix, "*"):
		return "has a * that is not at its end, after a /"
	case wildcard && prefix == "":
		return "must name a registry at least"
	case wildcard:
		return ""
	case len(prefix) > 255 || !imageRepository.MatchString(prefix):
		return "is not an image name; tags and digests are not accepted"
	}
	return ""
}

func (v *validator) containerLogs() {
	kc := v.kc
	if quantity, err := resource.ParseQuantity(kc.ContainerLogMaxSize); err != nil {
		v.bad("containerLogMaxSize", "is %q, must be a quantity such as 10Mi", kc.ContainerLogMaxSize)
	} else if _, whole := quantity.AsInt64(); !whole {
		v.bad("containerLogMaxSize", "is %q, must be a whole number of bytes", kc.ContainerLogMaxSize)
	}
	atLeast(v, "containerLogMaxFiles", ptr.Deref(kc.ContainerLogMaxFiles, 0), 2)
	atLeast(v, "containerLogMaxWorkers", ptr.Deref(kc.ContainerLogMaxWorkers, 0), 1)
	if interval := kc.ContainerLogMonitorInterval; interval == nil || interval.Duration < 3*time.Second {
		v.bad("containerLogMonitorInterval", "must be at least 3s")
	}
	dir := kc.PodLogsDir
	switch {
	case dir == "":
		v.bad("podLogsDir", "must not be empty")
	case !filepath.IsAbs(dir):
		v.bad("podLogsDir", "is %q, must be an absolute path", dir)
	case filepath.Clean(dir) != dir:
		v.bad("podLogsDir", "is %q, must be written without detours, as %q", dir, filepath.Clean(dir))
	}
	// The path is a metric label.
	if strings.ContainsFunc(dir, func(r rune) bool { return r > 127 }) {
		v.bad("podLogsDir", "is %q, must be plain ASCII", dir)
	}
}

// previousMinor is the only version whose hidden metrics can be asked for.
const previousMinor = "1.36"

func (v *validator) node() {
	kc := v.kc
	if kc.RunOnce {
		v.bad("runOnce", "is true, but run-once mode does not exist any more")
	}
	v.oneOf("hairpinMode", kc.HairpinMode, kubeletconfig.HairpinNone, kubeletconfig.HairpinVeth, kubeletconfig.PromiscuousBridge)
	v.oneOf("memorySwap.swapBehavior", kc.MemorySwap.SwapBehavior, "", "NoSwap", "LimitedSwap")
	v.oneOf("configMapAndSecretChangeDetectionStrategy", string(kc.ConfigMapAndSecretChangeDetectionStrategy),
		string(kubeletconfig.GetChangeDetectionStrategy), string(kubeletconfig.TTLCacheChangeDetectionStrategy), string(kubeletconfig.WatchChangeDetectionStrategy))

	// A pod's user namespace is cut out of the node's range in such units
	// (KEP-127).
	const unit = 65536
	if kc.UserNamespaces != nil && kc.UserNamespaces.IDsPerPod != nil {
		if ids := *kc.UserNamespaces.IDsPerPod; ids < unit || ids%unit != 0 || ids > math.MaxUint32 {
			v.bad("userNamespaces.idsPerPod", "is %d, must be a multiple of %d, above 0 and below 2^32", ids, unit)
		}
	}
	v.oneOf("showHiddenMetricsForVersion", kc.ShowHiddenMetricsForVersion, "", previousMinor)
}

func (v *validator) taints() {
	for i, taint := range v.kc.RegisterWithTaints {
		path := fmt.Sprintf("registerWithTaints[%d]", i)
		if taint.Effect == "" {
			taint.Effect = "NoSchedule" // an empty effect is accepted in the file
		}
		if err := checkTaint(taint); err != nil {
			v.bad(path, "%v", err)
		}
		if taint.TimeAdded != nil {
			v.bad(path+".timeAdded", "must not be set")
		}
	}
}

func (v *validator) shutdown() {
	kc := v.kc
	all, critical := kc.ShutdownGracePeriod.Duration, kc.ShutdownGracePeriodCriticalPods.Duration
	if v.cfg.Gates.Enabled(GracefulNodeShutdown) {
		if critical > all {
			v.bad("shutdownGracePeriodCriticalPods", "is %s, must not be more than shutdownGracePeriod, which is %s", critical, all)
		}
		for path, period := range map[string]time.Duration{"shutdownGracePeriod": all, "shutdownGracePeriodCriticalPods": critical} {
			if period != 0 && period < time.Second {
				v.bad(path, "is %s, must be 0 or at least 1s", period)
			}
		}
	} else if all > 0 || critical > 0 {
		v.bad("shutdownGracePeriod", "needs the feature gate %s", GracefulNodeShutdown)
	}
	if len(kc.ShutdownGracePeriodByPodPriority) == 0 {
		return
	}
	if !v.cfg.Gates.Enabled(GracefulNodeShutdownBasedOnPodPriority) {
		v.bad("shutdownGracePeriodByPodPriority", "needs the feature gate %s", GracefulNodeShutdownBasedOnPodPriority)
	} else if all > 0 || critical > 0 {
		v.bad("shutdownGracePeriodByPodPriority", "cannot be given together with shutdownGracePeriod or shutdownGracePeriodCriticalPods")
	}
}

func (v *validator) backOff() {
	period := v.kc.CrashLoopBackOff.MaxContainerRestartPeriod
	const path = "crashLoopBackOff.maxContainerRestartPeriod"
	switch {
	case period == nil:
	case !v.cfg.Gates.Enabled(KubeletCrashLoopBackOffMax):
		v.bad(path, "needs the feature gate %s", KubeletCrashLoopBackOffMax)
	case period.Milliseconds() < 1000 || period.Milliseconds() > 300000:
		v.bad(path, "is %s, must be between 1s and 300s", period.Duration)
	}
}

var (
	sysctlName    = regexp.MustCompile(`^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$`)
	sysctlPattern = regexp.MustCompile(`^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[./])*([a-z0-9][-_a-z0-9]*)?[a-z0-9*]$`)
)

const sysctlMaxLength = 253

func (v *validator) sysctls() {
	kc := v.kc
	for i, pattern := range kc.AllowedUnsafeSysctls {
		path := fmt.Sprintf("allowedUnsafeSysctls[%d]", i)
		if len(pattern) > sysctlMaxLength || !sysctlPattern.MatchString(pattern) {
			v.bad(path, "%q is not the name of a sysctl, nor a pattern that ends with *", pattern)
		} else if namespace, _, _ := sysctl.GetNamespace(pattern); namespace == sysctl.UnknownNamespace {
			v.bad(path, "%q is not known to belong to a namespace, so a pod cannot have its own", pattern)
		}
	}
	if len(kc.DefaultPodSysctls) == 0 {
		return
	}
	if !v.cfg.Gates.Enabled(DefaultPodSysctls) {
		v.bad("defaultPodSysctls", "needs the feature gate %s", DefaultPodSysctls)
		return
	}
	seen := map[string]bool{}
	for _, name := range keysOf(kc.DefaultPodSysctls) {
		path := childPath("defaultPodSysctls", name)
		if len(name) > sysctlMaxLength || !sysctlName.MatchString(name) {
			v.bad(path, "is not the name of a sysctl")
			continue
		}
		if namespace, _, _ := sysctl.GetNamespace(name); namespace == sysctl.UnknownNamespace {
			v.bad(path, "is not known to belong to a namespace, so a pod cannot have its own")
		}
		normal := sysctl.NormalizeName(name)
		if seen[normal] {
			v.bad(path, "is given twice, with dots and with slashes")
		}
		seen[normal] = true
	}
}

// port checks a port; with optional, 0 means that it is not served.
func (v *validator) port(path string, port int32, optional bool) {
	if optional && port == 0 {
		return
	}
	if len(validation.IsValidPortNum(int(port))) == 0 {
		return
	}
	if optional {
		v.bad(path, "is %d, must be a port from 1 to 65535, or 0 for none", port)
		return
	}
	v.bad(path, "is %d, must be a port from 1 to 65535", port)
}
