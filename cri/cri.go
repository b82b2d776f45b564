package cri

import (
	internalapi "k8s.io/cri-api/pkg/apis"
)

// Runtime is CRI v1 (RuntimeService and ImageService) as Go calls, safe for concurrent use. Errors carry gRPC status
// codes as CRI callers expect (codes.NotFound for an unknown ID, codes.InvalidArgument for a bad request). Exec, Attach
// and PortForward answer with a one-time URL on loopback that a streaming client upgrades.
//
// Both embedded interfaces declare the same Close, which releases the connection and never stops a container.
type Runtime interface {
	internalapi.RuntimeService
	internalapi.ImageManagerService
}
