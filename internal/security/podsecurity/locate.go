package podsecurity

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/pod-security-admission/policy"
)

// The library says that a check forbids a pod and names containers, not
// fields. Which field it is, is found by asking the same check about pods that
// have nothing but that field: so the places below need to know where a check
// looks, not what it allows there.

// part is the part of a pod that a place is in.
type part int

const (
	inPod part = iota
	inContainer
	inVolume
	inAnnotation
)

// place is where a check looks: a path below the spec, a container or a
// volume, "[*]" for the elements of a list.
type place struct {
	part part
	path string
	// required fields are to blame when they are missing as well.
	required bool
	// with is what a container needs for the check to allow it while the
	// field is not set; nil for nothing.
	with *v1.SecurityContext
}

type knownRule struct {
	advice string
	places []place
}

func container(paths ...string) []place {
	places := make([]place, len(paths))
	for i, p := range paths {
		places[i] = place{part: inContainer, path: p}
	}
	return places
}

func podAndContainer(path string) []place {
	return []place{{part: inPod, path: path}, {part: inContainer, path: path}}
}

func requiredInPodOrContainer(path string) []place {
	return []place{{part: inPod, path: path}, {part: inContainer, path: path, required: true}}
}

// known is what is said about each check of the standards.
var known = map[policy.CheckID]knownRule{
	"allowPrivilegeEscalation": {
		"set it to false", []place{{part: inContainer, path: "securityContext.allowPrivilegeEscalation", required: true}}},
	"appArmorProfile": {
		"remove it, or use RuntimeDefault or a Localhost profile",
		append(podAndContainer("securityContext.appArmorProfile.type"), place{part: inAnnotation})},
	"capabilities_baseline": {
		"remove the capability", container("securityContext.capabilities.add[*]")},
	"capabilities_restricted": {
		"drop ALL and add nothing but NET_BIND_SERVICE", []place{
			{part: inContainer, path: "securityContext.capabilities.drop", required: true},
			{part: inContainer, path: "securityContext.capabilities.add[*]", with: &v1.SecurityContext{
				Capabilities: &v1.Capabilities{Drop: []v1.Capability{"ALL"}}}}}},
	"hostNamespaces": {
		"remove it", []place{{path: "hostNetwork"}, {path: "hostPID"}, {path: "hostIPC"}}},
	"hostPathVolumes": {
		"use a volume of another type", []place{{part: inVolume}}},
	"hostPorts": {
		"remove it and reach the pod through a Service", container("ports[*].hostPort")},
	"hostProbesAndHostLifecycle": {
		"remove it, the pod's own address is used then", container(
			"livenessProbe.httpGet.host", "livenessProbe.tcpSocket.host",
			"readinessProbe.httpGet.host", "readinessProbe.tcpSocket.host",
			"startupProbe.httpGet.host", "startupProbe.tcpSocket.host",
			"lifecycle.postStart.httpGet.host", "lifecycle.postStart.tcpSocket.host",
			"lifecycle.preStop.httpGet.host", "lifecycle.preStop.tcpSocket.host")},
	"privileged": {
		"remove it or set it to false", container("securityContext.privileged")},
	"procMount": {
		"remove it or set it to Default", container("securityContext.procMount")},
	"procMount_restricted": {
		"remove it or set it to Default", container("securityContext.procMount")},
	"restrictedVolumes": {
		"use a configMap, csi, downwardAPI, emptyDir, ephemeral, image, persistentVolumeClaim, projected or secret volume", []place{{part: inVolume}}},
	"runAsNonRoot": {
		"set it to true for the pod or for each container", requiredInPodOrContainer("securityContext.runAsNonRoot")},
	"runAsUser": {
		"set another user than 0", podAndContainer("securityContext.runAsUser")},
	"seLinuxOptions": {
		"remove user and role, and use a type for containers", slices.Concat(
			podAndContainer("securityContext.seLinuxOptions.type"),
			podAndContainer("securityContext.seLinuxOptions.user"),
			podAndContainer("securityContext.seLinuxOptions.role"))},
	"seccompProfile_baseline": {
		"use RuntimeDefault or Localhost, or remove it",
		append(podAndContainer("securityContext.seccompProfile.type"), place{part: inAnnotation})},
	"seccompProfile_restricted": {
		"set RuntimeDefault or Localhost for the pod or for each container", requiredInPodOrContainer("securityContext.seccompProfile.type")},
	"sysctls": {
		"remove the sysctl", []place{{path: "securityContext.sysctls[*].name"}}},
	"windowsHostProcess": {
		"remove it", podAndContainer("securityContext.windowsOptions.hostProcess")},
}

// locate returns the paths of the fields for which the rule forbids the pod.
func (r *rule) locate(pod *v1.Pod) []string {
	var fields []string
	blame := func(path string) {
		if !slices.Contains(fields, path) {
			fields = append(fields, path)
		}
	}
	for _, p := range r.places {
		switch p.part {
		case inPod:
			each(&pod.Spec, p.path, func(path string, alone *v1.PodSpec) {
				if r.forbids(pod, nil, alone) {
					blame("spec." + path)
				}
			})
		case inContainer:
			for _, c := range containers(pod) {
				r.locateInContainer(pod, p, c, blame)
			}
		case inVolume:
			for i := range pod.Spec.Volumes {
				v := &pod.Spec.Volumes[i]
				if r.forbids(pod, nil, &v1.PodSpec{Volumes: []v1.Volume{*v}}) {
					blame(fmt.Sprintf("spec.volumes[%d].%s", i, sourceName(v)))
				}
			}
		case inAnnotation:
			// Those of containers count for containers that there are.
			names := &v1.PodSpec{}
			for _, c := range containers(pod) {
				names.Containers = append(names.Containers, v1.Container{Name: c.spec.Name})
			}
			for _, key := range slices.Sorted(maps.Keys(pod.Annotations)) {
				if r.forbids(pod, map[string]string{key: pod.Annotations[key]}, names) {
					blame("metadata.annotations[" + key + "]")
				}
			}
		}
	}
	return fields
}

func (r *rule) locateInContainer(pod *v1.Pod, p place, c located, blame func(string)) {
	set := false
	each(c.spec, p.path, func(path string, alone *v1.Container) {
		set = true
		if p.with != nil {
			with := p.with.DeepCopy()
			with.Capabilities.Add = alone.SecurityContext.Capabilities.Add
			alone.SecurityContext = with
		}
		alone.Name = c.spec.Name
		if r.forbids(pod, nil, &v1.PodSpec{Containers: []v1.Container{*alone}}) {
			blame(c.path + "." + path)
		}
	})
	if set || !p.required {
		return
	}
	// Missing here: the pod's own setting may stand for it. If that is what is
	// wrong, it has been blamed.
	own := &v1.PodSpec{SecurityContext: pod.Spec.SecurityContext}
	if r.forbids(pod, nil, own) {
		return
	}
	own.Containers = []v1.Container{{Name: c.spec.Name}}
	if r.forbids(pod, nil, own) {
		blame(c.path + "." + p.path)
	}
}

// forbids asks the check about a pod that has nothing but this, and what
// loosens checks as a whole.
func (r *rule) forbids(pod *v1.Pod, annotations map[string]string, spec *v1.PodSpec) bool {
	spec.HostUsers, spec.OS = pod.Spec.HostUsers, pod.Spec.OS
	return !r.check(&metav1.ObjectMeta{Annotations: annotations}, spec).Allowed
}

// located is a container with its path.
type located struct {
	spec *v1.Container
	path string
}

func containers(pod *v1.Pod) []located {
	var list []located
	for i := range pod.Spec.InitContainers {
		list = append(list, located{&pod.Spec.InitContainers[i], fmt.Sprintf("spec.initContainers[%d]", i)})
	}
	for i := range pod.Spec.Containers {
		list = append(list, located{&pod.Spec.Containers[i], fmt.Sprintf("spec.containers[%d]", i)})
	}
	for i := range pod.Spec.EphemeralContainers {
		c := v1.Container(pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		list = append(list, located{&c, fmt.Sprintf("spec.ephemeralContainers[%d]", i)})
	}
	return list
}

// each calls visit for each value that the path leads to, with its path and a
// T that has nothing but that value.
func each[T any](from *T, path string, visit func(path string, alone *T)) {
	steps := strings.Split(path, ".")
	walk(reflect.ValueOf(from).Elem(), steps, "", func(found string, value reflect.Value) {
		alone := new(T)
		plant(reflect.ValueOf(alone).Elem(), steps, value)
		visit(found, alone)
	})
}

// walk finds the values at a path of JSON names. Values that are not set are
// none.
func walk(v reflect.Value, steps []string, at string, found func(string, reflect.Value)) {
	if v.Kind() == reflect.Pointer && v.IsNil() || len(steps) == 0 && v.IsZero() {
		return
	}
	if len(steps) == 0 {
		found(at, v)
		return
	}
	if v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	name, list := strings.CutSuffix(steps[0], "[*]")
	field := v.FieldByIndex(fieldNamed(v.Type(), name))
	if at != "" {
		at += "."
	}
	at += name
	if !list {
		walk(field, steps[1:], at, found)
		return
	}
	for i := range field.Len() {
		walk(field.Index(i), steps[1:], at+"["+strconv.Itoa(i)+"]", found)
	}
}

// plant sets the value at a path of an empty struct, in lists as the only
// element.
func plant(v reflect.Value, steps []string, value reflect.Value) {
	if len(steps) == 0 {
		v.Set(value)
		return
	}
	if v.Kind() == reflect.Pointer {
		v.Set(reflect.New(v.Type().Elem()))
		v = v.Elem()
	}
	name, list := strings.CutSuffix(steps[0], "[*]")
	field := v.FieldByIndex(fieldNamed(v.Type(), name))
	if list {
		field.Set(reflect.MakeSlice(field.Type(), 1, 1))
		field = field.Index(0)
	}
	plant(field, steps[1:], value)
}

// fieldNamed returns the index of the field with that JSON name, inlined
// structs included.
func fieldNamed(t reflect.Type, name string) []int {
	for i := range t.NumField() {
		f := t.Field(i)
		tag, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if tag == name {
			return []int{i}
		}
		if tag == "" && f.Anonymous {
			if inner := fieldNamed(f.Type, name); inner != nil {
				return append([]int{i}, inner...)
			}
		}
	}
	return nil
}

// sourceName is the name of a volume's type in a manifest.
func sourceName(v *v1.Volume) string {
	source := reflect.ValueOf(v.VolumeSource)
	for i := range source.NumField() {
		if f := source.Field(i); !f.IsNil() {
			name, _, _ := strings.Cut(source.Type().Field(i).Tag.Get("json"), ",")
			return name
		}
	}
	return "emptyDir" // the API's default
}

// sourceNames are the types of volumes.
func sourceNames() []string {
	t := reflect.TypeFor[v1.VolumeSource]()
	names := make([]string, t.NumField())
	for i := range names {
		names[i], _, _ = strings.Cut(t.Field(i).Tag.Get("json"), ",")
	}
	return names
}
