package podsecurity

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/validation"
	apivalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/pod-security-admission/api"
)

// Problem is a value that is wrong, by the path of its field in the file.
type Problem struct{ Field, Reason string }

// allStaticPods exempts them all.
const allStaticPods = "*"

// Validate lists what is wrong with the values.
func (c *Configuration) Validate() []Problem {
	v := &validator{}
	s := &c.PodSecurity
	v.rules("podSecurity.enforce", &s.Enforce)
	v.rules("podSecurity.audit", &s.Audit)
	v.rules("podSecurity.warn", &s.Warn)
	const exemptions = "podSecurity.exemptions"
	v.each(exemptions+".namespaces", s.Exemptions.Namespaces, func(name string) string {
		return strings.Join(validation.ValidateNamespaceName(name, false), "; ")
	})
	v.each(exemptions+".runtimeClasses", s.Exemptions.RuntimeClasses, func(name string) string {
		return strings.Join(apivalidation.IsDNS1123Subdomain(name), "; ")
	})
	v.each(exemptions+".staticPods", s.Exemptions.StaticPods, func(name string) string {
		namespace, pod, ok := strings.Cut(name, "/")
		if name != allStaticPods && (!ok || len(apivalidation.IsDNS1123Label(namespace)) > 0 || len(apivalidation.IsDNS1123Subdomain(pod)) > 0) {
			return `must be namespace/name of a manifest, or "*" for all static pods`
		}
		return ""
	})
	return v.problems
}

type validator struct{ problems []Problem }

func (v *validator) bad(field, format string, args ...any) {
	v.problems = append(v.problems, Problem{field, fmt.Sprintf(format, args...)})
}

// each checks the elements of a list; check returns what is wrong with one.
func (v *validator) each(field string, list []string, check func(string) string) {
	for i, value := range list {
		at := fmt.Sprintf("%s[%d]", field, i)
		if reason := check(value); reason != "" {
			v.bad(at, "is %q: %s", value, reason)
		} else if slices.Contains(list[:i], value) {
			v.bad(at, "%q is listed twice", value)
		}
	}
}

func (v *validator) rules(field string, r *Rules) {
	if r.Level != "" {
		if _, err := api.ParseLevel(r.Level); err != nil {
			v.bad(field+".level", "is %q, must be one of privileged, baseline, restricted", r.Level)
		}
	}
	if r.Version != "" {
		newest := newest()
		version, err := api.ParseVersion(r.Version)
		switch {
		case err != nil:
			v.bad(field+".version", "is %q, must be latest or v1.N", r.Version)
		case !version.Latest() && newest.Older(version):
			v.bad(field+".version", "is %s, which is newer than this kubelet knows; use latest or up to %s", r.Version, newest)
		}
	}
	v.limits(field+".limits", &r.Limits)
}

// standard gives level and version with their defaults.
func (r *Rules) standard() (level api.Level, version api.Version, err error) {
	level, version = api.LevelPrivileged, api.LatestVersion()
	if r.Level != "" {
		if level, err = api.ParseLevel(r.Level); err != nil {
			return level, version, err
		}
	}
	if r.Version != "" {
		version, err = api.ParseVersion(r.Version)
	}
	return level, version, err
}

var (
	capabilityName = regexp.MustCompile(`^[A-Z][A-Z0-9_]*$`)
	// imagePattern is a registry, whose parts may be patterns, with the
	// beginning of a repository.
	imagePattern = regexp.MustCompile(`^[a-zA-Z0-9*?-]+(\.[a-zA-Z0-9*?-]+)*(:[0-9]+)?(/[a-z0-9._-]+)*$`)
)

func (v *validator) limits(field string, l *Limits) {
	for i, h := range l.HostPaths {
		at := fmt.Sprintf("%s.hostPaths[%d].path", field, i)
		switch {
		case h.Path == "":
			v.bad(at, "is missing")
		case !path.IsAbs(h.Path) || slices.Contains(strings.Split(h.Path, "/"), ".."):
			v.bad(at, "is %q, must be an absolute path without ..", h.Path)
		}
	}
	for name, list := range map[string][]string{"allowAdd": l.Capabilities.AllowAdd, "requireDrop": l.Capabilities.RequireDrop} {
		v.each(field+".capabilities."+name, list, func(c string) string {
			switch {
			case strings.HasPrefix(c, "CAP_"):
				return "must be without CAP_"
			case !capabilityName.MatchString(c):
				return "must be a capability such as NET_ADMIN, or ALL"
			}
			return ""
		})
	}
	types := sourceNames()
	v.each(field+".volumeTypes", l.VolumeTypes, func(name string) string {
		if slices.Contains(types, name) {
			return ""
		}
		for _, near := range types {
			if strings.EqualFold(near, name) {
				return "is not a type of volume; did you mean " + near + "?"
			}
		}
		return "is not a type of volume"
	})
	v.each(field+".images", l.Images, func(pattern string) string {
		host, _, _ := strings.Cut(pattern, "/")
		switch {
		case !imagePattern.MatchString(pattern):
			return "must be a registry or the beginning of a repository, without scheme, tag and digest"
		case !isRegistry(host) && !strings.ContainsAny(host, "*?"):
			return "must begin with a registry; for Docker Hub write docker.io/library/NAME"
		}
		return ""
	})
}
