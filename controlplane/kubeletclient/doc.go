// Package kubeletclient knows how the API server reaches a node's agent: address, port and a transport that proves the
// API server by certificate and checks the agent's.
//
// Goroutines: none of its own; the transport keeps idle connections. It never retries, and never talks to a node by
// itself: its users do.
package kubeletclient
