package remote

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace/noop"
	internalapi "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	criclient "k8s.io/cri-client/pkg"

	"github.com/reevehq/reeve/cri"
)

// connectTimeout bounds one call, as the kubelet's runtime-request-timeout default.
const connectTimeout = 2 * time.Minute

// Runtime is a CRI endpoint. Both services have a Close of their own.
type Runtime struct {
	internalapi.RuntimeService
	images internalapi.ImageManagerService
}

var _ cri.Runtime = (*Runtime)(nil)

// New connects to an endpoint that serves both runtime and images. A bare path means unix://.
func New(ctx context.Context, endpoint string) (*Runtime, error) {
	return NewSplit(ctx, endpoint, endpoint)
}

// NewSplit connects to one endpoint for the runtime and another for images.
func NewSplit(ctx context.Context, endpoint, imageEndpoint string) (*Runtime, error) {
	rt, err := criclient.NewRemoteRuntimeService(ctx, withScheme(endpoint), connectTimeout, noop.NewTracerProvider(), false)
	if err != nil {
		return nil, fmt.Errorf("connect to container runtime %q: %w", endpoint, err)
	}
	img, err := criclient.NewRemoteImageService(ctx, withScheme(imageEndpoint), connectTimeout, noop.NewTracerProvider(), false)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("connect to image service %q: %w", imageEndpoint, err), rt.Close(ctx))
	}
	return &Runtime{RuntimeService: rt, images: img}, nil
}

func withScheme(endpoint string) string {
	if strings.HasPrefix(endpoint, "/") {
		return "unix://" + endpoint
	}
	return endpoint
}

// ExecSync names a timeout by cri.ErrExecTimedOut, as every Runtime here.
func (r *Runtime) ExecSync(ctx context.Context, id string, cmd []string, timeout time.Duration) ([]byte, []byte, error) {
	out, errOut, err := r.RuntimeService.ExecSync(ctx, id, cmd, timeout)
	if errors.Is(err, criclient.ErrCommandTimedOut) {
		err = cri.ExecTimeout(cmd, timeout)
	}
	return out, errOut, err
}

// ListImages asks the image service.
func (r *Runtime) ListImages(ctx context.Context, f *runtimeapi.ImageFilter) ([]*runtimeapi.Image, error) {
	return r.images.ListImages(ctx, f)
}

// ImageStatus asks the image service.
func (r *Runtime) ImageStatus(ctx context.Context, spec *runtimeapi.ImageSpec, verbose bool) (*runtimeapi.ImageStatusResponse, error) {
	return r.images.ImageStatus(ctx, spec, verbose)
}

// PullImage asks the image service.
func (r *Runtime) PullImage(ctx context.Context, spec *runtimeapi.ImageSpec, auth *runtimeapi.AuthConfig, sandbox *runtimeapi.PodSandboxConfig) (string, error) {
	return r.images.PullImage(ctx, spec, auth, sandbox)
}

// RemoveImage asks the image service.
func (r *Runtime) RemoveImage(ctx context.Context, spec *runtimeapi.ImageSpec) error {
	return r.images.RemoveImage(ctx, spec)
}

// ImageFsInfo asks the image service.
func (r *Runtime) ImageFsInfo(ctx context.Context) (*runtimeapi.ImageFsInfoResponse, error) {
	return r.images.ImageFsInfo(ctx)
}

// Close closes both connections.
func (r *Runtime) Close(ctx context.Context) error {
	return errors.Join(r.RuntimeService.Close(ctx), r.images.Close(ctx))
}
