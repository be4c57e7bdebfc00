package podsecurity

import (
	"fmt"
	"path"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// Names of the limits as rules.
const (
	ruleHostPaths    = "limits.hostPaths"
	ruleCapabilities = "limits.capabilities"
	ruleVolumeTypes  = "limits.volumeTypes"
	ruleImages       = "limits.images"
)

func (l *Limits) empty() bool {
	return l.HostPaths == nil && l.VolumeTypes == nil && l.Images == nil &&
		l.Capabilities.AllowAdd == nil && len(l.Capabilities.RequireDrop) == 0
}

// judge lists which limits a pod breaks.
func (l *Limits) judge(pod *v1.Pod) []Violation {
	if l.empty() {
		return nil
	}
	var found []Violation
	for _, v := range []*Violation{l.hostPaths(pod), l.readOnlyHostPaths(pod), l.addedCapabilities(pod), l.droppedCapabilities(pod), l.volumeTypes(pod), l.images(pod)} {
		if v != nil {
			found = append(found, *v)
		}
	}
	return found
}

// blame adds a field with its value to a violation that may not be there yet.
func blame(v **Violation, rule, advice, field, value string) {
	if *v == nil {
		*v = &Violation{Rule: rule, Advice: advice}
	} else {
		(*v).Detail += ", "
	}
	(*v).Fields = append((*v).Fields, field)
	(*v).Detail += value
}

// hostPaths are judged by their names: what a link on the node's disk makes of
// them is its owner's business.
func (l *Limits) hostPaths(pod *v1.Pod) (found *Violation) {
	if l.HostPaths == nil {
		return nil
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.HostPath != nil && len(l.allowing(v.HostPath.Path)) == 0 {
			blame(&found, ruleHostPaths, "mount one of "+l.showHostPaths(),
				fmt.Sprintf("spec.volumes[%d].hostPath.path", i), fmt.Sprintf("%q is not allowed on this node", v.HostPath.Path))
		}
	}
	return found
}

// readOnlyHostPaths finds the mounts that could write where only reading is
// allowed.
func (l *Limits) readOnlyHostPaths(pod *v1.Pod) (found *Violation) {
	readOnly := map[string]string{}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.HostPath == nil {
			continue
		}
		allowing := l.allowing(v.HostPath.Path)
		if len(allowing) > 0 && !slices.ContainsFunc(allowing, func(h HostPath) bool { return !h.ReadOnly }) {
			readOnly[v.Name] = v.HostPath.Path
		}
	}
	if len(readOnly) == 0 {
		return nil
	}
	for _, c := range containers(pod) {
		for j := range c.spec.VolumeMounts {
			m := &c.spec.VolumeMounts[j]
			if path, ok := readOnly[m.Name]; ok && !m.ReadOnly {
				blame(&found, ruleHostPaths, "set it to true", fmt.Sprintf("%s.volumeMounts[%d].readOnly", c.path, j),
					fmt.Sprintf("%q may only be read on this node", path))
			}
		}
	}
	return found
}

// allowing lists the limits that a path is within.
func (l *Limits) allowing(dir string) (allowing []HostPath) {
	if !path.IsAbs(dir) || slices.Contains(strings.Split(dir, "/"), "..") {
		return nil
	}
	dir = path.Clean(dir)
	for _, h := range l.HostPaths {
		if allowed := path.Clean(h.Path); allowed == "/" || dir == allowed || strings.HasPrefix(dir, allowed+"/") {
			allowing = append(allowing, h)
		}
	}
	return allowing
}

func (l *Limits) showHostPaths() string {
	paths := make([]string, len(l.HostPaths))
	for i, h := range l.HostPaths {
		paths[i] = h.Path
		if h.ReadOnly {
			paths[i] += " (read-only)"
		}
	}
	return show(paths)
}

// show lists what is allowed.
func show(list []string) string {
	if len(list) == 0 {
		return "none, they are not allowed on this node"
	}
	return strings.Join(list, ", ")
}

const allCapabilities = "ALL"

// capability is a name as runtimes understand it, with or without CAP_ and in
// any case.
func capability(name string) string { return strings.TrimPrefix(strings.ToUpper(name), "CAP_") }

func hasCapability(list []v1.Capability, name string) bool {
	return slices.ContainsFunc(list, func(c v1.Capability) bool { return capability(string(c)) == name })
}

func (l *Limits) addedCapabilities(pod *v1.Pod) (found *Violation) {
	allowed := l.Capabilities.AllowAdd
	if allowed == nil || slices.Contains(allowed, allCapabilities) {
		return nil
	}
	advice := "remove it, capabilities that may be added are " + show(allowed)
	if len(allowed) == 0 {
		advice = "remove it, no capability may be added"
	}
	for _, c := range containers(pod) {
		sc := c.spec.SecurityContext
		if isPrivileged(sc) {
			blame(&found, ruleCapabilities, advice, c.path+".securityContext.privileged", "a privileged container has all capabilities")
		}
		if sc == nil || sc.Capabilities == nil {
			continue
		}
		for j, added := range sc.Capabilities.Add {
			if !slices.Contains(allowed, capability(string(added))) {
				blame(&found, ruleCapabilities, advice, fmt.Sprintf("%s.securityContext.capabilities.add[%d]", c.path, j),
					fmt.Sprintf("%q is not among them", added))
			}
		}
	}
	return found
}

func isPrivileged(sc *v1.SecurityContext) bool {
	return sc != nil && sc.Privileged != nil && *sc.Privileged
}

// droppedCapabilities wants each of them dropped, by name or with all others,
// and not added again.
func (l *Limits) droppedCapabilities(pod *v1.Pod) (found *Violation) {
	required := l.Capabilities.RequireDrop
	for _, c := range containers(pod) {
		caps := &v1.Capabilities{}
		if sc := c.spec.SecurityContext; sc != nil && sc.Capabilities != nil {
			caps = sc.Capabilities
		}
		var missing []string
		for _, name := range required {
			dropped := hasCapability(caps.Drop, allCapabilities) || name != allCapabilities && hasCapability(caps.Drop, name)
			again := name != allCapabilities && hasCapability(caps.Add, name)
			if !dropped || again || isPrivileged(c.spec.SecurityContext) || hasCapability(caps.Add, allCapabilities) {
				missing = append(missing, name)
			}
		}
		if len(missing) > 0 {
			blame(&found, ruleCapabilities, "drop "+strings.Join(required, ", ")+", and add none of them", c.path+".securityContext.capabilities.drop",
				fmt.Sprintf("container %q keeps %s", c.spec.Name, strings.Join(missing, ", ")))
		}
	}
	return found
}

func (l *Limits) volumeTypes(pod *v1.Pod) (found *Violation) {
	if l.VolumeTypes == nil {
		return nil
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if name := sourceName(v); !slices.Contains(l.VolumeTypes, name) {
			blame(&found, ruleVolumeTypes, "use one of "+show(l.VolumeTypes), fmt.Sprintf("spec.volumes[%d].%s", i, name),
				fmt.Sprintf("volume %q is of type %s", v.Name, name))
		}
	}
	return found
}

func (l *Limits) images(pod *v1.Pod) (found *Violation) {
	if l.Images == nil {
		return nil
	}
	advice := "use an image of " + show(l.Images)
	check := func(field, image string) {
		// An empty name is taken from the pod's template later on.
		if image != "" && !slices.ContainsFunc(l.Images, func(pattern string) bool { return matchesImage(pattern, image) }) {
			blame(&found, ruleImages, advice, field, fmt.Sprintf("%q is from elsewhere", image))
		}
	}
	for _, c := range containers(pod) {
		check(c.path+".image", c.spec.Image)
	}
	for i := range pod.Spec.Volumes {
		if source := pod.Spec.Volumes[i].Image; source != nil {
			check(fmt.Sprintf("spec.volumes[%d].image.reference", i), source.Reference)
		}
	}
	return found
}

// matchesImage says whether an image is from a registry, or a repository
// below it. Each part of the pattern's host may be a pattern.
func matchesImage(pattern, image string) bool {
	wantHost, wantPath, _ := strings.Cut(pattern, "/")
	host, repository := splitImage(image)
	return matchesHost(strings.ToLower(wantHost), strings.ToLower(host)) &&
		(wantPath == "" || repository == wantPath || strings.HasPrefix(repository, wantPath+"/"))
}

func matchesHost(pattern, host string) bool {
	wantName, wantPort, _ := strings.Cut(pattern, ":")
	name, port, _ := strings.Cut(host, ":")
	if wantPort != port {
		return false
	}
	return slices.EqualFunc(strings.Split(wantName, "."), strings.Split(name, "."), func(pattern, part string) bool {
		ok, err := path.Match(pattern, part)
		return ok && err == nil
	})
}

const dockerHub = "docker.io"

// splitImage gives an image's registry and repository, with Docker's short
// names spelt out (https://github.com/distribution/reference). The id of an
// image is of no registry.
func splitImage(image string) (host, repository string) {
	name, _, _ := strings.Cut(image, "@")
	if tag := strings.LastIndexByte(name, ':'); tag > strings.LastIndexByte(name, '/') {
		name = name[:tag]
	}
	first, rest, ok := strings.Cut(name, "/")
	if len(image) == 64 && strings.Trim(image, "0123456789abcdef") == "" {
		return "", image
	}
	switch {
	case !ok:
		return dockerHub, "library/" + name
	case !isRegistry(first):
		return dockerHub, name
	case first == "index.docker.io" || first == dockerHub:
		if !strings.Contains(rest, "/") {
			rest = "library/" + rest
		}
		return dockerHub, rest
	}
	return first, rest
}

// isRegistry tells a registry from the first part of a repository.
func isRegistry(first string) bool {
	return strings.ContainsAny(first, ".:") || first == "localhost" || strings.ToLower(first) != first
}
