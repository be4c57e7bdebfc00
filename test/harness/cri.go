package harness

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Labels that kubelets put on sandboxes and containers.
const (
	labelPodName      = "io.kubernetes.pod.name"
	labelPodNamespace = "io.kubernetes.pod.namespace"
	labelPodUID       = "io.kubernetes.pod.uid"
	labelContainer    = "io.kubernetes.container.name"
)

// Containers lists the containers of a pod in any state, oldest first. An
// empty container name means all of them.
func (n *Node) Containers(ctx context.Context, namespace, pod, container string) ([]*runtimeapi.Container, error) {
	selector := map[string]string{labelPodNamespace: namespace, labelPodName: pod}
	if container != "" {
		selector[labelContainer] = container
	}
	list, err := n.Runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{LabelSelector: selector}})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	slices.SortFunc(list.Containers, func(a, b *runtimeapi.Container) int { return int(a.CreatedAt - b.CreatedAt) })
	return list.Containers, nil
}

// RunningContainer is the one running container of that name.
func (n *Node) RunningContainer(ctx context.Context, namespace, pod, container string) (*runtimeapi.Container, error) {
	all, err := n.Containers(ctx, namespace, pod, container)
	if err != nil {
		return nil, err
	}
	var running []*runtimeapi.Container
	for _, c := range all {
		if c.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
			running = append(running, c)
		}
	}
	if len(running) != 1 {
		return nil, fmt.Errorf("%d of %d containers %s of %s/%s run", len(running), len(all), container, namespace, pod)
	}
	return running[0], nil
}

// WaitContainer waits until the one container of that name runs.
func (n *Node) WaitContainer(ctx context.Context, namespace, pod, container string) (*runtimeapi.Container, error) {
	var found *runtimeapi.Container
	err := Until(ctx, time.Minute, "container "+container+" of "+namespace+"/"+pod+" to run", func(ctx context.Context) (err error) {
		found, err = n.RunningContainer(ctx, namespace, pod, container)
		return err
	})
	return found, err
}

// Sandboxes lists the sandboxes of a pod in any state; empty names mean all.
func (n *Node) Sandboxes(ctx context.Context, namespace, pod string) ([]*runtimeapi.PodSandbox, error) {
	selector := map[string]string{}
	if namespace != "" {
		selector[labelPodNamespace] = namespace
	}
	if pod != "" {
		selector[labelPodName] = pod
	}
	list, err := n.Runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{LabelSelector: selector}})
	if err != nil {
		return nil, fmt.Errorf("list sandboxes: %w", err)
	}
	return list.Items, nil
}

// PodIP of the pod's ready sandbox.
func (n *Node) PodIP(ctx context.Context, namespace, pod string) (string, error) {
	sandboxes, err := n.Sandboxes(ctx, namespace, pod)
	if err != nil {
		return "", err
	}
	for _, s := range sandboxes {
		if s.State != runtimeapi.PodSandboxState_SANDBOX_READY {
			continue
		}
		status, err := n.Runtime.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: s.Id})
		if err != nil {
			return "", fmt.Errorf("get sandbox status: %w", err)
		}
		if ip := status.GetStatus().GetNetwork().GetIp(); ip != "" {
			return ip, nil
		}
	}
	return "", fmt.Errorf("no ready sandbox of %s/%s has an address", namespace, pod)
}

// info reads the runtime's own details of a container or sandbox.
func info(verbose map[string]string) (pid int, err error) {
	var detail struct {
		Pid int `json:"pid"`
	}
	if err := json.Unmarshal([]byte(verbose["info"]), &detail); err != nil {
		return 0, fmt.Errorf("decode verbose status: %w", err)
	}
	return detail.Pid, nil
}

// KillContainer kills a container's first process behind everybody's back.
func (n *Node) KillContainer(ctx context.Context, id string) error {
	status, err := n.Runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id, Verbose: true})
	if err != nil {
		return fmt.Errorf("get container status: %w", err)
	}
	pid, err := info(status.GetInfo())
	if err != nil {
		return err
	}
	return n.kill(ctx, pid)
}

// KillSandbox kills a sandbox's first process behind everybody's back.
func (n *Node) KillSandbox(ctx context.Context, id string) error {
	status, err := n.Runtime.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id, Verbose: true})
	if err != nil {
		return fmt.Errorf("get sandbox status: %w", err)
	}
	pid, err := info(status.GetInfo())
	if err != nil {
		return err
	}
	return n.kill(ctx, pid)
}

// kill sends SIGKILL to a process by its id on the node, which only a process
// on the node can do.
func (n *Node) kill(ctx context.Context, pid int) error {
	if pid <= 1 {
		return fmt.Errorf("not a container's process: %d", pid)
	}
	if out, err := n.Run(ctx, "/bin/sh", "-c", "kill -KILL "+strconv.Itoa(pid)); err != nil {
		return fmt.Errorf("kill %d: %w: %s", pid, err, out)
	}
	return nil
}

// removeSandbox stops a sandbox and removes it with its containers.
func (n *Node) removeSandbox(ctx context.Context, id string) error {
	if _, err := n.Runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
		return fmt.Errorf("stop sandbox: %w", err)
	}
	if _, err := n.Runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id}); err != nil {
		return fmt.Errorf("remove sandbox: %w", err)
	}
	return nil
}

// LogDir is the folder of a pod's logs on the node.
func LogDir(pod *v1.Pod) string {
	return fmt.Sprintf("/var/log/pods/%s_%s_%s", pod.Namespace, pod.Name, pod.UID)
}

// Log returns what a container wrote in one of its attempts, both streams.
func (n *Node) Log(pod *v1.Pod, container string, attempt int) (string, error) {
	return n.readLog(filepath.Join(LogDir(pod), container, strconv.Itoa(attempt)+".log"))
}

// LogOf returns the last attempt's output of a pod that is known by name only.
func (n *Node) LogOf(namespace, pod, container string) (string, error) {
	dirs, err := filepath.Glob(n.Path(fmt.Sprintf("/var/log/pods/%s_%s_*/%s/*.log", namespace, pod, container)))
	if err != nil || len(dirs) == 0 {
		return "", fmt.Errorf("no log of container %s of %s/%s", container, namespace, pod)
	}
	slices.Sort(dirs)
	return n.readLogFile(dirs[len(dirs)-1])
}

func (n *Node) readLog(path string) (string, error) { return n.readLogFile(n.Path(path)) }

// readLogFile takes the CRI log format apart: time, stream, tag, text.
func (n *Node) readLogFile(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read log: %w", err)
	}
	var out strings.Builder
	for line := range strings.Lines(string(text)) {
		parts := strings.SplitN(line, " ", 4)
		if len(parts) == 4 {
			out.WriteString(parts[3])
		}
	}
	return out.String(), nil
}
