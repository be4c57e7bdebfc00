package critest

import (
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

type sandbox struct {
	id      string
	name    string // reserved name
	config  *runtimeapi.PodSandboxConfig
	handler string
	ready   bool
	stopped bool // StopPodSandbox was called
	created time.Time
	ip      string
	pid     int
}

func (s *sandbox) meta() *runtimeapi.PodSandboxMetadata { return s.config.GetMetadata() }

func (s *sandbox) state() runtimeapi.PodSandboxState {
	if s.ready {
		return runtimeapi.PodSandboxState_SANDBOX_READY
	}
	return runtimeapi.PodSandboxState_SANDBOX_NOTREADY
}

func sandboxName(m *runtimeapi.PodSandboxMetadata) string {
	return fmt.Sprintf("%s_%s_%s_%d", m.GetName(), m.GetNamespace(), m.GetUid(), m.GetAttempt())
}

func notFound(format string, args ...any) error {
	return status.Errorf(codes.NotFound, format+": not found", args...)
}

// refused is an error as runtimes return most of theirs: without a code.
func refused(format string, args ...any) error { return status.Errorf(codes.Unknown, format, args...) }

// reserve reserves the name of what a request would make, for a late effect,
// and holds the request against the rules as it is made. The lock is held.
func (r *Runtime) reserve(req any) (release func()) {
	var name string
	judge := func() {}
	switch q := req.(type) {
	case *runtimeapi.RunPodSandboxRequest:
		name = sandboxName(q.GetConfig().GetMetadata())
		judge = func() { r.oneReady(name, q.GetConfig().GetMetadata()) }
	case *runtimeapi.CreateContainerRequest:
		if sb, ok := r.sandboxes.get(q.GetPodSandboxId()); ok {
			name = containerName(q.GetConfig().GetMetadata(), sb.meta())
			judge = func() { r.notStopped(name, sb) }
		}
	}
	if _, taken := r.reserved[name]; name == "" || taken {
		return func() {} // to be refused
	}
	judge()
	r.reserved[name] = "a call in flight"
	return func() { delete(r.reserved, name) }
}

// oneReady holds that no sandbox is run beside a ready one of the same pod.
// The lock is held.
func (r *Runtime) oneReady(name string, m *runtimeapi.PodSandboxMetadata) {
	r.sandboxes.each(func(other *sandbox) {
		if other.ready && other.meta().GetUid() == m.GetUid() && !r.late {
			r.violate("sandbox %s was run while %s of the same pod is ready", name, other.name)
		}
	})
}

// notStopped holds that no container is made in a sandbox after its stop. The
// lock is held.
func (r *Runtime) notStopped(name string, s *sandbox) {
	if s.stopped && !r.late {
		r.violate("container %s was created after its sandbox was stopped", name)
	}
}

func (r *Runtime) runPodSandbox(req *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
	m := req.GetConfig().GetMetadata()
	if m.GetName() == "" || m.GetNamespace() == "" || m.GetUid() == "" {
		return nil, refused("sandbox config has no name, namespace or uid")
	}
	name := sandboxName(m)
	if id, taken := r.reserved[name]; taken {
		return nil, refused("failed to reserve sandbox name %q: name %q is reserved for %q", name, name, id)
	}
	r.oneReady(name, m)
	if !r.network.ok && !hostNetwork(req.GetConfig()) {
		return nil, refused("failed to setup network for sandbox %q: %s", name, r.network.message)
	}
	s := &sandbox{id: r.newID("sb"), name: name, config: req.GetConfig(), handler: req.GetRuntimeHandler(), ready: true, created: r.now()}
	s.pid = r.newPid(s.id)
	if !hostNetwork(s.config) {
		s.ip = fmt.Sprintf("10.88.%d.%d", r.ids/250, r.ids%250+2)
	}
	r.reserved[name] = s.id
	r.sandboxes.add(s.id, s)
	r.emit(s.id, s, runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT)
	r.emit(s.id, s, runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT)
	return &runtimeapi.RunPodSandboxResponse{PodSandboxId: s.id}, nil
}

func hostNetwork(c *runtimeapi.PodSandboxConfig) bool {
	return c.GetLinux().GetSecurityContext().GetNamespaceOptions().GetNetwork() == runtimeapi.NamespaceMode_NODE
}

func (r *Runtime) stopPodSandbox(req *runtimeapi.StopPodSandboxRequest) (*runtimeapi.StopPodSandboxResponse, error) {
	if s, ok := r.sandboxes.get(req.GetPodSandboxId()); ok {
		r.stopSandbox(s)
	}
	return &runtimeapi.StopPodSandboxResponse{}, nil
}

func (r *Runtime) stopSandbox(s *sandbox) {
	s.stopped = true
	r.containers.each(func(c *container) {
		if c.sandbox == s && c.state == running {
			r.exit(c, killedCode, "")
		}
	})
	r.sandboxDown(s)
}

// sandboxDown ends the sandbox's own process.
func (r *Runtime) sandboxDown(s *sandbox) {
	if !s.ready {
		return
	}
	pid := s.pid
	s.ready, s.pid, s.ip = false, 0, ""
	r.processEnded(pid)
	r.emit(s.id, s, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT)
}

func (r *Runtime) removePodSandbox(req *runtimeapi.RemovePodSandboxRequest) (*runtimeapi.RemovePodSandboxResponse, error) {
	s, ok := r.sandboxes.get(req.GetPodSandboxId())
	if !ok {
		return &runtimeapi.RemovePodSandboxResponse{}, nil
	}
	r.stopSandbox(s)
	var ids []string
	r.containers.each(func(c *container) {
		if c.sandbox == s {
			ids = append(ids, c.id)
		}
	})
	for _, id := range ids {
		r.dropContainer(id)
	}
	r.sandboxes.remove(s.id)
	delete(r.reserved, s.name)
	r.emit(s.id, s, runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT)
	return &runtimeapi.RemovePodSandboxResponse{}, nil
}

func (r *Runtime) podSandboxStatus(req *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	s, ok := r.sandboxes.get(req.GetPodSandboxId())
	if !ok {
		return nil, notFound("an error occurred when try to find sandbox %q", req.GetPodSandboxId())
	}
	resp := &runtimeapi.PodSandboxStatusResponse{Status: s.status()}
	if req.GetVerbose() {
		resp.Info = r.info(s.pid)
	}
	return resp, nil
}

func (s *sandbox) status() *runtimeapi.PodSandboxStatus {
	return &runtimeapi.PodSandboxStatus{
		Id:             s.id,
		Metadata:       s.meta(),
		State:          s.state(),
		CreatedAt:      s.created.UnixNano(),
		Network:        &runtimeapi.PodSandboxNetworkStatus{Ip: s.ip},
		Linux:          &runtimeapi.LinuxPodSandboxStatus{Namespaces: &runtimeapi.Namespace{Options: s.config.GetLinux().GetSecurityContext().GetNamespaceOptions()}},
		Labels:         s.config.GetLabels(),
		Annotations:    s.config.GetAnnotations(),
		RuntimeHandler: s.handler,
	}
}

func (r *Runtime) info(pid int) map[string]string {
	if r.cfg.NoPids {
		return map[string]string{}
	}
	return map[string]string{"info": fmt.Sprintf(`{"pid":%d}`, pid)}
}

func (r *Runtime) listPodSandbox(req *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	f := req.GetFilter()
	resp := &runtimeapi.ListPodSandboxResponse{}
	r.sandboxes.each(func(s *sandbox) {
		if f.GetId() != "" && f.Id != s.id || f.GetState() != nil && f.State.State != s.state() || !selects(f.GetLabelSelector(), s.config.GetLabels()) {
			return
		}
		resp.Items = append(resp.Items, &runtimeapi.PodSandbox{
			Id: s.id, Metadata: s.meta(), State: s.state(), CreatedAt: s.created.UnixNano(),
			Labels: s.config.GetLabels(), Annotations: s.config.GetAnnotations(), RuntimeHandler: s.handler,
		})
	})
	return resp, nil
}

func selects(selector, labels map[string]string) bool {
	for k, v := range selector {
		if labels[k] != v {
			return false
		}
	}
	return true
}
