// Package apis holds the descriptor table: one entry a kind, from which storage, strategies, discovery, tables and
// field selectors are built. It lists every generally available kind of the Kubernetes release and nothing else:
// beta and alpha versions are off by default upstream and are not served.
//
// The package is data and pure functions: no goroutines, no I/O.
package apis
