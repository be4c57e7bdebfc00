package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	"k8s.io/utils/cpuset"
	"k8s.io/utils/ptr"
)

// Levels of node allocatable enforcement.
const (
	enforcePods                       = "pods"
	enforceNone                       = "none"
	enforceKubeReserved               = "kube-reserved"
	enforceKubeReservedCompressible   = "kube-reserved-compressible"
	enforceSystemReserved             = "system-reserved"
	enforceSystemReservedCompressible = "system-reserved-compressible"
)

func (v *validator) cgroups() {
	kc := v.kc
	if kc.SystemCgroups != "" && kc.CgroupRoot == "" {
		v.bad("systemCgroups", "needs cgroupRoot")
	}
	v.oneOf("cgroupDriver", kc.CgroupDriver, "cgroupfs", "systemd")

	period := kc.CPUCFSQuotaPeriod.Duration
	if !v.cfg.Gates.Enabled(CustomCPUCFSQuotaPeriod) {
		if period != 100*time.Millisecond {
			v.bad("cpuCFSQuotaPeriod", "is %s; other values than 100ms need the feature gate %s", period, CustomCPUCFSQuotaPeriod)
		}
	} else if period < time.Millisecond || period > time.Second {
		v.bad("cpuCFSQuotaPeriod", "is %s, must be between 1ms and 1s", period)
	}

	v.enforcement()
	v.memoryQoS()
}

func (v *validator) enforcement() {
	kc := v.kc
	const path = "enforceNodeAllocatable"
	levels := kc.EnforceNodeAllocatable
	for _, pair := range [][2]string{
		{enforceKubeReserved, enforceKubeReservedCompressible},
		{enforceSystemReserved, enforceSystemReservedCompressible},
	} {
		if slices.Contains(levels, pair[0]) && slices.Contains(levels, pair[1]) {
			v.bad(path, "%s and %s cannot be given together", pair[0], pair[1])
		}
	}
	for i, level := range levels {
		at := fmt.Sprintf("%s[%d]", path, i)
		if slices.Index(levels, level) < i {
			v.bad(at, "%q is given twice", level)
			continue
		}
		cgroup, cgroupField := "-", ""
		switch level {
		case enforceNone:
			if len(levels) > 1 {
				v.bad(at, "%q cannot be given together with others", level)
			}
			continue
		case enforcePods:
		case enforceKubeReserved, enforceKubeReservedCompressible:
			cgroup, cgroupField = kc.KubeReservedCgroup, "kubeReservedCgroup"
		case enforceSystemReserved, enforceSystemReservedCompressible:
			cgroup, cgroupField = kc.SystemReservedCgroup, "systemReservedCgroup"
		default:
			v.oneOf(at, level, enforcePods, enforceKubeReserved, enforceKubeReservedCompressible,
				enforceSystemReserved, enforceSystemReservedCompressible, enforceNone)
			continue
		}
		if cgroup == "" {
			v.bad(at, "%q needs %s", level, cgroupField)
		}
		if !ptr.Deref(kc.CgroupsPerQOS, false) {
			v.bad(at, "%q needs cgroupsPerQOS", level)
		}
	}
}

func (v *validator) memoryQoS() {
	kc := v.kc
	on := v.cfg.Gates.Enabled(MemoryQoS)
	if factor := kc.MemoryThrottlingFactor; factor != nil {
		// 0.9 was the default once, and stands in many files.
		if !on && *factor != 0.9 {
			v.bad("memoryThrottlingFactor", "needs the feature gate %s", MemoryQoS)
		}
		if *factor <= 0 || *factor > 1 {
			v.bad("memoryThrottlingFactor", "is %g, must be above 0 and at most 1", *factor)
		}
	}
	none, tiered := kubeletconfig.NoneMemoryReservationPolicy, kubeletconfig.TieredReservationMemoryReservationPolicy
	v.oneOf("memoryReservationPolicy", string(kc.MemoryReservationPolicy), string(none), string(tiered))
	if !on && kc.MemoryReservationPolicy == tiered {
		v.bad("memoryReservationPolicy", "%s needs the feature gate %s", tiered, MemoryQoS)
	}
}

func (v *validator) reservations() {
	kc := v.kc
	for path, amounts := range map[string]map[string]string{"kubeReserved": kc.KubeReserved, "systemReserved": kc.SystemReserved} {
		for _, name := range keysOf(amounts) {
			at := childPath(path, name)
			switch v1.ResourceName(name) {
			case v1.ResourceCPU, v1.ResourceMemory, v1.ResourceEphemeralStorage, "pid":
			default:
				v.bad(at, "cannot be reserved; cpu, memory, ephemeral-storage and pid can")
				continue
			}
			if quantity, err := resource.ParseQuantity(amounts[name]); err != nil {
				v.bad(at, "is %q, must be a quantity such as 500Mi or 200m", amounts[name])
			} else if quantity.Sign() < 0 {
				v.bad(at, "is %s, must not be negative", amounts[name])
			}
		}
	}
	for _, name := range keysOf(kc.QOSReserved) {
		at := childPath("qosReserved", name)
		percent, err := strconv.Atoi(strings.TrimSuffix(kc.QOSReserved[name], "%"))
		switch {
		case name != string(v1.ResourceMemory):
			v.bad(at, "cannot be reserved; only memory can")
		case err != nil || !strings.HasSuffix(kc.QOSReserved[name], "%") || percent < 0 || percent > 100:
			v.bad(at, "is %q, must be a percentage from 0%% to 100%%", kc.QOSReserved[name])
		}
	}
	if kc.ReservedSystemCPUs != "" {
		if kc.SystemReservedCgroup != "" || kc.KubeReservedCgroup != "" {
			v.bad("reservedSystemCPUs", "cannot be given together with systemReservedCgroup or kubeReservedCgroup")
		}
		if _, err := cpuset.Parse(kc.ReservedSystemCPUs); err != nil {
			v.bad("reservedSystemCPUs", "is %q, must be a list of CPUs such as 0-1,4", kc.ReservedSystemCPUs)
		}
	}
	seen := map[string]bool{}
	for i, reservation := range kc.ReservedMemory {
		for _, kind := range memoryTypes(reservation.Limits) {
			at := childPath(fmt.Sprintf("reservedMemory[%d].limits", i), string(kind))
			quantity := reservation.Limits[kind]
			if !isMemoryType(kind) {
				v.bad(at, "is neither memory nor hugepages-<size>")
			}
			if quantity.IsZero() {
				v.bad(at, "must not be zero")
			}
			key := fmt.Sprintf("%d %s", reservation.NumaNode, kind)
			if seen[key] {
				v.bad(at, "is given twice for NUMA node %d", reservation.NumaNode)
			}
			seen[key] = true
		}
	}
}

func memoryTypes(limits v1.ResourceList) []v1.ResourceName {
	var names []v1.ResourceName
	for name := range limits {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (v *validator) resourceManagers() {
	kc := v.kc
	v.oneOf("cpuManagerPolicy", kc.CPUManagerPolicy, "none", "static")
	v.oneOf("memoryManagerPolicy", kc.MemoryManagerPolicy, kubeletconfig.NoneMemoryManagerPolicy, kubeletconfig.StaticMemoryManagerPolicy)
	v.oneOf("topologyManagerPolicy", kc.TopologyManagerPolicy, kubeletconfig.NoneTopologyManagerPolicy,
		kubeletconfig.BestEffortTopologyManagerPolicy, kubeletconfig.RestrictedTopologyManagerPolicy, kubeletconfig.SingleNumaNodeTopologyManagerPolicy)
	v.oneOf("topologyManagerScope", kc.TopologyManagerScope, kubeletconfig.ContainerTopologyManagerScope, kubeletconfig.PodTopologyManagerScope)
	if kc.CPUManagerPolicy == "static" {
		v.cpuPolicyOptions()
	}
	for _, name := range keysOf(kc.TopologyManagerPolicyOptions) {
		at, value := childPath("topologyManagerPolicyOptions", name), kc.TopologyManagerPolicyOptions[name]
		switch name {
		case "prefer-closest-numa-nodes":
			if _, err := strconv.ParseBool(value); err != nil {
				v.bad(at, "is %q, must be true or false", value)
			}
		case "max-allowable-numa-nodes":
			if n, err := strconv.Atoi(value); err != nil || n < 8 {
				v.bad(at, "is %q, must be a number of at least 8", value)
			}
		default:
			v.bad(at, "is not an option of the topology manager")
		}
	}
}

// cpuPolicyOptions checks options of the static policy; the policy none
// ignores them.
func (v *validator) cpuPolicyOptions() {
	needs := map[string]Gate{
		"full-pcpus-only":                  "",
		"strict-cpu-reservation":           "",
		"prefer-align-cpus-by-uncorecache": "",
		"distribute-cpus-across-numa":      CPUManagerPolicyBetaOptions,
		"align-by-socket":                  CPUManagerPolicyAlphaOptions,
		"distribute-cpus-across-cores":     CPUManagerPolicyAlphaOptions,
	}
	options := v.kc.CPUManagerPolicyOptions
	on := map[string]bool{}
	for _, name := range keysOf(options) {
		at := childPath("cpuManagerPolicyOptions", name)
		gate, known := needs[name]
		if !known {
			reason := "is not an option of the CPU manager"
			if near := nearest(name, keysOf(needs)); near != "" {
				reason += "; did you mean " + near + "?"
			}
			v.bad(at, "%s", reason)
			continue
		}
		if gate != "" && !v.cfg.Gates.Enabled(gate) {
			v.bad(at, "needs the feature gate %s", gate)
		}
		value, err := strconv.ParseBool(options[name])
		if err != nil {
			v.bad(at, "is %q, must be true or false", options[name])
		}
		on[name] = value
	}
	for _, pair := range [][2]string{
		{"full-pcpus-only", "distribute-cpus-across-cores"},
		{"distribute-cpus-across-numa", "distribute-cpus-across-cores"},
		{"prefer-align-cpus-by-uncorecache", "distribute-cpus-across-cores"},
		{"prefer-align-cpus-by-uncorecache", "distribute-cpus-across-numa"},
	} {
		if on[pair[0]] && on[pair[1]] {
			v.bad("cpuManagerPolicyOptions", "%s and %s cannot be on together", pair[0], pair[1])
		}
	}
}

func (v *validator) evictionThresholds() {
	kc := v.kc
	signals := []string{
		"memory.available", "nodefs.available", "nodefs.inodesFree", "imagefs.available", "imagefs.inodesFree",
		"containerfs.available", "containerfs.inodesFree", "allocatableMemory.available", "pid.available",
	}
	each := func(path string, values map[string]string, judge func(value string) string) {
		for _, signal := range keysOf(values) {
			at := childPath(path, signal)
			if !slices.Contains(signals, signal) {
				reason := "is not an eviction signal"
				if near := nearest(signal, signals); near != "" {
					reason += "; did you mean " + near + "?"
				}
				v.bad(at, "%s", reason)
			} else if reason := judge(values[signal]); reason != "" {
				v.bad(at, "is %q, %s", values[signal], reason)
			}
		}
	}
	each("evictionHard", kc.EvictionHard, thresholdProblem)
	each("evictionSoft", kc.EvictionSoft, thresholdProblem)
	each("evictionMinimumReclaim", kc.EvictionMinimumReclaim, reclaimProblem)
	each("evictionSoftGracePeriod", kc.EvictionSoftGracePeriod, func(value string) string {
		if period, err := time.ParseDuration(value); err != nil || period < 0 {
			return "must be a duration such as 1m30s"
		}
		return ""
	})
	for _, signal := range keysOf(kc.EvictionSoft) {
		// 0% and 100% switch a threshold off.
		if value := kc.EvictionSoft[signal]; value == "0%" || value == "100%" {
			continue
		}
		if _, ok := kc.EvictionSoftGracePeriod[signal]; !ok {
			v.bad(childPath("evictionSoft", signal), "needs an entry in evictionSoftGracePeriod")
		}
	}
}

func thresholdProblem(value string) string {
	if strings.HasSuffix(value, "%") {
		percent, err := strconv.ParseFloat(strings.TrimRight(value, "%"), 32)
		if err != nil || percent < 0 || percent > 100 {
			return "must be a percentage from 0% to 100%"
		}
		return ""
	}
	if quantity, err := resource.ParseQuantity(value); err != nil || quantity.Sign() <= 0 {
		return "must be a quantity above zero such as 100Mi, or a percentage"
	}
	return ""
}

func reclaimProblem(value string) string {
	if strings.HasSuffix(value, "%") {
		if percent, err := strconv.ParseFloat(strings.TrimRight(value, "%"), 32); err != nil || percent <= 0 {
			return "must be a percentage above 0%"
		}
		return ""
	}
	if quantity, err := resource.ParseQuantity(value); err != nil || quantity.Sign() < 0 {
		return "must be a quantity such as 500Mi, or a percentage"
	}
	return ""
}
