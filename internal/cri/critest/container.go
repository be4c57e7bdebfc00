package critest

import (
	"fmt"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

type containerState int

// States of a container; the arrows are start and exit.
//
//	created ─► running ─► exited
//	   └──── cannot run ────▲
const (
	created containerState = iota
	running
	exited
)

// killedCode is the exit code after SIGKILL (128 + 9).
const killedCode = 137

type container struct {
	id       string
	name     string // reserved name
	sandbox  *sandbox
	config   *runtimeapi.ContainerConfig
	imageRef string
	behavior Behavior

	state      containerState
	createdAt  time.Time
	startedAt  time.Time
	finishedAt time.Time
	code       int32
	reason     string
	message    string
	pid        int
	resources  *runtimeapi.ContainerResources
	reopened   int

	end  *planned // its own exit
	term *planned // its exit after the stop signal
	kill *planned // SIGKILL after the grace period
	gone chan struct{}
}

func (c *container) meta() *runtimeapi.ContainerMetadata { return c.config.GetMetadata() }

func (c *container) criState() runtimeapi.ContainerState {
	return [...]runtimeapi.ContainerState{
		runtimeapi.ContainerState_CONTAINER_CREATED,
		runtimeapi.ContainerState_CONTAINER_RUNNING,
		runtimeapi.ContainerState_CONTAINER_EXITED,
	}[c.state]
}

func containerName(m *runtimeapi.ContainerMetadata, pod *runtimeapi.PodSandboxMetadata) string {
	return fmt.Sprintf("%s_%s_%s_%s_%d", m.GetName(), pod.GetName(), pod.GetNamespace(), pod.GetUid(), m.GetAttempt())
}

func (r *Runtime) createContainer(req *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
	s, ok := r.sandboxes.get(req.GetPodSandboxId())
	if !ok {
		return nil, notFound("failed to find sandbox id %q", req.GetPodSandboxId())
	}
	m := req.GetConfig().GetMetadata()
	if m.GetName() == "" {
		return nil, refused("container config has no name")
	}
	name := containerName(m, s.meta())
	if id, taken := r.reserved[name]; taken {
		return nil, refused("failed to reserve container name %q: name %q is reserved for %q", name, name, id)
	}
	r.notStopped(name, s)
	if !s.ready {
		return nil, refused("sandbox container %q is not running", s.id)
	}
	if by, ok := r.started[name]; ok {
		r.violate("container %s was created again after %s had been started for the same attempt", name, by)
	}
	img := r.findImage(req.GetConfig().GetImage().GetImage())
	if img == nil {
		return nil, notFound("failed to get image %q", req.GetConfig().GetImage().GetImage())
	}
	c := &container{
		id: r.newID("c"), name: name, sandbox: s, config: req.GetConfig(), imageRef: img.ref(),
		createdAt: r.now(), gone: make(chan struct{}),
		resources: &runtimeapi.ContainerResources{Linux: req.GetConfig().GetLinux().GetResources()},
	}
	c.behavior = r.behaviorOf(c)
	r.reserved[name] = c.id
	r.containers.add(c.id, c)
	r.emit(c.id, s, runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT)
	return &runtimeapi.CreateContainerResponse{ContainerId: c.id}, nil
}

func (r *Runtime) startContainer(req *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error) {
	c, ok := r.containers.get(req.GetContainerId())
	if !ok {
		return nil, notFound("an error occurred when try to find container %q", req.GetContainerId())
	}
	if c.state != created {
		r.violate("container %s (%s) was started twice", c.name, c.id)
		return nil, refused("failed to set starting state for container %q: container is in %s state", c.id, c.criState())
	}
	if by, ok := r.started[c.name]; ok {
		r.violate("%s was started for %s, which %s had been started for", c.id, c.name, by)
	}
	if c.sandbox.stopped {
		r.violate("container %s was started after its sandbox was stopped", c.name)
	}
	if !c.sandbox.ready {
		return nil, refused("sandbox container %q is not running", c.sandbox.id)
	}
	if why := c.behavior.StartError; why != "" {
		c.state, c.code, c.reason, c.message = exited, 128, "StartError", why
		c.finishedAt = r.now()
		close(c.gone)
		return nil, refused("failed to start container %q: %s", c.id, why)
	}
	r.started[c.name] = c.id
	c.state, c.startedAt, c.pid = running, r.now(), r.newPid(c.id)
	if c.behavior.Exits {
		c.end = r.at(c.startedAt.Add(c.behavior.After), func() { r.exit(c, c.behavior.Code, c.behavior.Reason) })
	}
	r.writeLogs(c)
	r.emit(c.id, c.sandbox, runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT)
	return &runtimeapi.StartContainerResponse{}, nil
}

// exit ends a running container. The lock is held.
func (r *Runtime) exit(c *container, code int32, reason string) {
	if c.state != running {
		return
	}
	c.end.cancel()
	c.term.cancel()
	c.kill.cancel()
	if reason == "" {
		reason = "Completed"
		if code != 0 {
			reason = "Error"
		}
	}
	pid := c.pid
	c.state, c.finishedAt, c.code, c.reason, c.pid = exited, r.now(), code, reason, 0
	r.processEnded(pid)
	r.writeMessage(c)
	r.line("%s/%s#%d exited %d", c.sandbox.meta().GetName(), c.meta().GetName(), c.meta().GetAttempt(), code)
	close(c.gone)
	r.emit(c.id, c.sandbox, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT)
}

func (r *Runtime) stopContainer(req *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error) {
	done := &runtimeapi.StopContainerResponse{}
	c, ok := r.containers.get(req.GetContainerId())
	if !ok || c.state != running {
		return done, nil
	}
	if req.GetTimeout() <= 0 {
		r.exit(c, killedCode, "")
		return done, nil
	}
	now := r.now()
	if b := c.behavior; c.term == nil && !b.IgnoreTerm {
		c.term = r.at(now.Add(b.TermAfter), func() { r.exit(c, b.TermCode, "") })
	}
	at := now.Add(time.Duration(req.GetTimeout()) * time.Second)
	if c.kill == nil || at.Before(c.kill.at) {
		c.kill.cancel()
		c.kill = r.at(at, func() { r.exit(c, killedCode, "") })
	}
	if c.term != nil && c.term.do != nil && c.term.at.Before(at) {
		at = c.term.at
	}
	r.advance() // a container that ends at once needs no waiting
	if c.state != running {
		return done, nil
	}
	return nil, &blocked{done: c.gone, at: at, then: func() (any, error) { return done, nil }}
}

func (r *Runtime) removeContainer(req *runtimeapi.RemoveContainerRequest) (*runtimeapi.RemoveContainerResponse, error) {
	r.dropContainer(req.GetContainerId())
	return &runtimeapi.RemoveContainerResponse{}, nil
}

func (r *Runtime) dropContainer(id string) {
	c, ok := r.containers.get(id)
	if !ok {
		return
	}
	r.exit(c, killedCode, "")
	r.containers.remove(id)
	delete(r.reserved, c.name)
	r.emit(id, c.sandbox, runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT)
}

func (r *Runtime) containerStatus(req *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	c, ok := r.containers.get(req.GetContainerId())
	if !ok {
		return nil, notFound("an error occurred when try to find container %q", req.GetContainerId())
	}
	resp := &runtimeapi.ContainerStatusResponse{Status: r.statusOf(c)}
	if req.GetVerbose() {
		resp.Info = r.info(c.pid)
	}
	return resp, nil
}

func (r *Runtime) statusOf(c *container) *runtimeapi.ContainerStatus {
	st := &runtimeapi.ContainerStatus{
		Id: c.id, Metadata: c.meta(), State: c.criState(), CreatedAt: c.createdAt.UnixNano(),
		ExitCode: c.code, Reason: c.reason, Message: c.message,
		Image: c.config.GetImage(), ImageRef: c.imageRef, ImageId: c.imageRef,
		Labels: c.config.GetLabels(), Annotations: c.config.GetAnnotations(), Mounts: c.config.GetMounts(),
		LogPath: logPath(c), Resources: c.resources,
	}
	if img := r.findImage(c.config.GetImage().GetImage()); img != nil {
		st.ImageId = img.id
		st.Image = &runtimeapi.ImageSpec{Image: img.tags[0]}
	}
	if !c.startedAt.IsZero() {
		st.StartedAt = c.startedAt.UnixNano()
	}
	if c.state == exited {
		st.FinishedAt = c.finishedAt.UnixNano()
	}
	return st
}

func (r *Runtime) listContainers(req *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	f := req.GetFilter()
	resp := &runtimeapi.ListContainersResponse{}
	r.containers.each(func(c *container) {
		if f.GetId() != "" && f.Id != c.id || f.GetPodSandboxId() != "" && f.PodSandboxId != c.sandbox.id ||
			f.GetState() != nil && f.State.State != c.criState() || !selects(f.GetLabelSelector(), c.config.GetLabels()) {
			return
		}
		resp.Containers = append(resp.Containers, &runtimeapi.Container{
			Id: c.id, PodSandboxId: c.sandbox.id, Metadata: c.meta(), Image: c.config.GetImage(), ImageRef: c.imageRef, ImageId: c.imageRef,
			State: c.criState(), CreatedAt: c.createdAt.UnixNano(), Labels: c.config.GetLabels(), Annotations: c.config.GetAnnotations(),
		})
	})
	return resp, nil
}

// listContainerStats tells of containers that use nothing.
func (r *Runtime) listContainerStats(req *runtimeapi.ListContainerStatsRequest) (*runtimeapi.ListContainerStatsResponse, error) {
	f := req.GetFilter()
	resp := &runtimeapi.ListContainerStatsResponse{}
	now, nothing := r.now().UnixNano(), &runtimeapi.UInt64Value{}
	r.containers.each(func(c *container) {
		if f.GetId() != "" && f.Id != c.id || f.GetPodSandboxId() != "" && f.PodSandboxId != c.sandbox.id || !selects(f.GetLabelSelector(), c.config.GetLabels()) {
			return
		}
		resp.Stats = append(resp.Stats, &runtimeapi.ContainerStats{
			Attributes: &runtimeapi.ContainerAttributes{Id: c.id, Metadata: c.meta(), Labels: c.config.GetLabels(), Annotations: c.config.GetAnnotations()},
			Cpu:        &runtimeapi.CpuUsage{Timestamp: now, UsageCoreNanoSeconds: nothing},
			Memory:     &runtimeapi.MemoryUsage{Timestamp: now, WorkingSetBytes: nothing},
			WritableLayer: &runtimeapi.FilesystemUsage{
				Timestamp: now, FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: "/"}, UsedBytes: nothing, InodesUsed: nothing,
			},
		})
	})
	return resp, nil
}

func (r *Runtime) updateContainerResources(req *runtimeapi.UpdateContainerResourcesRequest) (*runtimeapi.UpdateContainerResourcesResponse, error) {
	c, ok := r.containers.get(req.GetContainerId())
	if !ok {
		return nil, notFound("failed to find container %q", req.GetContainerId())
	}
	if c.state == exited {
		return nil, refused("failed to update container %q: container is in CONTAINER_EXITED state", c.id)
	}
	c.resources = &runtimeapi.ContainerResources{Linux: req.GetLinux(), Windows: req.GetWindows()}
	return &runtimeapi.UpdateContainerResourcesResponse{}, nil
}

func (r *Runtime) reopenContainerLog(req *runtimeapi.ReopenContainerLogRequest) (*runtimeapi.ReopenContainerLogResponse, error) {
	c, err := r.runningContainer(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	c.reopened++
	return &runtimeapi.ReopenContainerLogResponse{}, nil
}

func (r *Runtime) runningContainer(id string) (*container, error) {
	c, ok := r.containers.get(id)
	if !ok {
		return nil, notFound("an error occurred when try to find container %q", id)
	}
	if c.state != running {
		return nil, refused("container %q is not running", id)
	}
	return c, nil
}
