// Package server serves any cri.Runtime as CRI v1 (RuntimeService and ImageService) on a unix socket of mode 0600, for
// crictl and other CRI clients. Run starts gRPC's goroutines and ends them; it never closes the runtime.
package server
