package criconfig

import (
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"kubelet/internal/cri"
	"kubelet/internal/podspec"
)

// Sandbox returns the config of the pod's sandbox. The attempt goes into its
// metadata; the runtime wants it higher than that of any sandbox the pod had.
// What somebody has to mend in the pod is an *Error.
func (b *Builder) Sandbox(pod *v1.Pod, attempt uint32, cgroupParent string) (*runtimeapi.PodSandboxConfig, error) {
	dns, err := b.dns(pod)
	if err != nil {
		return nil, err
	}
	linux, err := b.sandboxLinux(pod, cgroupParent)
	if err != nil {
		return nil, err
	}
	config := &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{
			Name:      pod.Name,
			Namespace: pod.Namespace,
			Uid:       string(pod.UID),
			Attempt:   attempt,
		},
		LogDirectory: PodLogDir(b.PodLogsDir, pod.Namespace, pod.Name, pod.UID),
		DnsConfig:    dns,
		PortMappings: portMappings(pod),
		Labels:       sandboxLabels(pod),
		Annotations:  pod.Annotations,
		Linux:        linux,
	}
	if !pod.Spec.HostNetwork {
		if config.Hostname, err = b.kernelHostname(pod); err != nil {
			return nil, err
		}
	}
	return config, nil
}

// PodLogDir is the directory of one pod's logs:
// <podLogsDir>/<namespace>_<name>_<uid>.
func PodLogDir(podLogsDir, namespace, name string, uid types.UID) string {
	return filepath.Join(podLogsDir, fmt.Sprintf("%s_%s_%s", namespace, name, uid))
}

func (b *Builder) sandboxLinux(pod *v1.Pod, cgroupParent string) (*runtimeapi.LinuxPodSandboxConfig, error) {
	ns, err := b.namespaces(pod)
	if err != nil {
		return nil, err
	}
	security := &runtimeapi.LinuxSandboxSecurityContext{
		NamespaceOptions: ns,
		Privileged:       hasPrivileged(pod),
		// The sandbox's own process gets the runtime's profile whatever the
		// pod says, so that a pod may be limited to its narrowest needs.
		Seccomp: &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
	}
	if sc := pod.Spec.SecurityContext; sc != nil {
		security.RunAsUser = int64Value(sc.RunAsUser)
		security.RunAsGroup = int64Value(sc.RunAsGroup)
		security.SelinuxOptions = selinuxOptions(sc.SELinuxOptions)
		if security.SupplementalGroups, security.SupplementalGroupsPolicy, err = groups(sc); err != nil {
			return nil, sandboxErrorf("%v", err)
		}
	}
	return &runtimeapi.LinuxPodSandboxConfig{
		CgroupParent:    cgroupParent,
		SecurityContext: security,
		Sysctls:         b.sysctls(pod),
		Overhead:        b.overhead(pod),
		Resources:       b.sandboxResources(pod),
	}, nil
}

func (b *Builder) namespaces(pod *v1.Pod) (*runtimeapi.NamespaceOption, error) {
	ns := &runtimeapi.NamespaceOption{
		Network:       runtimeapi.NamespaceMode_POD,
		Pid:           runtimeapi.NamespaceMode_CONTAINER,
		Ipc:           runtimeapi.NamespaceMode_POD,
		UsernsOptions: &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_NODE},
	}
	if pod.Spec.HostNetwork {
		ns.Network = runtimeapi.NamespaceMode_NODE
	}
	if pod.Spec.HostIPC {
		ns.Ipc = runtimeapi.NamespaceMode_NODE
	}
	switch {
	case pod.Spec.HostPID:
		ns.Pid = runtimeapi.NamespaceMode_NODE
	case pod.Spec.ShareProcessNamespace != nil && *pod.Spec.ShareProcessNamespace:
		ns.Pid = runtimeapi.NamespaceMode_POD
	}
	if !podspec.OwnUsers(pod) {
		return ns, nil
	}
	if b.UserNamespace == nil {
		return nil, sandboxErrorf("hostUsers: false asks for a user namespace, and this node gives none; set hostUsers: true")
	}
	mapping, err := b.UserNamespace(pod)
	if err != nil {
		return nil, fmt.Errorf("map user namespace: %w", err)
	}
	ns.UsernsOptions = mapping
	return ns, nil
}

// sysctls are the node's defaults that belong to namespaces of the pod's own,
// overridden by what the pod asks for.
func (b *Builder) sysctls(pod *v1.Pod) map[string]string {
	sysctls := map[string]string{}
	for name, value := range b.DefaultSysctls {
		if name = sysctlName(name); ownsSysctl(pod, name) {
			sysctls[name] = value
		}
	}
	if sc := pod.Spec.SecurityContext; sc != nil {
		for _, s := range sc.Sysctls {
			sysctls[s.Name] = s.Value
		}
	}
	return sysctls
}

// sysctlName writes a name with dots between its parts: where the first
// separator is a slash, the roles of slash and dot are exchanged
// (sysctl.d(5)).
func sysctlName(name string) string {
	if i := strings.IndexAny(name, "./"); i < 0 || name[i] == '.' {
		return name
	}
	return strings.Map(func(r rune) rune {
		switch r {
		case '.':
			return '/'
		case '/':
			return '.'
		}
		return r
	}, name)
}

func ownsSysctl(pod *v1.Pod, name string) bool {
	switch name {
	case "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall",
		"kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced":
		return !pod.Spec.HostIPC
	case "kernel.domainname":
		return !pod.Spec.HostNetwork
	}
	switch {
	case strings.HasPrefix(name, "fs.mqueue."):
		return !pod.Spec.HostIPC
	case strings.HasPrefix(name, "net."):
		return !pod.Spec.HostNetwork
	case strings.HasPrefix(name, "user."):
		return podspec.OwnUsers(pod)
	}
	return false
}

// portMappings lists the ports of the regular containers. Those without a
// host port are listed as well: the runtime tells network plugins of them.
func portMappings(pod *v1.Pod) []*runtimeapi.PortMapping {
	var mappings []*runtimeapi.PortMapping
	for i := range pod.Spec.Containers {
		seen := map[string]bool{}
		for _, p := range pod.Spec.Containers[i].Ports {
			name := p.Name
			if name == "" {
				// The same port may be named once per address family.
				name = fmt.Sprintf("%s-%s-%s:%d:%d", family(p.HostIP), p.Protocol, p.HostIP, p.ContainerPort, p.HostPort)
			}
			if seen[name] {
				continue
			}
			seen[name] = true
			mappings = append(mappings, &runtimeapi.PortMapping{
				Protocol:      protocol(p.Protocol),
				ContainerPort: p.ContainerPort,
				HostPort:      p.HostPort,
				HostIp:        p.HostIP,
			})
		}
	}
	return mappings
}

func family(ip string) string {
	addr, err := netip.ParseAddr(ip)
	switch {
	case err != nil:
		return "any"
	case addr.Unmap().Is4():
		return "v4"
	default:
		return "v6"
	}
}

func protocol(p v1.Protocol) runtimeapi.Protocol {
	switch p {
	case v1.ProtocolUDP:
		return runtimeapi.Protocol_UDP
	case v1.ProtocolSCTP:
		return runtimeapi.Protocol_SCTP
	default:
		return runtimeapi.Protocol_TCP
	}
}

func sandboxLabels(pod *v1.Pod) map[string]string {
	labels := make(map[string]string, len(pod.Labels)+3)
	maps.Copy(labels, pod.Labels)
	labels[cri.LabelPodName] = pod.Name
	labels[cri.LabelPodNamespace] = pod.Namespace
	labels[cri.LabelPodUID] = string(pod.UID)
	return labels
}
