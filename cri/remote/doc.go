// Package remote is any CRI v1 socket (containerd's plugin, CRI-O, another reeve) as a cri.Runtime, through the published
// client of k8s.io/cri-client. It adds nothing but the joint interface, and starts nothing of its own.
package remote
