package server

import (
	"context"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"kubelet/internal/desired"
	"kubelet/internal/observed"
	"kubelet/internal/podspec"
)

// findPod returns the pod of a name: of several, that which has a sandbox, a
// pod on its way out included. A UID, if given, must be the pod's, or for a
// static pod that of its mirror.
func (s *Server) findPod(namespace, name string, uid types.UID) (*v1.Pod, bool) {
	full := podspec.Name(name + "_" + namespace)
	pods := s.cfg.Desired.ByName(full)
	if uid != "" {
		mirror := s.cfg.Desired.Mirror(full)
		pods = slices.DeleteFunc(pods, func(d desired.Pod) bool {
			return d.Pod.UID != uid && (mirror == nil || mirror.UID != uid || !podspec.IsStatic(d.Pod))
		})
	}
	for _, d := range pods {
		if s.cfg.Observed.Get(d.Pod.UID).ReadySandbox() != nil {
			return d.Pod, true
		}
	}
	if len(pods) == 0 {
		return nil, false
	}
	return pods[0].Pod, true
}

// running returns the running container of a pod, or nil.
func (s *Server) running(ctx context.Context, pod *v1.Pod, name string) *observed.Container {
	select {
	case <-s.cfg.Observed.Synced():
	case <-ctx.Done():
		return nil
	}
	c := s.cfg.Observed.Get(pod.UID).Latest(name)
	if c == nil || c.State != observed.Running {
		return nil
	}
	return c
}

// containerSpec returns what a container of any kind was asked to be.
func containerSpec(pod *v1.Pod, name string) (spec v1.Container, ok bool) {
	for _, list := range [][]v1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if list[i].Name == name {
				return list[i], true
			}
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if e := &pod.Spec.EphemeralContainers[i]; e.Name == name {
			return v1.Container(e.EphemeralContainerCommon), true
		}
	}
	return spec, false
}
