package critest

import (
	"context"
	"fmt"
	"net"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// maxMessage is what real runtimes take and send.
const maxMessage = 16 << 20

// Serve serves both services on a unix socket until stop is called, which
// breaks the connections as a killed runtime does. The endpoint to give to a
// kubelet is "unix://" + path.
func (r *Runtime) Serve(path string) (stop func(), err error) {
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("serve the CRI: %w", err)
	}
	s := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage))
	runtimeapi.RegisterRuntimeServiceServer(s, runtimeServer{r: r})
	runtimeapi.RegisterImageServiceServer(s, imageServer{r: r})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l) // ends with Stop
	}()
	return func() { s.Stop(); <-done }, nil
}

// runtimeServer turns the service's methods into calls on the model. What is
// not here answers Unimplemented.
type runtimeServer struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	r *Runtime
}

func (s runtimeServer) Version(ctx context.Context, q *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	return call(ctx, s.r, "Version", q, func(*runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
		return &runtimeapi.VersionResponse{Version: "0.1.0", RuntimeName: "critest", RuntimeVersion: "1.0.0", RuntimeApiVersion: "v1"}, nil
	})
}

func (s runtimeServer) Status(ctx context.Context, q *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
	return call(ctx, s.r, "Status", q, func(*runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
		cond := func(kind string, c condition) *runtimeapi.RuntimeCondition {
			return &runtimeapi.RuntimeCondition{Type: kind, Status: c.ok, Reason: c.reason, Message: c.message}
		}
		return &runtimeapi.StatusResponse{
			Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{
				cond(runtimeapi.RuntimeReady, s.r.ready), cond(runtimeapi.NetworkReady, s.r.network),
			}},
			RuntimeHandlers: []*runtimeapi.RuntimeHandler{{Name: "", Features: &runtimeapi.RuntimeHandlerFeatures{RecursiveReadOnlyMounts: true, UserNamespaces: true}}},
			Features:        &runtimeapi.RuntimeFeatures{SupplementalGroupsPolicy: true},
		}, nil
	})
}

func (s runtimeServer) RuntimeConfig(ctx context.Context, q *runtimeapi.RuntimeConfigRequest) (*runtimeapi.RuntimeConfigResponse, error) {
	if s.r.cfg.NoRuntimeConfig {
		return s.UnimplementedRuntimeServiceServer.RuntimeConfig(ctx, q)
	}
	return call(ctx, s.r, "RuntimeConfig", q, func(*runtimeapi.RuntimeConfigRequest) (*runtimeapi.RuntimeConfigResponse, error) {
		driver := runtimeapi.CgroupDriver_SYSTEMD
		if s.r.cfg.Cgroupfs {
			driver = runtimeapi.CgroupDriver_CGROUPFS
		}
		return &runtimeapi.RuntimeConfigResponse{Linux: &runtimeapi.LinuxRuntimeConfiguration{CgroupDriver: driver}}, nil
	})
}

func (s runtimeServer) UpdateRuntimeConfig(ctx context.Context, q *runtimeapi.UpdateRuntimeConfigRequest) (*runtimeapi.UpdateRuntimeConfigResponse, error) {
	return call(ctx, s.r, "UpdateRuntimeConfig", q, func(*runtimeapi.UpdateRuntimeConfigRequest) (*runtimeapi.UpdateRuntimeConfigResponse, error) {
		return &runtimeapi.UpdateRuntimeConfigResponse{}, nil
	})
}

func (s runtimeServer) RunPodSandbox(ctx context.Context, q *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
	return call(ctx, s.r, "RunPodSandbox", q, s.r.runPodSandbox)
}

func (s runtimeServer) StopPodSandbox(ctx context.Context, q *runtimeapi.StopPodSandboxRequest) (*runtimeapi.StopPodSandboxResponse, error) {
	return call(ctx, s.r, "StopPodSandbox", q, s.r.stopPodSandbox)
}

func (s runtimeServer) RemovePodSandbox(ctx context.Context, q *runtimeapi.RemovePodSandboxRequest) (*runtimeapi.RemovePodSandboxResponse, error) {
	return call(ctx, s.r, "RemovePodSandbox", q, s.r.removePodSandbox)
}

func (s runtimeServer) PodSandboxStatus(ctx context.Context, q *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	return call(ctx, s.r, "PodSandboxStatus", q, s.r.podSandboxStatus)
}

func (s runtimeServer) ListPodSandbox(ctx context.Context, q *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	return call(ctx, s.r, "ListPodSandbox", q, s.r.listPodSandbox)
}

func (s runtimeServer) CreateContainer(ctx context.Context, q *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
	return call(ctx, s.r, "CreateContainer", q, s.r.createContainer)
}

func (s runtimeServer) StartContainer(ctx context.Context, q *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error) {
	return call(ctx, s.r, "StartContainer", q, s.r.startContainer)
}

func (s runtimeServer) StopContainer(ctx context.Context, q *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error) {
	return call(ctx, s.r, "StopContainer", q, s.r.stopContainer)
}

func (s runtimeServer) RemoveContainer(ctx context.Context, q *runtimeapi.RemoveContainerRequest) (*runtimeapi.RemoveContainerResponse, error) {
	return call(ctx, s.r, "RemoveContainer", q, s.r.removeContainer)
}

func (s runtimeServer) ListContainers(ctx context.Context, q *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	return call(ctx, s.r, "ListContainers", q, s.r.listContainers)
}

func (s runtimeServer) ListContainerStats(ctx context.Context, q *runtimeapi.ListContainerStatsRequest) (*runtimeapi.ListContainerStatsResponse, error) {
	return call(ctx, s.r, "ListContainerStats", q, s.r.listContainerStats)
}

func (s runtimeServer) ContainerStatus(ctx context.Context, q *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	return call(ctx, s.r, "ContainerStatus", q, s.r.containerStatus)
}

func (s runtimeServer) UpdateContainerResources(ctx context.Context, q *runtimeapi.UpdateContainerResourcesRequest) (*runtimeapi.UpdateContainerResourcesResponse, error) {
	return call(ctx, s.r, "UpdateContainerResources", q, s.r.updateContainerResources)
}

func (s runtimeServer) ReopenContainerLog(ctx context.Context, q *runtimeapi.ReopenContainerLogRequest) (*runtimeapi.ReopenContainerLogResponse, error) {
	return call(ctx, s.r, "ReopenContainerLog", q, s.r.reopenContainerLog)
}

func (s runtimeServer) ExecSync(ctx context.Context, q *runtimeapi.ExecSyncRequest) (*runtimeapi.ExecSyncResponse, error) {
	return call(ctx, s.r, "ExecSync", q, s.r.execSync)
}

// streamURL stands for the streaming server, which this runtime has not.
const streamURL = "http://127.0.0.1:1/"

func (s runtimeServer) Exec(ctx context.Context, q *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
	return call(ctx, s.r, "Exec", q, func(q *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
		if _, err := s.r.runningContainer(q.GetContainerId()); err != nil {
			return nil, err
		}
		return &runtimeapi.ExecResponse{Url: streamURL + "exec"}, nil
	})
}

func (s runtimeServer) Attach(ctx context.Context, q *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	return call(ctx, s.r, "Attach", q, func(q *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
		if _, err := s.r.runningContainer(q.GetContainerId()); err != nil {
			return nil, err
		}
		return &runtimeapi.AttachResponse{Url: streamURL + "attach"}, nil
	})
}

func (s runtimeServer) PortForward(ctx context.Context, q *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	return call(ctx, s.r, "PortForward", q, func(q *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
		if _, ok := s.r.sandboxes.get(q.GetPodSandboxId()); !ok {
			return nil, notFound("failed to find sandbox %q", q.GetPodSandboxId())
		}
		return &runtimeapi.PortForwardResponse{Url: streamURL + "portforward"}, nil
	})
}

func (s runtimeServer) GetContainerEvents(_ *runtimeapi.GetEventsRequest, out runtimeapi.RuntimeService_GetContainerEventsServer) error {
	return s.r.events(out.Context(), out.Send)
}

type imageServer struct {
	runtimeapi.UnimplementedImageServiceServer
	r *Runtime
}

func (s imageServer) ListImages(ctx context.Context, q *runtimeapi.ListImagesRequest) (*runtimeapi.ListImagesResponse, error) {
	return call(ctx, s.r, "ListImages", q, s.r.listImages)
}

func (s imageServer) ImageStatus(ctx context.Context, q *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error) {
	return call(ctx, s.r, "ImageStatus", q, s.r.imageStatus)
}

func (s imageServer) PullImage(ctx context.Context, q *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	return call(ctx, s.r, "PullImage", q, s.r.pullImage)
}

func (s imageServer) RemoveImage(ctx context.Context, q *runtimeapi.RemoveImageRequest) (*runtimeapi.RemoveImageResponse, error) {
	return call(ctx, s.r, "RemoveImage", q, s.r.removeImage)
}

func (s imageServer) ImageFsInfo(ctx context.Context, q *runtimeapi.ImageFsInfoRequest) (*runtimeapi.ImageFsInfoResponse, error) {
	return call(ctx, s.r, "ImageFsInfo", q, s.r.imageFsInfo)
}
