package admission

import (
	"fmt"
	"regexp"
	"strings"

	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/component-helpers/node/util/sysctl"
)

// safeSysctls are namespaced and cannot hurt other pods
// (https://kubernetes.io/docs/tasks/administer-cluster/sysctl-cluster/), with
// the kernel that made each of them so ("" for any that is supported).
var safeSysctls = [...]struct{ name, since string }{
	{"kernel.shm_rmid_forced", ""},
	{"net.ipv4.ip_local_port_range", ""},
	{"net.ipv4.tcp_syncookies", ""},
	{"net.ipv4.ping_group_range", ""},
	{"net.ipv4.ip_unprivileged_port_start", ""},
	{"net.ipv4.ip_local_reserved_ports", "3.16"},
	{"net.ipv4.tcp_keepalive_time", "4.5"},
	{"net.ipv4.tcp_keepalive_intvl", "4.5"},
	{"net.ipv4.tcp_keepalive_probes", "4.5"},
	{"net.ipv4.tcp_fin_timeout", "4.6"},
	{"net.ipv4.tcp_notsent_lowat", "4.6"},
	{"net.ipv4.tcp_rmem", "4.15"},
	{"net.ipv4.tcp_wmem", "4.15"},
	{"net.ipv4.tcp_slow_start_after_idle", "4.15"},
}

// SafeSysctls returns those that the kernel has; kernel is its release as
// uname tells it.
func SafeSysctls(kernel string) []string {
	running, err := version.ParseGeneric(kernel)
	var names []string
	for _, s := range safeSysctls {
		if s.since == "" || err == nil && running.AtLeast(version.MustParseGeneric(s.since)) {
			names = append(names, s.name)
		}
	}
	return names
}

// sysctlPattern is what the configuration may name: a sysctl, with dots or
// slashes, or a prefix that ends in "*".
var sysctlPattern = regexp.MustCompile(`^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[./])*([a-z0-9][-_a-z0-9]*)?[a-z0-9*]$`)

const maxSysctlName = 253

// Sysctls rejects a pod that sets a sysctl that is not allowed on this node,
// or one of a namespace that it shares with the host. An allowed name that
// the kernel does not have per namespace is an error.
func Sysctls(allowed []string) (Check, error) {
	exact := map[string]sysctl.Namespace{}
	type prefix struct {
		name      string
		namespace sysctl.Namespace
	}
	var prefixes []prefix
	for _, pattern := range allowed {
		if len(pattern) > maxSysctlName || !sysctlPattern.MatchString(pattern) {
			return Check{}, fmt.Errorf("sysctl %q: not a name or a name that ends in *, of at most %d characters", pattern, maxSysctlName)
		}
		namespace, name, isPrefix := sysctl.GetNamespace(pattern)
		if namespace == sysctl.UnknownNamespace {
			return Check{}, fmt.Errorf("sysctl %q: not known to be namespaced", pattern)
		}
		if isPrefix {
			prefixes = append(prefixes, prefix{name, namespace})
		} else {
			exact[name] = namespace
		}
	}
	find := func(name string) (sysctl.Namespace, bool) {
		if ns, ok := exact[name]; ok {
			return ns, true
		}
		for _, p := range prefixes {
			if strings.HasPrefix(name, p.name) {
				return p.namespace, true
			}
		}
		return sysctl.UnknownNamespace, false
	}
	return Check{Name: "Sysctls", Judge: func(in Input) Verdict {
		spec := &in.Pod.Spec
		if spec.SecurityContext == nil {
			return Verdict{}
		}
		for _, s := range spec.SecurityContext.Sysctls {
			name := sysctl.NormalizeName(s.Name)
			ns, ok := find(name)
			switch {
			case !ok:
				return reject("SysctlForbidden", fmt.Sprintf("sysctl %q is not on this node's allow-list", name))
			case ns == sysctl.IPCNamespace && spec.HostIPC,
				ns == sysctl.NetNamespace && spec.HostNetwork,
				ns == sysctl.UserNamespace && (spec.HostUsers == nil || *spec.HostUsers):
				return reject("SysctlForbidden", fmt.Sprintf("sysctl %q would change the host: the pod shares its %s namespace", name, ns))
			}
		}
		return Verdict{}
	}}, nil
}
