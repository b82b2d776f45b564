// Package apiserver starts the real API server on a real etcd for tests: in this process, on loopback, in a folder of its
// own. No controllers, no scheduler, no nodes.
package apiserver
