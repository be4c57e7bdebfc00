package criconfig

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"kubelet/internal/podspec"
)

func isNotFound(err error) bool { return err != nil && apierrors.IsNotFound(err) }

// environment is a container's variables in the order in which they were
// first set; service variables come last and never override others.
type environment struct {
	names    []string
	values   map[string]string
	services map[string]string
}

func (e *environment) set(name, value string) {
	if _, ok := e.values[name]; !ok {
		e.names = append(e.names, name)
	}
	e.values[name] = value
}

func (e *environment) lookup(name string) (string, bool) {
	if v, ok := e.values[name]; ok {
		return v, true
	}
	v, ok := e.services[name]
	return v, ok
}

func (e *environment) keyValues() []*runtimeapi.KeyValue {
	list := make([]*runtimeapi.KeyValue, 0, len(e.names)+len(e.services))
	for _, name := range e.names {
		list = append(list, &runtimeapi.KeyValue{Key: name, Value: []byte(e.values[name])})
	}
	for _, name := range slices.Sorted(maps.Keys(e.services)) {
		if _, ok := e.values[name]; !ok {
			list = append(list, &runtimeapi.KeyValue{Key: name, Value: []byte(e.services[name])})
		}
	}
	return list
}

// environment resolves envFrom, then env, which overrides it, each in spec
// order. A variable may refer to those before it and to the services'.
func (b *Builder) environment(ctx context.Context, in ContainerInput) (*environment, error) {
	services, err := b.serviceEnv(in.Pod)
	if err != nil {
		return nil, err
	}
	env := &environment{values: map[string]string{}, services: services}
	refs := references{ctx: ctx, b: b, namespace: in.Pod.Namespace}
	for i := range in.Container.EnvFrom {
		if err := refs.envFrom(env, &in.Container.EnvFrom[i]); err != nil {
			return nil, err
		}
	}
	for i := range in.Container.Env {
		v := &in.Container.Env[i]
		if v.Value != "" || v.ValueFrom == nil {
			env.set(v.Name, expand(v.Value, env.lookup))
			continue
		}
		value, ok, err := b.valueFrom(&refs, in, v.ValueFrom)
		if err != nil {
			return nil, inVariable(v.Name, err)
		}
		if ok {
			env.set(v.Name, value)
		}
	}
	return env, env.check()
}

// check refuses what no process can be given, with a better word for it than
// the runtime's.
func (e *environment) check() error {
	for _, name := range e.names {
		if strings.ContainsRune(name, 0) || strings.ContainsRune(e.values[name], 0) {
			return containerErrorf("environment variable %q contains a zero byte, which the kernel does not take; mount it as a file instead", name)
		}
	}
	return nil
}

// inVariable names the variable in the message of a user's error.
func inVariable(name string, err error) error {
	if e, ok := err.(*Error); ok {
		return &Error{Reason: e.Reason, Message: fmt.Sprintf("environment variable %s: %s", name, e.Message)}
	}
	return fmt.Errorf("resolve environment variable %s: %w", name, err)
}

// valueFrom gives a variable's value; ok is false if what it refers to is
// missing and optional.
func (b *Builder) valueFrom(refs *references, in ContainerInput, from *v1.EnvVarSource) (value string, ok bool, err error) {
	switch {
	case from.FieldRef != nil:
		value, err = b.fieldValue(in, from.FieldRef)
		return value, err == nil, err
	case from.ResourceFieldRef != nil:
		name := from.ResourceFieldRef.ContainerName
		if name == "" {
			name = in.Container.Name
		}
		value, err = podspec.ResourceValue(in.Pod, name, from.ResourceFieldRef, b.NodeAllocatable())
		if err != nil {
			return "", false, containerErrorf("resourceFieldRef: %v", err)
		}
		return value, true, nil
	case from.ConfigMapKeyRef != nil:
		r := from.ConfigMapKeyRef
		return refs.configMapKey(r.Name, r.Key, isTrue(r.Optional))
	case from.SecretKeyRef != nil:
		r := from.SecretKeyRef
		return refs.secretKey(r.Name, r.Key, isTrue(r.Optional))
	case from.FileKeyRef != nil && b.EnvFiles:
		return fileKey(in.Mounts, from.FileKeyRef)
	case from.FileKeyRef != nil:
		return "", false, containerErrorf("fileKeyRef needs the feature gate EnvFiles, which is off on this node")
	default:
		return "", false, containerErrorf("valueFrom names no source that this kubelet knows")
	}
}

// fieldValue gives a field of the pod. The addresses come from the sandbox,
// which is newer than the status in the pod object.
func (b *Builder) fieldValue(in ContainerInput, ref *v1.ObjectFieldSelector) (string, error) {
	if v := ref.APIVersion; v != "" && v != "v1" {
		return "", containerErrorf("fieldRef: apiVersion %q is not v1", v)
	}
	switch ref.FieldPath {
	case "status.podIP":
		if len(in.PodIPs) == 0 {
			return "", nil
		}
		return in.PodIPs[0], nil
	case "status.podIPs":
		return strings.Join(in.PodIPs, ","), nil
	case "status.hostIP":
		ips, err := b.nodeIPs()
		if err != nil {
			return "", err
		}
		return ips[0], nil
	case "status.hostIPs":
		ips, err := b.nodeIPs()
		if err != nil {
			return "", err
		}
		return strings.Join(ips, ","), nil
	}
	value, err := podspec.FieldValue(in.Pod, ref.FieldPath)
	if err != nil {
		return "", containerErrorf("fieldRef: %v", err)
	}
	return value, nil
}

// references reads the ConfigMaps and Secrets of one container, each once, so
// that all its variables come from one version of an object.
type references struct {
	ctx        context.Context
	b          *Builder
	namespace  string
	configMaps map[string]*v1.ConfigMap
	secrets    map[string]*v1.Secret
}

func (r *references) envFrom(env *environment, from *v1.EnvFromSource) error {
	switch {
	case from.ConfigMapRef != nil:
		m, err := r.configMap(from.ConfigMapRef.Name, isTrue(from.ConfigMapRef.Optional))
		if err != nil || m == nil {
			return err
		}
		for _, k := range slices.Sorted(maps.Keys(m.Data)) {
			env.set(from.Prefix+k, m.Data[k])
		}
	case from.SecretRef != nil:
		s, err := r.secret(from.SecretRef.Name, isTrue(from.SecretRef.Optional))
		if err != nil || s == nil {
			return err
		}
		for _, k := range slices.Sorted(maps.Keys(s.Data)) {
			env.set(from.Prefix+k, string(s.Data[k]))
		}
	}
	return nil
}

func (r *references) configMapKey(name, key string, optional bool) (string, bool, error) {
	m, err := r.configMap(name, optional)
	if err != nil || m == nil {
		return "", false, err
	}
	value, ok := m.Data[key]
	if !ok && !optional {
		return "", false, containerErrorf("couldn't find key %s in ConfigMap %s/%s; add it or mark the reference optional", key, r.namespace, name)
	}
	return value, ok, nil
}

func (r *references) secretKey(name, key string, optional bool) (string, bool, error) {
	s, err := r.secret(name, optional)
	if err != nil || s == nil {
		return "", false, err
	}
	value, ok := s.Data[key]
	if !ok && !optional {
		return "", false, containerErrorf("couldn't find key %s in Secret %s/%s; add it or mark the reference optional", key, r.namespace, name)
	}
	return string(value), ok, nil
}

// configMap returns nil without an error if it is missing and optional.
func (r *references) configMap(name string, optional bool) (*v1.ConfigMap, error) {
	return reference(r.b, "configmap", name, optional, &r.configMaps, func() (*v1.ConfigMap, error) {
		return r.b.Objects.ConfigMap(r.ctx, r.namespace, name)
	})
}

// secret returns nil without an error if it is missing and optional.
func (r *references) secret(name string, optional bool) (*v1.Secret, error) {
	return reference(r.b, "secret", name, optional, &r.secrets, func() (*v1.Secret, error) {
		return r.b.Objects.Secret(r.ctx, r.namespace, name)
	})
}

func reference[T any](b *Builder, kind, name string, optional bool, known *map[string]*T, get func() (*T, error)) (*T, error) {
	if o, ok := (*known)[name]; ok {
		return o, nil
	}
	if b.Objects == nil {
		return nil, containerErrorf("%s %q: this node has no API server to read it from", kind, name)
	}
	o, err := get()
	switch {
	case isNotFound(err) && optional:
		return nil, nil
	case isNotFound(err):
		return nil, containerErrorf("%s %q not found; create it or mark the reference optional", kind, name)
	case err != nil:
		return nil, fmt.Errorf("read %s %s: %w", kind, name, err)
	}
	if *known == nil {
		*known = map[string]*T{}
	}
	(*known)[name] = o
	return o, nil
}

func isTrue(p *bool) bool { return p != nil && *p }
