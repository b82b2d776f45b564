// Package remote reaches any CRI v1 socket (containerd's CRI plugin, CRI-O) as a cri.Runtime, over the published client.
// gRPC's own goroutines are all it starts; Close ends them.
package remote
