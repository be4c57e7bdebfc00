package criconfig

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"kubelet/internal/podspec"
)

// containerSecurity is the container's security context over the pod's
// (https://kubernetes.io/docs/tasks/configure-pod-container/security-context/).
func (b *Builder) containerSecurity(ctx context.Context, in ContainerInput) (*runtimeapi.LinuxContainerSecurityContext, error) {
	pod, c := in.Pod, in.Container
	sc, podSC := c.SecurityContext, pod.Spec.SecurityContext
	if sc == nil {
		sc = &v1.SecurityContext{}
	}
	if podSC == nil {
		podSC = &v1.PodSecurityContext{}
	}
	ns, err := b.namespaces(pod)
	if err != nil {
		return nil, asContainerError(err)
	}
	if in.TargetID != "" && ns.Pid == runtimeapi.NamespaceMode_CONTAINER {
		ns.Pid, ns.TargetId = runtimeapi.NamespaceMode_TARGET, in.TargetID
	}
	out := &runtimeapi.LinuxContainerSecurityContext{
		NamespaceOptions: ns,
		Capabilities:     capabilities(sc.Capabilities),
		Privileged:       isTrue(sc.Privileged),
		SelinuxOptions:   selinuxOptions(first(sc.SELinuxOptions, podSC.SELinuxOptions)),
		RunAsUser:        int64Value(first(sc.RunAsUser, podSC.RunAsUser)),
		RunAsGroup:       int64Value(first(sc.RunAsGroup, podSC.RunAsGroup)),
		ReadonlyRootfs:   isTrue(sc.ReadOnlyRootFilesystem),
		NoNewPrivs:       sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation,
	}
	if err := b.user(ctx, in, out, isTrue(first(sc.RunAsNonRoot, podSC.RunAsNonRoot))); err != nil {
		return nil, err
	}
	if out.SupplementalGroups, out.SupplementalGroupsPolicy, err = groups(podSC); err != nil {
		return nil, containerErrorf("%v", err)
	}
	if out.Seccomp, err = b.seccomp(first(sc.SeccompProfile, podSC.SeccompProfile)); err != nil {
		return nil, err
	}
	if err := apparmor(podspec.AppArmorProfile(pod, c), out); err != nil {
		return nil, err
	}
	if sc.ProcMount == nil || *sc.ProcMount != v1.UnmaskedProcMount {
		out.MaskedPaths, out.ReadonlyPaths = b.maskedPaths, readonlyPaths()
	}
	return out, nil
}

// asContainerError gives a user's error the reason of a container's.
func asContainerError(err error) error {
	if e, ok := err.(*Error); ok {
		return containerErrorf("%s", e.Message)
	}
	return err
}

func first[T any](container, pod *T) *T {
	if container != nil {
		return container
	}
	return pod
}

// user sets who the container runs as: what the spec says, or else the
// image's user; and holds runAsNonRoot against it.
func (b *Builder) user(ctx context.Context, in ContainerInput, out *runtimeapi.LinuxContainerSecurityContext, nonRoot bool) error {
	if u := out.RunAsUser; u != nil {
		if nonRoot && u.Value == 0 {
			return containerErrorf("container's runAsUser breaks non-root policy: runAsNonRoot is set and runAsUser is 0; change one of them")
		}
		return nil
	}
	uid, name, err := b.Images.ImageUser(ctx, in.ImageRef)
	if err != nil {
		return fmt.Errorf("read user of image %s: %w", in.ImageRef, err)
	}
	if uid != nil {
		if nonRoot && *uid == 0 {
			return containerErrorf("container has runAsNonRoot and image will run as root: %s names no other user; set runAsUser", in.Container.Image)
		}
		if errs := validation.IsValidUserID(*uid); nonRoot && len(errs) > 0 {
			return containerErrorf("container has runAsNonRoot and image has an invalid user id (%d): %s; set runAsUser", *uid, strings.Join(errs, "; "))
		}
		out.RunAsUser = &runtimeapi.Int64Value{Value: *uid}
		return nil
	}
	if nonRoot && name != "" {
		return containerErrorf("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root; set runAsUser to the number of that user in %s",
			name, in.Container.Image)
	}
	out.RunAsUsername = name
	return nil
}

// groups are the pod's supplemental groups, the one that owns its volumes
// first.
func groups(sc *v1.PodSecurityContext) ([]int64, runtimeapi.SupplementalGroupsPolicy, error) {
	var list []int64
	if sc.FSGroup != nil {
		list = append(list, *sc.FSGroup)
	}
	list = append(list, sc.SupplementalGroups...)
	if sc.SupplementalGroupsPolicy == nil {
		return list, runtimeapi.SupplementalGroupsPolicy_Merge, nil
	}
	policy, ok := runtimeapi.SupplementalGroupsPolicy_value[string(*sc.SupplementalGroupsPolicy)]
	if !ok {
		return nil, 0, fmt.Errorf("supplementalGroupsPolicy %q is none of Merge, Strict", *sc.SupplementalGroupsPolicy)
	}
	return list, runtimeapi.SupplementalGroupsPolicy(policy), nil
}

func (b *Builder) seccomp(p *v1.SeccompProfile) (*runtimeapi.SecurityProfile, error) {
	switch {
	case p == nil && b.SeccompDefault, p != nil && p.Type == v1.SeccompProfileTypeRuntimeDefault:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}, nil
	case p != nil && p.Type == v1.SeccompProfileTypeLocalhost:
		if p.LocalhostProfile == nil || *p.LocalhostProfile == "" {
			return nil, containerErrorf("seccompProfile type Localhost needs localhostProfile")
		}
		if !filepath.IsLocal(*p.LocalhostProfile) {
			return nil, containerErrorf("seccompProfile localhostProfile %q leads out of the profiles' directory", *p.LocalhostProfile)
		}
		file := filepath.Join(b.Root, "seccomp", *p.LocalhostProfile)
		if info, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
			return nil, &Error{Reason: reasonContainer, Message: fmt.Sprintf(
				"cannot load seccomp profile %q: this node has no such file; put it there, or change localhostProfile", file)}
		} else if err == nil && !info.Mode().IsRegular() {
			return nil, &Error{Reason: reasonContainer, Message: fmt.Sprintf("cannot load seccomp profile %q: it is no file", file)}
		}
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: file}, nil
	default:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}, nil
	}
}

// apparmor sets the profile, in the old string form as well: containerd
// before 1.7 reads only that.
func apparmor(p *v1.AppArmorProfile, out *runtimeapi.LinuxContainerSecurityContext) error {
	if p == nil {
		return nil
	}
	profile, old := &runtimeapi.SecurityProfile{}, ""
	switch p.Type {
	case v1.AppArmorProfileTypeRuntimeDefault:
		profile.ProfileType, old = runtimeapi.SecurityProfile_RuntimeDefault, v1.DeprecatedAppArmorBetaProfileRuntimeDefault
	case v1.AppArmorProfileTypeUnconfined:
		profile.ProfileType, old = runtimeapi.SecurityProfile_Unconfined, v1.DeprecatedAppArmorBetaProfileNameUnconfined
	case v1.AppArmorProfileTypeLocalhost:
		if p.LocalhostProfile == nil || *p.LocalhostProfile == "" {
			return containerErrorf("appArmorProfile type Localhost needs localhostProfile")
		}
		profile.ProfileType, profile.LocalhostRef = runtimeapi.SecurityProfile_Localhost, *p.LocalhostProfile
		old = v1.DeprecatedAppArmorBetaProfileNamePrefix + *p.LocalhostProfile
	default:
		return containerErrorf("appArmorProfile type %q is none of RuntimeDefault, Unconfined, Localhost", p.Type)
	}
	out.Apparmor = profile
	out.ApparmorProfile = old //nolint:staticcheck // see above
	return nil
}

// maskedPaths are hidden from containers with the default procMount: files of
// the kernel that tell about the host or leak through side channels. The list
// is the container ecosystem's (moby's oci/defaults.go).
func maskedPaths(sysDir string) []string {
	paths := []string{
		"/proc/asound",
		"/proc/acpi",
		"/proc/interrupts",
		"/proc/kcore",
		"/proc/keys",
		"/proc/latency_stats",
		"/proc/timer_list",
		"/proc/timer_stats",
		"/proc/sched_debug",
		"/proc/scsi",
		"/sys/firmware",
		"/sys/devices/virtual/powercap",
	}
	// A count of throttling events per CPU, where the hardware has it.
	throttle, _ := filepath.Glob(filepath.Join(sysDir, "devices/system/cpu/cpu[0-9]*/thermal_throttle"))
	sort.Slice(throttle, func(i, j int) bool {
		if len(throttle[i]) != len(throttle[j]) {
			return len(throttle[i]) < len(throttle[j]) // cpu2 before cpu10
		}
		return throttle[i] < throttle[j]
	})
	for _, path := range throttle {
		paths = append(paths, "/sys"+strings.TrimPrefix(path, sysDir))
	}
	return paths
}

func readonlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}

func capabilities(c *v1.Capabilities) *runtimeapi.Capability {
	if c == nil {
		return nil
	}
	out := &runtimeapi.Capability{}
	for _, name := range c.Add {
		out.AddCapabilities = append(out.AddCapabilities, string(name))
	}
	for _, name := range c.Drop {
		out.DropCapabilities = append(out.DropCapabilities, string(name))
	}
	return out
}

func selinuxOptions(o *v1.SELinuxOptions) *runtimeapi.SELinuxOption {
	if o == nil {
		return nil
	}
	return &runtimeapi.SELinuxOption{User: o.User, Role: o.Role, Type: o.Type, Level: o.Level}
}

func int64Value(p *int64) *runtimeapi.Int64Value {
	if p == nil {
		return nil
	}
	return &runtimeapi.Int64Value{Value: *p}
}
