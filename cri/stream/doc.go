// Package stream serves exec, attach and port forwarding for any runtime over HTTP, SPDY and WebSocket, with the
// published servers of k8s.io/cri-streaming: a request becomes a one-time URL on a listener that is loopback unless the
// user says otherwise, and whoever has the URL upgrades it. Serve is the only goroutine, and the caller starts it.
package stream
