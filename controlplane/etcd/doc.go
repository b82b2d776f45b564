// Package etcd runs the embedded etcd member that stores the cluster, listening on one unix socket in a folder that
// only root can enter.
//
// Start starts etcd's own goroutines; Stop ends them all and returns when they have ended. The package never listens on
// a network port and never deletes data.
package etcd
