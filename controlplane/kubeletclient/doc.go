// Package kubeletclient knows how the API server reaches a node's agent: address, port and a transport that proves the
// API server by certificate and checks the agent's.
//
// Goroutines: client-go's transport keeps one for the life of the process, which reads the certificate again when it
// changes, besides those of open connections. It never retries, and never talks to a node by itself: its users do.
package kubeletclient
