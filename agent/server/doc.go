// Package server answers on the kubelet's ports: :10250 over TLS for the API server, metrics collectors and operators,
// and :10248 /healthz in the clear on loopback.
//
// Run starts one listener goroutine a port and one goroutine a connection (net/http's), and ends them. Every request on
// :10250 is authenticated (client certificate or bearer token) and authorized (SubjectAccessReview) before its handler
// runs; there is no anonymous access. It holds no state of pods: it asks what it is configured with, and hands exec,
// attach and port-forward streams through to the runtime's own streaming server.
package server
