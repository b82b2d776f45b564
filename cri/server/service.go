package server

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	utilexec "k8s.io/utils/exec"

	"github.com/reevehq/reeve/cri"
)

// service is both CRI services. ctx is the server's life, for streams that have no end of their own.
type service struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	runtimeapi.UnimplementedImageServiceServer
	rt  cri.Runtime
	ctx context.Context
}

// itemsAtOnce bounds one message of a streamed list.
const itemsAtOnce = 200

// required says which field of a request is missing.
func required(v, field string) error {
	if v == "" {
		return status.Errorf(codes.InvalidArgument, "%s is required", field)
	}
	return nil
}

func (s *service) Version(ctx context.Context, q *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	return s.rt.Version(ctx, q.Version)
}

func (s *service) RunPodSandbox(ctx context.Context, q *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
	if q.Config == nil {
		return nil, required("", "config")
	}
	id, err := s.rt.RunPodSandbox(ctx, q.Config, q.RuntimeHandler)
	if err != nil {
		return nil, err
	}
	return &runtimeapi.RunPodSandboxResponse{PodSandboxId: id}, nil
}

func (s *service) StopPodSandbox(ctx context.Context, q *runtimeapi.StopPodSandboxRequest) (*runtimeapi.StopPodSandboxResponse, error) {
	if err := required(q.PodSandboxId, "pod_sandbox_id"); err != nil {
		return nil, err
	}
	return &runtimeapi.StopPodSandboxResponse{}, s.rt.StopPodSandbox(ctx, q.PodSandboxId)
}

func (s *service) RemovePodSandbox(ctx context.Context, q *runtimeapi.RemovePodSandboxRequest) (*runtimeapi.RemovePodSandboxResponse, error) {
	if err := required(q.PodSandboxId, "pod_sandbox_id"); err != nil {
		return nil, err
	}
	return &runtimeapi.RemovePodSandboxResponse{}, s.rt.RemovePodSandbox(ctx, q.PodSandboxId)
}

func (s *service) PodSandboxStatus(ctx context.Context, q *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	return s.rt.PodSandboxStatus(ctx, q.PodSandboxId, q.Verbose)
}

func (s *service) ListPodSandbox(ctx context.Context, q *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	items, err := s.rt.ListPodSandbox(ctx, q.Filter)
	return &runtimeapi.ListPodSandboxResponse{Items: items}, err
}

func (s *service) CreateContainer(ctx context.Context, q *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
	if q.Config == nil {
		return nil, required("", "config")
	}
	if err := required(q.PodSandboxId, "pod_sandbox_id"); err != nil {
		return nil, err
	}
	id, err := s.rt.CreateContainer(ctx, q.PodSandboxId, q.Config, q.SandboxConfig)
	if err != nil {
		return nil, err
	}
	return &runtimeapi.CreateContainerResponse{ContainerId: id}, nil
}

func (s *service) StartContainer(ctx context.Context, q *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error) {
	return &runtimeapi.StartContainerResponse{}, s.rt.StartContainer(ctx, q.ContainerId)
}

func (s *service) StopContainer(ctx context.Context, q *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error) {
	if err := required(q.ContainerId, "container_id"); err != nil {
		return nil, err
	}
	return &runtimeapi.StopContainerResponse{}, s.rt.StopContainer(ctx, q.ContainerId, q.Timeout)
}

func (s *service) RemoveContainer(ctx context.Context, q *runtimeapi.RemoveContainerRequest) (*runtimeapi.RemoveContainerResponse, error) {
	if err := required(q.ContainerId, "container_id"); err != nil {
		return nil, err
	}
	return &runtimeapi.RemoveContainerResponse{}, s.rt.RemoveContainer(ctx, q.ContainerId)
}

func (s *service) ListContainers(ctx context.Context, q *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	items, err := s.rt.ListContainers(ctx, q.Filter)
	return &runtimeapi.ListContainersResponse{Containers: items}, err
}

func (s *service) ContainerStatus(ctx context.Context, q *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	return s.rt.ContainerStatus(ctx, q.ContainerId, q.Verbose)
}

func (s *service) UpdateContainerResources(ctx context.Context, q *runtimeapi.UpdateContainerResourcesRequest) (*runtimeapi.UpdateContainerResourcesResponse, error) {
	return &runtimeapi.UpdateContainerResourcesResponse{}, s.rt.UpdateContainerResources(ctx, q.ContainerId,
		&runtimeapi.ContainerResources{Linux: q.Linux, Windows: q.Windows})
}

func (s *service) ReopenContainerLog(ctx context.Context, q *runtimeapi.ReopenContainerLogRequest) (*runtimeapi.ReopenContainerLogResponse, error) {
	return &runtimeapi.ReopenContainerLogResponse{}, s.rt.ReopenContainerLog(ctx, q.ContainerId)
}

func (s *service) ExecSync(ctx context.Context, q *runtimeapi.ExecSyncRequest) (*runtimeapi.ExecSyncResponse, error) {
	out, errOut, err := s.rt.ExecSync(ctx, q.ContainerId, q.Cmd, time.Duration(q.Timeout)*time.Second)
	var exit utilexec.CodeExitError
	if errors.As(err, &exit) {
		return &runtimeapi.ExecSyncResponse{Stdout: out, Stderr: errOut, ExitCode: int32(exit.Code)}, nil
	}
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ExecSyncResponse{Stdout: out, Stderr: errOut}, nil
}

func (s *service) Exec(ctx context.Context, q *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
	return s.rt.Exec(ctx, q)
}

func (s *service) Attach(ctx context.Context, q *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	return s.rt.Attach(ctx, q)
}

func (s *service) PortForward(ctx context.Context, q *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	return s.rt.PortForward(ctx, q)
}

func (s *service) ContainerStats(ctx context.Context, q *runtimeapi.ContainerStatsRequest) (*runtimeapi.ContainerStatsResponse, error) {
	st, err := s.rt.ContainerStats(ctx, q.ContainerId)
	return &runtimeapi.ContainerStatsResponse{Stats: st}, err
}

func (s *service) ListContainerStats(ctx context.Context, q *runtimeapi.ListContainerStatsRequest) (*runtimeapi.ListContainerStatsResponse, error) {
	st, err := s.rt.ListContainerStats(ctx, q.Filter)
	return &runtimeapi.ListContainerStatsResponse{Stats: st}, err
}

func (s *service) PodSandboxStats(ctx context.Context, q *runtimeapi.PodSandboxStatsRequest) (*runtimeapi.PodSandboxStatsResponse, error) {
	st, err := s.rt.PodSandboxStats(ctx, q.PodSandboxId)
	return &runtimeapi.PodSandboxStatsResponse{Stats: st}, err
}

func (s *service) ListPodSandboxStats(ctx context.Context, q *runtimeapi.ListPodSandboxStatsRequest) (*runtimeapi.ListPodSandboxStatsResponse, error) {
	st, err := s.rt.ListPodSandboxStats(ctx, q.Filter)
	return &runtimeapi.ListPodSandboxStatsResponse{Stats: st}, err
}

func (s *service) UpdateRuntimeConfig(ctx context.Context, q *runtimeapi.UpdateRuntimeConfigRequest) (*runtimeapi.UpdateRuntimeConfigResponse, error) {
	return &runtimeapi.UpdateRuntimeConfigResponse{}, s.rt.UpdateRuntimeConfig(ctx, q.RuntimeConfig)
}

func (s *service) Status(ctx context.Context, q *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
	return s.rt.Status(ctx, q.Verbose)
}

func (s *service) CheckpointContainer(ctx context.Context, q *runtimeapi.CheckpointContainerRequest) (*runtimeapi.CheckpointContainerResponse, error) {
	return &runtimeapi.CheckpointContainerResponse{}, s.rt.CheckpointContainer(ctx, q)
}

func (s *service) ListMetricDescriptors(ctx context.Context, _ *runtimeapi.ListMetricDescriptorsRequest) (*runtimeapi.ListMetricDescriptorsResponse, error) {
	d, err := s.rt.ListMetricDescriptors(ctx)
	return &runtimeapi.ListMetricDescriptorsResponse{Descriptors: d}, err
}

func (s *service) ListPodSandboxMetrics(ctx context.Context, _ *runtimeapi.ListPodSandboxMetricsRequest) (*runtimeapi.ListPodSandboxMetricsResponse, error) {
	m, err := s.rt.ListPodSandboxMetrics(ctx)
	return &runtimeapi.ListPodSandboxMetricsResponse{PodMetrics: m}, err
}

func (s *service) RuntimeConfig(ctx context.Context, _ *runtimeapi.RuntimeConfigRequest) (*runtimeapi.RuntimeConfigResponse, error) {
	return s.rt.RuntimeConfig(ctx)
}

func (s *service) UpdatePodSandboxResources(ctx context.Context, q *runtimeapi.UpdatePodSandboxResourcesRequest) (*runtimeapi.UpdatePodSandboxResourcesResponse, error) {
	return s.rt.UpdatePodSandboxResources(ctx, q)
}

// GetContainerEvents ends with the client or the server.
func (s *service) GetContainerEvents(_ *runtimeapi.GetEventsRequest, stream grpc.ServerStreamingServer[runtimeapi.ContainerEventResponse]) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	ch := make(chan *runtimeapi.ContainerEventResponse, itemsAtOnce)
	done := make(chan error, 1)
	go func() { done <- s.rt.GetContainerEvents(ctx, ch, nil) }()
	for {
		select {
		case ev := <-ch:
			if err := stream.Send(ev); err != nil {
				cancel()
				<-done
				return err
			}
		case err := <-done:
			if stream.Context().Err() != nil || s.ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
}

func (s *service) ListImages(ctx context.Context, q *runtimeapi.ListImagesRequest) (*runtimeapi.ListImagesResponse, error) {
	images, err := s.rt.ListImages(ctx, q.Filter)
	return &runtimeapi.ListImagesResponse{Images: images}, err
}

func (s *service) ImageStatus(ctx context.Context, q *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error) {
	return s.rt.ImageStatus(ctx, q.Image, q.Verbose)
}

func (s *service) PullImage(ctx context.Context, q *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	ref, err := s.rt.PullImage(ctx, q.Image, q.Auth, q.SandboxConfig)
	if err != nil {
		return nil, err
	}
	return &runtimeapi.PullImageResponse{ImageRef: ref}, nil
}

func (s *service) RemoveImage(ctx context.Context, q *runtimeapi.RemoveImageRequest) (*runtimeapi.RemoveImageResponse, error) {
	return &runtimeapi.RemoveImageResponse{}, s.rt.RemoveImage(ctx, q.Image)
}

func (s *service) ImageFsInfo(ctx context.Context, _ *runtimeapi.ImageFsInfoRequest) (*runtimeapi.ImageFsInfoResponse, error) {
	return s.rt.ImageFsInfo(ctx)
}
