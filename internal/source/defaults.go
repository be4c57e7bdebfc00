package source

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"

	"kubelet/internal/source/validate"
)

// Features are the feature gates that change what a manifest means.
type Features struct {
	validate.Options
	// H2CContainerProbe names the protocol of HTTP probes.
	H2CContainerProbe bool
	// PodLevelResourcesFixDefaulting leaves a pod's own requests to the API
	// server, which sees the containers that webhooks add.
	PodLevelResourcesFixDefaulting bool
}

// DefaultFeatures returns the gates as they are in Kubernetes 1.37.
func DefaultFeatures() Features {
	return Features{Options: validate.Defaults(), PodLevelResourcesFixDefaulting: true}
}

// setDefaults fills in what the API server would: the documented default of
// each field of a pod
// (https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/).
func setDefaults(pod *v1.Pod, f Features) {
	spec := &pod.Spec
	if spec.ServiceAccountName == "" {
		spec.ServiceAccountName = spec.DeprecatedServiceAccount
	}
	spec.DeprecatedServiceAccount = spec.ServiceAccountName
	orElse(&spec.DNSPolicy, v1.DNSClusterFirst)
	orElse(&spec.RestartPolicy, v1.RestartPolicyAlways)
	orElse(&spec.SchedulerName, v1.DefaultSchedulerName)
	pointTo(&spec.SecurityContext, v1.PodSecurityContext{})
	pointTo(&spec.EnableServiceLinks, v1.DefaultEnableServiceLinks)
	pointTo(&spec.TerminationGracePeriodSeconds, v1.DefaultTerminationGracePeriodSeconds)
	if *spec.TerminationGracePeriodSeconds < 0 {
		*spec.TerminationGracePeriodSeconds = 1
	}

	for i := range spec.Containers {
		requestLimits(&spec.Containers[i].Resources)
	}
	for i := range spec.InitContainers {
		requestLimits(&spec.InitContainers[i].Resources)
	}
	if f.PodLevelResources && !f.PodLevelResourcesFixDefaulting {
		defaultPodResources(pod)
	}
	for i := range spec.Volumes {
		defaultVolume(&spec.Volumes[i].VolumeSource)
	}
	for i := range spec.InitContainers {
		defaultContainer(&spec.InitContainers[i], spec.HostNetwork, f)
	}
	for i := range spec.Containers {
		defaultContainer(&spec.Containers[i], spec.HostNetwork, f)
	}
	for i := range spec.EphemeralContainers {
		defaultContainer((*v1.Container)(&spec.EphemeralContainers[i].EphemeralContainerCommon), false, f)
	}
	roundUp(spec.Overhead)
	if spec.Resources != nil {
		roundUp(spec.Resources.Limits)
		roundUp(spec.Resources.Requests)
	}
	defaultStatus(&pod.Status)
}

func orElse[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func pointTo[T any](field **T, value T) {
	if *field == nil {
		*field = &value
	}
}

// requestLimits requests what is limited, where nothing else is requested.
func requestLimits(r *v1.ResourceRequirements) {
	if r.Limits == nil {
		return
	}
	if r.Requests == nil {
		r.Requests = make(v1.ResourceList, len(r.Limits))
	}
	for name, limit := range r.Limits {
		if _, ok := r.Requests[name]; !ok {
			r.Requests[name] = limit.DeepCopy()
		}
	}
}

// roundUp rounds to thousandths, the finest that the API knows.
func roundUp(list v1.ResourceList) {
	for name, q := range list {
		q.RoundUp(resource.Milli)
		list[name] = q
	}
}

func defaultContainer(c *v1.Container, hostNetwork bool, f Features) {
	if c.ImagePullPolicy == "" {
		c.ImagePullPolicy = defaultPullPolicy(c.Image)
	}
	orElse(&c.TerminationMessagePath, v1.TerminationMessagePathDefault)
	orElse(&c.TerminationMessagePolicy, v1.TerminationMessageReadFile)
	for i := range c.Ports {
		p := &c.Ports[i]
		orElse(&p.Protocol, v1.ProtocolTCP)
		if hostNetwork {
			orElse(&p.HostPort, p.ContainerPort)
		}
	}
	for i := range c.Env {
		from := c.Env[i].ValueFrom
		if from == nil {
			continue
		}
		defaultFieldRef(from.FieldRef)
		if from.FileKeyRef != nil {
			pointTo(&from.FileKeyRef.Optional, false)
		}
	}
	roundUp(c.Resources.Limits)
	roundUp(c.Resources.Requests)
	for _, p := range []*v1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
		if p == nil {
			continue
		}
		orElse(&p.TimeoutSeconds, 1)
		orElse(&p.PeriodSeconds, 10)
		orElse(&p.SuccessThreshold, 1)
		orElse(&p.FailureThreshold, 3)
		defaultHTTPGet(p.HTTPGet, f)
		if p.GRPC != nil {
			pointTo(&p.GRPC.Service, "")
		}
	}
	if l := c.Lifecycle; l != nil {
		if l.PostStart != nil {
			defaultHTTPGet(l.PostStart.HTTPGet, f)
		}
		if l.PreStop != nil {
			defaultHTTPGet(l.PreStop.HTTPGet, f)
		}
	}
}

func defaultHTTPGet(get *v1.HTTPGetAction, f Features) {
	if get == nil {
		return
	}
	orElse(&get.Path, "/")
	orElse(&get.Scheme, v1.URISchemeHTTP)
	if f.H2CContainerProbe {
		pointTo(&get.Protocol, v1.HTTPProtocolHTTP1)
	}
}

func defaultFieldRef(ref *v1.ObjectFieldSelector) {
	if ref != nil {
		orElse(&ref.APIVersion, "v1")
	}
}

func defaultVolume(v *v1.VolumeSource) {
	if *v == (v1.VolumeSource{}) {
		v.EmptyDir = &v1.EmptyDirVolumeSource{}
	}
	if v.Image != nil && v.Image.PullPolicy == "" {
		v.Image.PullPolicy = defaultPullPolicy(v.Image.Reference)
	}
	if v.HostPath != nil {
		pointTo(&v.HostPath.Type, v1.HostPathUnset)
	}
	if v.Secret != nil {
		pointTo(&v.Secret.DefaultMode, v1.SecretVolumeSourceDefaultMode)
	}
	if v.ConfigMap != nil {
		pointTo(&v.ConfigMap.DefaultMode, v1.ConfigMapVolumeSourceDefaultMode)
	}
	if v.DownwardAPI != nil {
		pointTo(&v.DownwardAPI.DefaultMode, v1.DownwardAPIVolumeSourceDefaultMode)
		for i := range v.DownwardAPI.Items {
			defaultFieldRef(v.DownwardAPI.Items[i].FieldRef)
		}
	}
	if v.Projected != nil {
		pointTo(&v.Projected.DefaultMode, v1.ProjectedVolumeSourceDefaultMode)
		for i := range v.Projected.Sources {
			s := &v.Projected.Sources[i]
			if s.DownwardAPI != nil {
				for j := range s.DownwardAPI.Items {
					defaultFieldRef(s.DownwardAPI.Items[j].FieldRef)
				}
			}
			if s.ServiceAccountToken != nil {
				pointTo(&s.ServiceAccountToken.ExpirationSeconds, 60*60)
			}
		}
	}
	if v.ISCSI != nil {
		orElse(&v.ISCSI.ISCSIInterface, "default")
	}
	if v.RBD != nil {
		orElse(&v.RBD.RBDPool, "rbd")
		orElse(&v.RBD.RadosUser, "admin")
		orElse(&v.RBD.Keyring, "/etc/ceph/keyring")
	}
	if v.AzureDisk != nil {
		pointTo(&v.AzureDisk.CachingMode, v1.AzureDataDiskCachingReadWrite)
		pointTo(&v.AzureDisk.FSType, "ext4")
		pointTo(&v.AzureDisk.ReadOnly, false)
		pointTo(&v.AzureDisk.Kind, v1.AzureSharedBlobDisk)
	}
	if v.ScaleIO != nil {
		orElse(&v.ScaleIO.StorageMode, "ThinProvisioned")
		orElse(&v.ScaleIO.FSType, "xfs")
	}
}

// defaultPodResources derives what the pod as a whole asks for from what its
// containers do, once it asks for anything at all (KEP-2837).
func defaultPodResources(pod *v1.Pod) {
	r := pod.Spec.Resources
	if r == nil || len(r.Limits)+len(r.Requests) == 0 {
		return
	}
	add := func(to *v1.ResourceList, name v1.ResourceName, q resource.Quantity) {
		if _, ok := (*to)[name]; ok || !resourcehelper.IsSupportedPodLevelResource(name) {
			return
		}
		if *to == nil {
			*to = v1.ResourceList{}
		}
		(*to)[name] = q.DeepCopy()
	}
	for name, q := range resourcehelper.AggregateContainerLimits(pod, resourcehelper.PodResourcesOptions{}) {
		if _, requested := r.Requests[name]; validate.IsHugePages(name) && !requested {
			add(&r.Limits, name, q)
		}
	}
	if len(r.Limits) == 0 {
		return
	}
	for name, q := range resourcehelper.AggregateContainerRequests(pod, resourcehelper.PodResourcesOptions{}) {
		if !validate.IsHugePages(name) {
			add(&r.Requests, name, q)
		}
	}
	for name, q := range r.Limits {
		add(&r.Requests, name, q)
	}
}

// defaultStatus completes a status, which a manifest that was copied from a
// running pod has. Nothing reads it, but it is part of the pod's hash.
func defaultStatus(s *v1.PodStatus) {
	switch {
	case s.PodIP != "" && (len(s.PodIPs) == 0 || s.PodIPs[0].IP != s.PodIP):
		s.PodIPs = []v1.PodIP{{IP: s.PodIP}}
	case s.PodIP == "" && len(s.PodIPs) > 0:
		s.PodIP = s.PodIPs[0].IP
	}
	for _, list := range [][]v1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses} {
		for i := range list {
			roundUp(list[i].AllocatedResources)
			if list[i].Resources != nil {
				roundUp(list[i].Resources.Limits)
				roundUp(list[i].Resources.Requests)
			}
		}
	}
	roundUp(s.AllocatedResources)
	if s.Resources != nil {
		roundUp(s.Resources.Limits)
		roundUp(s.Resources.Requests)
	}
}
