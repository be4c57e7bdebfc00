package apiclient

import v1 "k8s.io/api/core/v1"

// objectKind is the kind of an object that pods refer to.
type objectKind uint8

const (
	kindConfigMap objectKind = iota
	kindSecret
)

func (k objectKind) resource() string {
	if k == kindConfigMap {
		return "configmaps"
	}
	return "secrets"
}

// objectKey identifies a ConfigMap or Secret.
type objectKey struct {
	kind            objectKind
	namespace, name string
}

// references returns the ConfigMaps and Secrets that a pod refers to; the
// value says whether the pod cannot run without the object. An image pull
// secret that is missing does not keep a pod from running.
func references(pod *v1.Pod) map[objectKey]bool {
	refs := make(map[objectKey]bool)
	add := func(kind objectKind, name string, optional *bool) {
		if name == "" {
			return
		}
		key := objectKey{kind, pod.Namespace, name}
		refs[key] = refs[key] || optional == nil || !*optional
	}
	soft := true
	for i := range pod.Spec.ImagePullSecrets {
		add(kindSecret, pod.Spec.ImagePullSecrets[i].Name, &soft)
	}
	for i := range pod.Spec.Volumes {
		volumeReferences(&pod.Spec.Volumes[i].VolumeSource, add)
	}
	containerReferences := func(env []v1.EnvVar, from []v1.EnvFromSource) {
		for i := range env {
			source := env[i].ValueFrom
			if source == nil {
				continue
			}
			if ref := source.ConfigMapKeyRef; ref != nil {
				add(kindConfigMap, ref.Name, ref.Optional)
			}
			if ref := source.SecretKeyRef; ref != nil {
				add(kindSecret, ref.Name, ref.Optional)
			}
		}
		for i := range from {
			if ref := from[i].ConfigMapRef; ref != nil {
				add(kindConfigMap, ref.Name, ref.Optional)
			}
			if ref := from[i].SecretRef; ref != nil {
				add(kindSecret, ref.Name, ref.Optional)
			}
		}
	}
	for i := range pod.Spec.InitContainers {
		containerReferences(pod.Spec.InitContainers[i].Env, pod.Spec.InitContainers[i].EnvFrom)
	}
	for i := range pod.Spec.Containers {
		containerReferences(pod.Spec.Containers[i].Env, pod.Spec.Containers[i].EnvFrom)
	}
	for i := range pod.Spec.EphemeralContainers {
		containerReferences(pod.Spec.EphemeralContainers[i].Env, pod.Spec.EphemeralContainers[i].EnvFrom)
	}
	return refs
}

func volumeReferences(source *v1.VolumeSource, add func(objectKind, string, *bool)) {
	switch {
	case source.ConfigMap != nil:
		add(kindConfigMap, source.ConfigMap.Name, source.ConfigMap.Optional)
	case source.Secret != nil:
		add(kindSecret, source.Secret.SecretName, source.Secret.Optional)
	case source.Projected != nil:
		for i := range source.Projected.Sources {
			if ref := source.Projected.Sources[i].ConfigMap; ref != nil {
				add(kindConfigMap, ref.Name, ref.Optional)
			}
			if ref := source.Projected.Sources[i].Secret; ref != nil {
				add(kindSecret, ref.Name, ref.Optional)
			}
		}
	case source.CSI != nil && source.CSI.NodePublishSecretRef != nil:
		add(kindSecret, source.CSI.NodePublishSecretRef.Name, nil)
	case source.ISCSI != nil && source.ISCSI.SecretRef != nil:
		add(kindSecret, source.ISCSI.SecretRef.Name, nil)
	case source.FlexVolume != nil && source.FlexVolume.SecretRef != nil:
		add(kindSecret, source.FlexVolume.SecretRef.Name, nil)
	}
}
