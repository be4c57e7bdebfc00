package validate

import (
	"regexp"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// windows checks spec.os and the fields that belong to one system only. A
// Windows pod is well formed and then rejected at admission, as any pod for
// another system; the manifest's author learns the true reason there.
func (c *check) windows(spec *field.Path) {
	c.hostProcess(spec)
	if c.spec.OS == nil || !oneOf(c, spec.Child("os", "name"), c.spec.OS.Name, v1.Linux, v1.Windows) {
		return
	}
	sc := c.spec.SecurityContext
	if c.spec.OS.Name == v1.Linux {
		const linux = "does not go with os.name linux"
		if sc != nil && sc.WindowsOptions != nil {
			c.forbidden(spec.Child("securityContext", "windowsOptions"), linux)
		}
		c.eachContainer(spec, func(ctr *v1.Container, p *field.Path) {
			if ctr.SecurityContext != nil && ctr.SecurityContext.WindowsOptions != nil {
				c.forbidden(p.Child("securityContext", "windowsOptions"), linux)
			}
		})
		return
	}
	refuse := func(p *field.Path, set map[string]bool) {
		for name, isSet := range set {
			if isSet {
				c.forbidden(p.Child(name), "does not go with os.name windows")
			}
		}
	}
	refuse(spec, map[string]bool{
		"hostUsers":             c.spec.HostUsers != nil,
		"hostPID":               c.spec.HostPID,
		"hostIPC":               c.spec.HostIPC,
		"shareProcessNamespace": c.spec.ShareProcessNamespace != nil,
	})
	if sc != nil {
		refuse(spec.Child("securityContext"), map[string]bool{
			"appArmorProfile":          sc.AppArmorProfile != nil,
			"seLinuxOptions":           sc.SELinuxOptions != nil,
			"seccompProfile":           sc.SeccompProfile != nil,
			"fsGroup":                  sc.FSGroup != nil,
			"fsGroupChangePolicy":      sc.FSGroupChangePolicy != nil,
			"sysctls":                  len(sc.Sysctls) > 0,
			"runAsUser":                sc.RunAsUser != nil,
			"runAsGroup":               sc.RunAsGroup != nil,
			"supplementalGroups":       sc.SupplementalGroups != nil,
			"supplementalGroupsPolicy": sc.SupplementalGroupsPolicy != nil,
			"seLinuxChangePolicy":      sc.SELinuxChangePolicy != nil,
		})
	}
	c.eachContainer(spec, func(ctr *v1.Container, p *field.Path) {
		if sc := ctr.SecurityContext; sc != nil {
			refuse(p.Child("securityContext"), map[string]bool{
				"appArmorProfile":          sc.AppArmorProfile != nil,
				"seLinuxOptions":           sc.SELinuxOptions != nil,
				"seccompProfile":           sc.SeccompProfile != nil,
				"capabilities":             sc.Capabilities != nil,
				"readOnlyRootFilesystem":   sc.ReadOnlyRootFilesystem != nil,
				"privileged":               sc.Privileged != nil,
				"allowPrivilegeEscalation": sc.AllowPrivilegeEscalation != nil,
				"procMount":                sc.ProcMount != nil,
				"runAsUser":                sc.RunAsUser != nil,
				"runAsGroup":               sc.RunAsGroup != nil,
			})
		}
	})
}

// hostProcess: either all containers of a pod are Windows host processes or
// none is.
func (c *check) hostProcess(spec *field.Path) {
	var ofPod *bool
	if sc := c.spec.SecurityContext; sc != nil && sc.WindowsOptions != nil {
		ofPod = sc.WindowsOptions.HostProcess
	}
	all, host := 0, 0
	c.eachContainer(spec, func(ctr *v1.Container, p *field.Path) {
		all++
		effective := ofPod
		if sc := ctr.SecurityContext; sc != nil && sc.WindowsOptions != nil && sc.WindowsOptions.HostProcess != nil {
			effective = sc.WindowsOptions.HostProcess
			if ofPod != nil && *ofPod != *effective {
				c.invalid(p.Child("securityContext", "windowsOptions", "hostProcess"), *effective, "must be the same as the pod's")
			}
		}
		if effective != nil && *effective {
			host++
		}
	})
	if host == 0 {
		return
	}
	if host != all {
		c.invalid(spec, "", "either all containers are host processes or none is")
	}
	if !c.spec.HostNetwork {
		c.invalid(spec.Child("hostNetwork"), false, "must be true with host processes")
	}
}

// A Windows account, [domain\]user: the domain in NetBIOS or DNS form.
var (
	controls     = regexp.MustCompile(`[[:cntrl:]]`)
	netBIOS      = regexp.MustCompile(`^[^\\/:\*\?"<>|\.][^\\/:\*\?"<>|]{0,14}$`)
	dnsDomain    = regexp.MustCompile(`^[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*$`)
	dotsOrSpaces = regexp.MustCompile(`^[\. ]+$`)
)

const (
	maxCredentialSpec = 64 << 10
	maxUserDomain     = 255
	maxUser           = 104
)

func (c *check) windowsOptions(o *v1.WindowsSecurityContextOptions, p *field.Path) {
	if o == nil {
		return
	}
	if o.GMSACredentialSpecName != nil {
		c.all(p.Child("gmsaCredentialSpecName"), *o.GMSACredentialSpecName, validation.IsDNS1123Subdomain(*o.GMSACredentialSpecName))
	}
	if o.GMSACredentialSpec != nil {
		if n := len(*o.GMSACredentialSpec); n == 0 || n > maxCredentialSpec {
			c.invalid(p.Child("gmsaCredentialSpec"), n, "must have 1 byte to 64 KiB")
		}
	}
	if o.RunAsUserName == nil {
		return
	}
	at, name := p.Child("runAsUserName"), *o.RunAsUserName
	domain, user, qualified := strings.Cut(name, `\`)
	if !qualified {
		domain, user = "", name
	}
	switch {
	case controls.MatchString(name):
		c.invalid(at, name, "must not contain control characters")
	case user == "" || len(user) > maxUser || dotsOrSpaces.MatchString(user) || strings.ContainsAny(user, `"/\:;|=,+*?<>@[]`):
		c.invalid(at, name, "is not [domain\\]user with a user name of Windows")
	case qualified && (len(domain) > maxUserDomain || !netBIOS.MatchString(domain) && !dnsDomain.MatchString(domain)):
		c.invalid(at, name, "has a domain that is neither a NetBIOS nor a DNS name")
	}
}
