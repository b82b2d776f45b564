// Package controlplane is the bundled control plane: etcd, API server, scheduler and controllers in one process.
package controlplane
