package validate

import (
	"regexp"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/component-helpers/node/util/sysctl"
)

func (c *check) podSecurity(spec *field.Path) {
	s := c.spec
	if s.ShareProcessNamespace != nil && *s.ShareProcessNamespace && s.HostPID {
		c.invalid(spec.Child("shareProcessNamespace"), true, "does not go with hostPID")
	}
	if s.HostUsers != nil && !*s.HostUsers {
		const own = "does not go with hostUsers: false"
		if s.HostNetwork && !c.o.UserNamespacesHostNetworkSupport {
			c.forbidden(spec.Child("hostNetwork"), own)
		}
		if s.HostPID {
			c.forbidden(spec.Child("hostPID"), own)
		}
		if s.HostIPC {
			c.forbidden(spec.Child("hostIPC"), own)
		}
	}
	c.annotationsMatch(spec)
	sc := s.SecurityContext
	if sc == nil {
		return
	}
	p := spec.Child("securityContext")
	c.ids(p, sc.RunAsUser, sc.RunAsGroup)
	if sc.FSGroup != nil {
		c.all(p.Child("fsGroup"), *sc.FSGroup, validation.IsValidGroupID(*sc.FSGroup))
	}
	for i, gid := range sc.SupplementalGroups {
		c.all(p.Child("supplementalGroups").Index(i), gid, validation.IsValidGroupID(gid))
	}
	oneOfPtr(c, p.Child("supplementalGroupsPolicy"), sc.SupplementalGroupsPolicy, v1.SupplementalGroupsPolicyMerge, v1.SupplementalGroupsPolicyStrict)
	oneOfPtr(c, p.Child("fsGroupChangePolicy"), sc.FSGroupChangePolicy, v1.FSGroupChangeOnRootMismatch, v1.FSGroupChangeAlways)
	labels := []v1.PodSELinuxChangePolicy{v1.SELinuxChangePolicyRecursive}
	if c.o.SELinuxMount {
		labels = append(labels, v1.SELinuxChangePolicyMountOption)
	}
	oneOfPtr(c, p.Child("seLinuxChangePolicy"), sc.SELinuxChangePolicy, labels...)
	c.sysctls(sc.Sysctls, p.Child("sysctls"))
	c.seccomp(sc.SeccompProfile, p.Child("seccompProfile"))
	c.appArmor(sc.AppArmorProfile, p.Child("appArmorProfile"))
	c.windowsOptions(sc.WindowsOptions, p.Child("windowsOptions"))
}

func (c *check) containerSecurity(ctr *v1.Container, p *field.Path) {
	sc := ctr.SecurityContext
	if sc == nil {
		return
	}
	c.ids(p, sc.RunAsUser, sc.RunAsGroup)
	if m := sc.ProcMount; m != nil {
		oneOf(c, p.Child("procMount"), *m, v1.DefaultProcMount, v1.UnmaskedProcMount)
		if *m == v1.UnmaskedProcMount && (c.spec.HostUsers == nil || *c.spec.HostUsers) {
			c.invalid(p.Child("procMount"), *m, "needs hostUsers: false")
		}
	}
	if sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation {
		at := p.Child("allowPrivilegeEscalation")
		if sc.Privileged != nil && *sc.Privileged {
			c.invalid(at, false, "cannot be kept from a privileged container")
		}
		// Only this spelling is refused; SYS_ADMIN without the prefix is not.
		if sc.Capabilities != nil && slices.Contains(sc.Capabilities.Add, "CAP_SYS_ADMIN") {
			c.invalid(at, false, "cannot be kept from a container with CAP_SYS_ADMIN")
		}
	}
	c.seccomp(sc.SeccompProfile, p.Child("seccompProfile"))
	c.appArmor(sc.AppArmorProfile, p.Child("appArmorProfile"))
	c.windowsOptions(sc.WindowsOptions, p.Child("windowsOptions"))
}

func (c *check) ids(p *field.Path, user, group *int64) {
	if user != nil {
		c.all(p.Child("runAsUser"), *user, validation.IsValidUserID(*user))
	}
	if group != nil {
		c.all(p.Child("runAsGroup"), *group, validation.IsValidGroupID(*group))
	}
}

var sysctlName = regexp.MustCompile(`^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$`)

func (c *check) sysctls(list []v1.Sysctl, p *field.Path) {
	seen := map[string]bool{}
	for i, s := range list {
		at := p.Index(i).Child("name")
		switch {
		case s.Name == "":
			c.required(at, "")
		case len(s.Name) > 253 || !sysctlName.MatchString(s.Name):
			c.invalid(at, s.Name, "is not the name of a sysctl, such as net.ipv4.tcp_syncookies")
		case seen[s.Name]:
			c.duplicate(at, s.Name)
		}
		seen[s.Name] = true
		namespace, _, _ := sysctl.GetNamespace(s.Name)
		if c.spec.HostNetwork && namespace == sysctl.NetNamespace {
			c.invalid(at, s.Name, "would change the node, since hostNetwork is true")
		}
		if c.spec.HostIPC && namespace == sysctl.IPCNamespace {
			c.invalid(at, s.Name, "would change the node, since hostIPC is true")
		}
	}
}

func (c *check) seccomp(profile *v1.SeccompProfile, p *field.Path) {
	if profile == nil {
		return
	}
	oneOf(c, p.Child("type"), profile.Type, v1.SeccompProfileTypeLocalhost, v1.SeccompProfileTypeRuntimeDefault, v1.SeccompProfileTypeUnconfined)
	at := p.Child("localhostProfile")
	switch {
	case profile.Type != v1.SeccompProfileTypeLocalhost:
		if profile.LocalhostProfile != nil {
			c.invalid(at, *profile.LocalhostProfile, "goes with type Localhost only")
		}
	case profile.LocalhostProfile == nil:
		c.required(at, "goes with type Localhost")
	default:
		c.descending(at, *profile.LocalhostProfile)
	}
}

func (c *check) appArmor(profile *v1.AppArmorProfile, p *field.Path) {
	if profile == nil {
		return
	}
	oneOf(c, p.Child("type"), profile.Type, v1.AppArmorProfileTypeLocalhost, v1.AppArmorProfileTypeRuntimeDefault, v1.AppArmorProfileTypeUnconfined)
	at, local := p.Child("localhostProfile"), profile.LocalhostProfile
	switch {
	case profile.Type != v1.AppArmorProfileTypeLocalhost:
		if local != nil {
			c.invalid(at, *local, "goes with type Localhost only")
		}
	case local == nil || *local == "":
		c.required(at, "goes with type Localhost")
	case strings.TrimSpace(*local) != *local:
		c.invalid(at, *local, "must not begin or end with white space")
	case len(*local) > 4095:
		c.errs = append(c.errs, field.TooLong(at, *local, 4095))
	}
}

// Annotations of old manifests that say what fields say today. The kubelet
// does not act on them any more, but the API still checks them.
const (
	seccompPod       = v1.SeccompPodAnnotationKey
	seccompContainer = v1.SeccompContainerAnnotationKeyPrefix
	appArmor         = v1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix
	localhost        = "localhost/"
	runtimeDefault   = "runtime/default"
	dockerDefault    = "docker/default"
	unconfined       = "unconfined"
)

func (c *check) securityAnnotations(p *field.Path) {
	for key, value := range c.annotations {
		switch {
		case key == seccompPod, strings.HasPrefix(key, seccompContainer):
			if file, ok := strings.CutPrefix(value, localhost); ok {
				c.descending(p.Key(key), file)
			} else if value != runtimeDefault && value != dockerDefault && value != unconfined {
				c.invalid(p.Key(key), value, "must be runtime/default, unconfined or localhost/<file>")
			}
		case strings.HasPrefix(key, appArmor):
			name := strings.TrimPrefix(key, appArmor)
			found := false
			c.eachContainer(nil, func(ctr *v1.Container, _ *field.Path) { found = found || ctr.Name == name })
			if !found {
				c.invalid(p.Key(key), name, "is not a container of this pod")
			}
			if value != "" && value != runtimeDefault && value != unconfined && !strings.HasPrefix(value, localhost) {
				c.invalid(p.Key(key), value, "must be runtime/default, unconfined or localhost/<profile>")
			}
		}
	}
}

// annotationsMatch holds old annotations to the fields, where both are set.
func (c *check) annotationsMatch(spec *field.Path) {
	var podSeccomp *v1.SeccompProfile
	var podAppArmor *v1.AppArmorProfile
	if sc := c.spec.SecurityContext; sc != nil {
		podSeccomp, podAppArmor = sc.SeccompProfile, sc.AppArmorProfile
	}
	if value, ok := c.annotations[seccompPod]; ok && podSeccomp != nil {
		c.match(spec.Child("securityContext", "seccompProfile"), value, string(podSeccomp.Type), podSeccomp.LocalhostProfile, runtimeDefault, dockerDefault)
	}
	windows := c.spec.OS != nil && c.spec.OS.Name == v1.Windows
	c.eachContainer(spec, func(ctr *v1.Container, p *field.Path) {
		at := p.Child("securityContext")
		profile := podAppArmor
		if sc := ctr.SecurityContext; sc != nil {
			if sc.AppArmorProfile != nil {
				profile = sc.AppArmorProfile
			}
			if value, ok := c.annotations[seccompContainer+ctr.Name]; ok && sc.SeccompProfile != nil {
				c.match(at.Child("seccompProfile"), value, string(sc.SeccompProfile.Type), sc.SeccompProfile.LocalhostProfile, runtimeDefault, dockerDefault)
			}
		}
		if value, ok := c.annotations[appArmor+ctr.Name]; ok && profile != nil && !windows {
			c.match(at.Child("appArmorProfile"), value, string(profile.Type), profile.LocalhostProfile, runtimeDefault)
		}
	})
}

// match compares an annotation with a profile's type and file. The names of
// the types are the same for seccomp and AppArmor.
func (c *check) match(p *field.Path, annotation, kind string, file *string, defaults ...string) {
	ok := true
	switch kind {
	case "Unconfined":
		ok = annotation == unconfined
	case "RuntimeDefault":
		ok = slices.Contains(defaults, annotation)
	case "Localhost":
		name, local := strings.CutPrefix(annotation, localhost)
		ok = local && file != nil && name == *file
	}
	if !ok {
		c.forbidden(p, "must say the same as the pod's annotation; remove the annotation")
	}
}
