// Package server serves any cri.Runtime as CRI v1 over gRPC on a unix socket of mode 0600, so that crictl and other CRI
// clients work on a reeve node. It translates and decides nothing. Run runs in the caller's goroutine and ends with its
// context; streams end with their clients.
package server
