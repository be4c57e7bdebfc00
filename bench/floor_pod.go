package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"
)

// start makes the pod's containers run and says so.
func (f *floor) start(ctx context.Context, p *floorPod) error {
	pod := p.pod
	for i := range pod.Spec.InitContainers {
		p.containers = append(p.containers, &floorContainer{spec: &pod.Spec.InitContainers[i], init: true})
	}
	for i := range pod.Spec.Containers {
		p.containers = append(p.containers, &floorContainer{spec: &pod.Spec.Containers[i]})
	}
	p.dir = "/var/lib/kubelet/pods/" + string(pod.UID)
	if err := os.MkdirAll(f.node.Path(p.dir), 0o750); err != nil {
		return err
	}
	pending := make(chan error, 1)
	first := f.pending(p)
	go func() { pending <- f.patch(ctx, pod, first) }()
	volumes := make(chan error, 1)
	go func() { volumes <- f.volumes(ctx, p) }()

	begin := time.Now()
	config := f.sandboxConfig(p)
	sandbox, err := f.node.Runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: config})
	if err := errors.Join(err, <-volumes); err != nil {
		return err
	}
	p.sandbox = sandbox.PodSandboxId
	status, err := f.node.Runtime.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.sandbox})
	if err != nil {
		return err
	}
	p.ip = status.GetStatus().GetNetwork().GetIp()
	for _, c := range p.containers {
		if err := f.startContainer(ctx, p, c, config); err != nil {
			return err
		}
	}
	p.calls = time.Since(begin)
	// Two writes of one object must not overtake each other.
	if err := <-pending; err != nil {
		return err
	}
	return f.patch(ctx, pod, f.running(p))
}

func (f *floor) startContainer(ctx context.Context, p *floorPod, c *floorContainer, sandbox *runtimeapi.PodSandboxConfig) error {
	f.event(p, c.spec.Name, "Pulled", "Container image already present")
	created, err := f.node.Runtime.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{
		PodSandboxId: p.sandbox, Config: f.containerConfig(p, c), SandboxConfig: sandbox,
	})
	if err != nil {
		return err
	}
	c.id = created.ContainerId
	f.event(p, c.spec.Name, "Created", "Container created")
	if _, err := f.node.Runtime.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: c.id}); err != nil {
		return err
	}
	f.event(p, c.spec.Name, "Started", "Container started")
	if c.init {
		_, err = f.waitExit(ctx, c.id)
	}
	return err
}

// waitExit asks each millisecond until the runtime says that the container
// has ended.
func (f *floor) waitExit(ctx context.Context, id string) (*runtimeapi.ContainerStatus, error) {
	for {
		r, err := f.node.Runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
		if err != nil {
			return nil, err
		}
		if r.Status.State == runtimeapi.ContainerState_CONTAINER_EXITED {
			return r.Status, nil
		}
		time.Sleep(time.Millisecond)
	}
}

func (f *floor) sandboxConfig(p *floorPod) *runtimeapi.PodSandboxConfig {
	pod := p.pod
	logs := fmt.Sprintf("/var/log/pods/%s_%s_%s", pod.Namespace, pod.Name, pod.UID)
	_ = os.MkdirAll(f.node.Path(logs), 0o755)
	return &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: pod.Name, Uid: string(pod.UID), Namespace: pod.Namespace},
		Hostname: pod.Name, LogDirectory: logs,
		DnsConfig: &runtimeapi.DNSConfig{Servers: []string{"10.96.0.10"}, Options: []string{"ndots:5"},
			Searches: []string{pod.Namespace + ".svc.cluster.local", "svc.cluster.local", "cluster.local"}},
		Labels: map[string]string{"io.kubernetes.pod.name": pod.Name, "io.kubernetes.pod.namespace": pod.Namespace, "io.kubernetes.pod.uid": string(pod.UID)},
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent: f.node.CgroupRoot() + "/kubepods/besteffort/pod" + string(pod.UID),
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
				NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
				// What every kubelet gives it; filters take time to be loaded.
				Seccomp: &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
			},
		},
	}
}

func (f *floor) containerConfig(p *floorPod, c *floorContainer) *runtimeapi.ContainerConfig {
	config := &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: c.spec.Name, Attempt: c.attempt},
		Image:    &runtimeapi.ImageSpec{Image: c.spec.Image},
		Args:     c.spec.Args,
		LogPath:  fmt.Sprintf("%s_%d.log", c.spec.Name, c.attempt),
		Labels: map[string]string{"io.kubernetes.pod.name": p.pod.Name, "io.kubernetes.pod.namespace": p.pod.Namespace,
			"io.kubernetes.pod.uid": string(p.pod.UID), "io.kubernetes.container.name": c.spec.Name},
		Linux: &runtimeapi.LinuxContainerConfig{
			Resources: &runtimeapi.LinuxContainerResources{CpuShares: 2, CpuPeriod: 100000, OomScoreAdj: 1000,
				HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB"}, {PageSize: "1GB"}}},
			SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
				NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
				MaskedPaths:      maskedPaths, ReadonlyPaths: readonlyPaths,
				Seccomp: &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined},
			},
		},
	}
	for inside, outside := range map[string]string{"/etc/hosts": "etc-hosts", "/dev/termination-log": "termination-log-" + config.Metadata.Name} {
		outside = filepath.Join(p.dir, outside)
		_ = os.WriteFile(f.node.Path(outside), []byte("127.0.0.1 localhost\n"), 0o644)
		config.Mounts = append(config.Mounts, &runtimeapi.Mount{ContainerPath: inside, HostPath: outside})
	}
	for _, m := range c.spec.VolumeMounts {
		config.Mounts = append(config.Mounts, &runtimeapi.Mount{
			ContainerPath: m.MountPath, HostPath: filepath.Join(p.dir, m.Name), Readonly: m.ReadOnly || fromAPI(p.pod, m.Name),
		})
	}
	return config
}

// fromAPI says whether a volume holds API objects, which containers see
// read-only whatever they ask for.
func fromAPI(pod *v1.Pod, volume string) bool {
	return slices.ContainsFunc(pod.Spec.Volumes, func(v v1.Volume) bool {
		return v.Name == volume && (v.ConfigMap != nil || v.Secret != nil || v.Projected != nil)
	})
}

// What containers get that ask for nothing (procMount: Default); without it
// they would be others than a kubelet's.
var (
	maskedPaths = []string{
		"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
		"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
		"/sys/devices/system/cpu/cpu0/thermal_throttle", "/sys/devices/system/cpu/cpu1/thermal_throttle",
	}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// volumes makes what the pod's volumes hold: each Secret and token in a tmpfs
// of its own, as any kubelet has to.
func (f *floor) volumes(ctx context.Context, p *floorPod) error {
	for _, v := range p.pod.Spec.Volumes {
		dir := f.node.Path(filepath.Join(p.dir, v.Name))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		files := map[string][]byte{}
		secret := false
		switch {
		case v.ConfigMap != nil:
			o, err := f.configMap(ctx, v.ConfigMap.Name)
			if err != nil {
				return err
			}
			files = o
		case v.Secret != nil:
			secret = true
			o, err := f.secret(ctx, v.Secret.SecretName)
			if err != nil {
				return err
			}
			files = o
		case v.Projected != nil: // the token that admission adds
			secret = true
			token, err := f.token(ctx, p.pod)
			if err != nil {
				return err
			}
			ca, err := f.configMap(ctx, "kube-root-ca.crt")
			if err != nil {
				return err
			}
			files = map[string][]byte{"token": token, "ca.crt": ca["ca.crt"], "namespace": []byte(p.pod.Namespace)}
		}
		if secret {
			inside := filepath.Join(p.dir, v.Name)
			if err := f.node.Inside(func() error { return syscall.Mount("tmpfs", inside, "tmpfs", 0, "mode=0755") }); err != nil {
				return err
			}
		}
		for name, text := range files {
			if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

// status is what all statuses of a pod have in common, with the conditions that
// are true from the start and those that become true when it runs.
func (f *floor) status(p *floorPod, phase v1.PodPhase, runs v1.ConditionStatus) v1.PodStatus {
	now := metav1.Now()
	s := v1.PodStatus{
		Phase: phase, HostIP: f.node.IP(), HostIPs: []v1.HostIP{{IP: f.node.IP()}},
		QOSClass: v1.PodQOSBestEffort, ObservedGeneration: p.pod.Generation,
	}
	condition := func(status v1.ConditionStatus, kinds ...v1.PodConditionType) {
		for _, kind := range kinds {
			s.Conditions = append(s.Conditions, v1.PodCondition{Type: kind, Status: status, LastTransitionTime: now, ObservedGeneration: p.pod.Generation})
		}
	}
	condition(runs, v1.PodReadyToStartContainers, v1.PodReady, v1.ContainersReady)
	condition(v1.ConditionTrue, v1.PodInitialized, v1.PodScheduled)
	return s
}

func containerStatus(c *floorContainer) v1.ContainerStatus {
	s := v1.ContainerStatus{Name: c.spec.Name, Image: c.spec.Image, RestartCount: int32(c.attempt)}
	for _, m := range c.spec.VolumeMounts {
		s.VolumeMounts = append(s.VolumeMounts, v1.VolumeMountStatus{Name: m.Name, MountPath: m.MountPath, ReadOnly: m.ReadOnly})
	}
	return s
}

// pending is the status of a pod that is on its way.
func (f *floor) pending(p *floorPod) v1.PodStatus {
	s := f.status(p, v1.PodPending, v1.ConditionFalse)
	s.StartTime = ptr.To(metav1.Now())
	for _, c := range p.containers {
		cs := containerStatus(c)
		cs.State.Waiting = &v1.ContainerStateWaiting{Reason: "ContainerCreating"}
		if c.init {
			s.InitContainerStatuses = append(s.InitContainerStatuses, cs)
		} else {
			s.ContainerStatuses = append(s.ContainerStatuses, cs)
		}
	}
	return s
}

// running is the status of a pod whose containers all run.
func (f *floor) running(p *floorPod) v1.PodStatus {
	s := f.status(p, v1.PodRunning, v1.ConditionTrue)
	s.PodIP, s.PodIPs = p.ip, []v1.PodIP{{IP: p.ip}}
	for _, c := range p.containers {
		cs := containerStatus(c)
		cs.ContainerID, cs.Ready, cs.Started = "containerd://"+c.id, true, ptr.To(true)
		if c.init {
			cs.State.Terminated = &v1.ContainerStateTerminated{Reason: "Completed", ContainerID: cs.ContainerID, FinishedAt: metav1.Now()}
			s.InitContainerStatuses = append(s.InitContainerStatuses, cs)
		} else {
			cs.State.Running = &v1.ContainerStateRunning{StartedAt: metav1.Now()}
			s.ContainerStatuses = append(s.ContainerStatuses, cs)
		}
	}
	return s
}

// restart is what follows the exit of a pod's container: the end is told, and
// the container is made anew.
func (f *floor) restart(ctx context.Context, p *floorPod, c *floorContainer) error {
	exited, err := f.waitExit(ctx, c.id)
	if err != nil {
		return err
	}
	status := f.running(p)
	last := v1.ContainerState{Terminated: &v1.ContainerStateTerminated{ExitCode: exited.ExitCode, Reason: exited.Reason, ContainerID: "containerd://" + c.id}}
	for i := range status.ContainerStatuses {
		status.ContainerStatuses[i].State, status.ContainerStatuses[i].Ready = last, false
	}
	told := make(chan error, 1)
	go func() { told <- f.patch(ctx, p.pod, status) }()
	c.attempt++
	if err := f.startContainer(ctx, p, c, f.sandboxConfig(p)); err != nil {
		return err
	}
	if err := <-told; err != nil {
		return err
	}
	status = f.running(p)
	status.ContainerStatuses[0].LastTerminationState = last
	return f.patch(ctx, p.pod, status)
}

// end stops everything, says so and confirms the deletion.
func (f *floor) end(ctx context.Context, p *floorPod) error {
	var failures []error
	note := func(err error) { failures = append(failures, err) }
	for _, c := range p.containers {
		if c.id == "" || c.init {
			continue
		}
		f.event(p, c.spec.Name, "Killing", "Stopping container "+c.spec.Name)
		_, err := f.node.Runtime.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: c.id, Timeout: 30})
		note(err)
	}
	_, err := f.node.Runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.sandbox})
	note(err)
	status := f.running(p)
	for i := range status.ContainerStatuses {
		status.ContainerStatuses[i].Ready = false
		status.ContainerStatuses[i].State = v1.ContainerState{Terminated: &v1.ContainerStateTerminated{Reason: "Completed"}}
	}
	status.Phase = v1.PodSucceeded
	note(f.patch(ctx, p.pod, status))
	note(f.client.CoreV1().Pods(p.pod.Namespace).Delete(ctx, p.pod.Name, metav1.DeleteOptions{
		GracePeriodSeconds: ptr.To[int64](0), Preconditions: metav1.NewUIDPreconditions(string(p.pod.UID)),
	}))
	_, err = f.node.Runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.sandbox})
	note(err)
	for _, v := range p.pod.Spec.Volumes {
		if inside := filepath.Join(p.dir, v.Name); v.Secret != nil || v.Projected != nil {
			note(f.node.Inside(func() error { return syscall.Unmount(inside, 0) }))
		}
	}
	if p.dir != "" {
		note(os.RemoveAll(f.node.Path(p.dir)))
	}
	note(f.node.RemoveCgroup("kubepods/besteffort/pod" + string(p.pod.UID)))
	return errors.Join(failures...)
}
