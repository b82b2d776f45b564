// Package podstream serves what streams between a client and a container: pods/log, exec, attach and portforward.
//
// It finds the pod's node, and hands the connection on to the node's agent: logs as a flushed body, the others as an
// upgraded connection. WebSocket clients are translated to SPDY here, as the agent's side of exec and port-forward is
// SPDY.
//
// Goroutines: those of the proxied connection, which end with it. It never runs anything itself and never reads a
// container's data other than to pass it on.
package podstream
