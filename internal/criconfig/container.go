package criconfig

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"kubelet/internal/cri"
	"kubelet/internal/podspec"
)

// Container returns the config of one container. It writes the files that the
// container mounts and makes its log directory. Asked twice for the same
// attempt it gives the same config; the termination message starts empty each
// time, so it must not be asked again once the container was created. It is
// asked for one container of a pod at a time.
//
// Errors are *Error.
func (b *Builder) Container(ctx context.Context, in ContainerInput) (*runtimeapi.ContainerConfig, error) {
	config, err := b.container(ctx, in)
	if _, ok := errors.AsType[*Error](err); err != nil && !ok {
		err = &Error{Reason: reasonContainerConfig, Message: err.Error(), Err: err}
	}
	return config, err
}

func (b *Builder) container(ctx context.Context, in ContainerInput) (*runtimeapi.ContainerConfig, error) {
	pod, c := in.Pod, in.Container
	if len(c.VolumeDevices) > 0 {
		return nil, containerErrorf("volumeDevices (raw block volumes) are not supported by this kubelet yet")
	}
	in.PodIPs = podspec.OrderIPs(in.PodIPs, b.HostIPs())
	env, err := b.environment(ctx, in)
	if err != nil {
		return nil, err
	}
	linux, err := b.containerLinux(ctx, in)
	if err != nil {
		return nil, err
	}
	signal, err := stopSignal(c)
	if err != nil {
		return nil, err
	}
	var can HandlerFeatures
	if wantsRecursiveReadOnly(c) {
		handler, err := b.lookUpHandler(ctx, pod)
		if err != nil {
			return nil, asContainerError(err)
		}
		if can, err = b.features(ctx, handler); err != nil {
			return nil, err
		}
	}
	if in.sources, err = b.sources(ctx, in, env); err != nil {
		return nil, err
	}
	mounts, err := b.mounts(in, can.RecursiveReadOnly)
	if err != nil {
		return nil, err
	}
	if userns := linux.SecurityContext.NamespaceOptions.UsernsOptions; userns != nil {
		for _, m := range mounts {
			m.UidMappings, m.GidMappings = userns.Uids, userns.Gids
		}
	}
	// The runtime opens the log file itself, but makes no directories.
	logDir := filepath.Join(PodLogDir(b.PodLogsDir, pod.Namespace, pod.Name, pod.UID), c.Name)
	if err := os.MkdirAll(logDir, 0o755); err != nil {
		return nil, fmt.Errorf("make log directory: %w", err)
	}
	return &runtimeapi.ContainerConfig{
		Metadata:    &runtimeapi.ContainerMetadata{Name: c.Name, Attempt: in.Attempt},
		Image:       &runtimeapi.ImageSpec{Image: in.ImageRef, UserSpecifiedImage: c.Image},
		Command:     expandAll(c.Command, env.lookup),
		Args:        expandAll(c.Args, env.lookup),
		WorkingDir:  c.WorkingDir,
		Envs:        env.keyValues(),
		Mounts:      mounts,
		Labels:      containerLabels(pod, c),
		Annotations: containerAnnotations(pod, c, in.Attempt),
		LogPath:     filepath.Join(c.Name, strconv.FormatUint(uint64(in.Attempt), 10)+".log"),
		Stdin:       c.Stdin,
		StdinOnce:   c.StdinOnce,
		Tty:         c.TTY,
		StopSignal:  signal,
		Linux:       linux,
	}, nil
}

func (b *Builder) containerLinux(ctx context.Context, in ContainerInput) (*runtimeapi.LinuxContainerConfig, error) {
	security, err := b.containerSecurity(ctx, in)
	if err != nil {
		return nil, err
	}
	return &runtimeapi.LinuxContainerConfig{
		Resources:       b.containerResources(in.Pod, in.Container),
		SecurityContext: security,
	}, nil
}

func containerLabels(pod *v1.Pod, c *v1.Container) map[string]string {
	return map[string]string{
		cri.LabelPodName:       pod.Name,
		cri.LabelPodNamespace:  pod.Namespace,
		cri.LabelPodUID:        string(pod.UID),
		cri.LabelContainerName: c.Name,
	}
}

func containerAnnotations(pod *v1.Pod, c *v1.Container, attempt uint32) map[string]string {
	a := map[string]string{
		cri.AnnotationHash:                     podspec.ContainerHash(c),
		cri.AnnotationRestartCount:             strconv.FormatUint(uint64(attempt), 10),
		cri.AnnotationTerminationMessagePath:   c.TerminationMessagePath,
		cri.AnnotationTerminationMessagePolicy: string(c.TerminationMessagePolicy),
	}
	if s := pod.DeletionGracePeriodSeconds; s != nil {
		a[cri.AnnotationPodDeletionGracePeriod] = strconv.FormatInt(*s, 10)
	}
	if s := pod.Spec.TerminationGracePeriodSeconds; s != nil {
		a[cri.AnnotationPodTerminationGracePeriod] = strconv.FormatInt(*s, 10)
	}
	// The hook and the ports are written down so that the container can be
	// stopped properly when its pod is known from the runtime alone.
	if c.Lifecycle != nil && c.Lifecycle.PreStop != nil {
		a[cri.AnnotationPreStopHandler] = marshal(c.Lifecycle.PreStop)
	}
	if len(c.Ports) > 0 {
		a[cri.AnnotationPorts] = marshal(c.Ports)
	}
	return a
}

func marshal(v any) string {
	body, _ := json.Marshal(v) // API types always marshal
	return string(body)
}
