package main

import (
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

const image = "localhost/test/agent:1"

// shape is a kind of pod.
type shape struct {
	name, what string
	make       func(*v1.Pod)
}

// The shapes of scenario 1. All are bound to their node when they are made:
// the scheduler is not measured.
var (
	bare = shape{"bare", "bare pod", func(*v1.Pod) {}}

	withVolumes = shape{"volumes", "pod with ConfigMap, Secret, token, emptyDir", func(p *v1.Pod) {
		p.Spec.AutomountServiceAccountToken = nil
		p.Spec.Volumes = []v1.Volume{
			{Name: "config", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: "config"}}}},
			{Name: "secret", VolumeSource: v1.VolumeSource{Secret: &v1.SecretVolumeSource{SecretName: "secret"}}},
			{Name: "scratch", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}},
		}
		p.Spec.Containers[0].VolumeMounts = []v1.VolumeMount{
			{Name: "config", MountPath: "/config"}, {Name: "secret", MountPath: "/secret"}, {Name: "scratch", MountPath: "/scratch"},
		}
	}}

	threeContainers = shape{"containers", "pod with one init container and three containers", func(p *v1.Pod) {
		main := p.Spec.Containers[0]
		init := main
		init.Name, init.Args = "init", []string{"exit", "0"}
		second, third := main, main
		second.Name, third.Name = "second", "third"
		p.Spec.InitContainers = []v1.Container{init}
		p.Spec.Containers = append(p.Spec.Containers, second, third)
	}}
)

// pod makes a pod of that shape for a column's node.
func (s shape) pod(name string, c *column) *v1.Pod {
	p := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, Labels: map[string]string{"column": c.name}},
		Spec: v1.PodSpec{
			NodeName: c.node.Name,
			// A node whose kubelet was stopped for a while is tainted.
			Tolerations:                  []v1.Toleration{{Operator: v1.TolerationOpExists}},
			AutomountServiceAccountToken: ptr.To(false),
			EnableServiceLinks:           ptr.To(false),
			Containers:                   []v1.Container{{Name: "main", Image: image, Args: []string{"pause"}, ImagePullPolicy: v1.PullIfNotPresent}},
		},
	}
	s.make(p)
	return p
}
