// Package cri is the runtime seam: the Container Runtime Interface v1 as a Go interface. The agent knows only this
// package; cri/native implements it in-process on containerd's client, cri/remote over any CRI socket, cri/fake in
// memory for tests. It starts no goroutine.
package cri
