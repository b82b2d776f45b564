package remote

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"go.opentelemetry.io/otel/trace/noop"
	internalapi "k8s.io/cri-api/pkg/apis"
	criclient "k8s.io/cri-client/pkg"

	"github.com/reevehq/reeve/cri"
)

// callTimeout bounds each call, as kubelet's runtimeRequestTimeout. Pulls have their callers' deadlines.
const callTimeout = 2 * time.Minute

// retryInterval separates the attempts of New.
const retryInterval = 100 * time.Millisecond

// Runtime is a cri.Runtime on a socket.
type Runtime struct {
	internalapi.RuntimeService
	internalapi.ImageManagerService
}

var _ cri.Runtime = (*Runtime)(nil)

// New connects to the CRI socket at endpoint, "unix:///path", waiting for a runtime that does not answer yet until ctx
// ends. A malformed endpoint is an error at once; errors name the endpoint.
func New(ctx context.Context, endpoint string) (*Runtime, error) {
	if u, err := url.Parse(endpoint); err != nil || u.Scheme != "unix" || u.Path == "" {
		return nil, fmt.Errorf("CRI endpoint %q is not of the form unix:///path/of.sock", endpoint)
	}
	tracing := noop.NewTracerProvider()
	runtime, err := criclient.NewRemoteRuntimeService(ctx, endpoint, callTimeout, tracing, false)
	for err != nil {
		// A runtime that starts beside us is not there yet.
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("connect to CRI runtime service at %q: %w", endpoint, err)
		case <-time.After(retryInterval):
		}
		runtime, err = criclient.NewRemoteRuntimeService(ctx, endpoint, callTimeout, tracing, false)
	}
	images, err := criclient.NewRemoteImageService(ctx, endpoint, callTimeout, tracing, false)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("connect to CRI image service at %q: %w", endpoint, err), runtime.Close(ctx))
	}
	return &Runtime{runtime, images}, nil
}

// Close ends both connections.
func (r *Runtime) Close(ctx context.Context) error {
	return errors.Join(r.RuntimeService.Close(ctx), r.ImageManagerService.Close(ctx))
}
