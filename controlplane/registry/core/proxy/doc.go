// Package proxy serves pods/proxy, services/proxy and nodes/proxy: plain HTTP through the API server to what it names,
// by <name>, <name>:<port> or <scheme>:<name>:<port>, with upgraded connections passed on.
//
// Goroutines: those of the proxied connection, which end with it. It never goes to loopback or link-local addresses,
// whatever a pod, Endpoints or Node claims: those are the server's own.
package proxy
