package fake

import (
	"context"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/reevehq/reeve/cri"
)

// Failing is a cri.Runtime whose every call returns Err, and whose GetContainerEvents ends at once.
type Failing struct{ Err error }

var _ cri.Runtime = Failing{}

// NewFailing returns a runtime that answers every call with err, which must not be nil.
func NewFailing(err error) Failing { return Failing{Err: err} }

func (f Failing) Version(context.Context, string) (*runtimeapi.VersionResponse, error) {
	return nil, f.Err
}
func (f Failing) CreateContainer(context.Context, string, *runtimeapi.ContainerConfig, *runtimeapi.PodSandboxConfig) (string, error) {
	return "", f.Err
}
func (f Failing) StartContainer(context.Context, string) error       { return f.Err }
func (f Failing) StopContainer(context.Context, string, int64) error { return f.Err }
func (f Failing) RemoveContainer(context.Context, string) error      { return f.Err }
func (f Failing) ListContainers(context.Context, *runtimeapi.ContainerFilter) ([]*runtimeapi.Container, error) {
	return nil, f.Err
}
func (f Failing) ContainerStatus(context.Context, string, bool) (*runtimeapi.ContainerStatusResponse, error) {
	return nil, f.Err
}
func (f Failing) UpdateContainerResources(context.Context, string, *runtimeapi.ContainerResources) error {
	return f.Err
}
func (f Failing) ExecSync(context.Context, string, []string, time.Duration) ([]byte, []byte, error) {
	return nil, nil, f.Err
}
func (f Failing) Exec(context.Context, *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
	return nil, f.Err
}
func (f Failing) Attach(context.Context, *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	return nil, f.Err
}
func (f Failing) ReopenContainerLog(context.Context, string) error { return f.Err }
func (f Failing) CheckpointContainer(context.Context, *runtimeapi.CheckpointContainerRequest) error {
	return f.Err
}
func (f Failing) GetContainerEvents(context.Context, chan *runtimeapi.ContainerEventResponse, func(runtimeapi.RuntimeService_GetContainerEventsClient)) error {
	return f.Err
}
func (f Failing) RunPodSandbox(context.Context, *runtimeapi.PodSandboxConfig, string) (string, error) {
	return "", f.Err
}
func (f Failing) StopPodSandbox(context.Context, string) error   { return f.Err }
func (f Failing) RemovePodSandbox(context.Context, string) error { return f.Err }
func (f Failing) PodSandboxStatus(context.Context, string, bool) (*runtimeapi.PodSandboxStatusResponse, error) {
	return nil, f.Err
}
func (f Failing) ListPodSandbox(context.Context, *runtimeapi.PodSandboxFilter) ([]*runtimeapi.PodSandbox, error) {
	return nil, f.Err
}
func (f Failing) PortForward(context.Context, *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	return nil, f.Err
}
func (f Failing) UpdatePodSandboxResources(context.Context, *runtimeapi.UpdatePodSandboxResourcesRequest) (*runtimeapi.UpdatePodSandboxResourcesResponse, error) {
	return nil, f.Err
}
func (f Failing) ContainerStats(context.Context, string) (*runtimeapi.ContainerStats, error) {
	return nil, f.Err
}
func (f Failing) ListContainerStats(context.Context, *runtimeapi.ContainerStatsFilter) ([]*runtimeapi.ContainerStats, error) {
	return nil, f.Err
}
func (f Failing) PodSandboxStats(context.Context, string) (*runtimeapi.PodSandboxStats, error) {
	return nil, f.Err
}
func (f Failing) ListPodSandboxStats(context.Context, *runtimeapi.PodSandboxStatsFilter) ([]*runtimeapi.PodSandboxStats, error) {
	return nil, f.Err
}
func (f Failing) ListMetricDescriptors(context.Context) ([]*runtimeapi.MetricDescriptor, error) {
	return nil, f.Err
}
func (f Failing) ListPodSandboxMetrics(context.Context) ([]*runtimeapi.PodSandboxMetrics, error) {
	return nil, f.Err
}
func (f Failing) UpdateRuntimeConfig(context.Context, *runtimeapi.RuntimeConfig) error { return f.Err }
func (f Failing) Status(context.Context, bool) (*runtimeapi.StatusResponse, error) {
	return nil, f.Err
}
func (f Failing) RuntimeConfig(context.Context) (*runtimeapi.RuntimeConfigResponse, error) {
	return nil, f.Err
}
func (f Failing) Close(context.Context) error { return nil }
func (f Failing) ListImages(context.Context, *runtimeapi.ImageFilter) ([]*runtimeapi.Image, error) {
	return nil, f.Err
}
func (f Failing) ImageStatus(context.Context, *runtimeapi.ImageSpec, bool) (*runtimeapi.ImageStatusResponse, error) {
	return nil, f.Err
}
func (f Failing) PullImage(context.Context, *runtimeapi.ImageSpec, *runtimeapi.AuthConfig, *runtimeapi.PodSandboxConfig) (string, error) {
	return "", f.Err
}
func (f Failing) RemoveImage(context.Context, *runtimeapi.ImageSpec) error { return f.Err }
func (f Failing) ImageFsInfo(context.Context) (*runtimeapi.ImageFsInfoResponse, error) {
	return nil, f.Err
}
