// Package conntrack forgets UDP and SCTP flows whose Service has moved on. Such a flow lives as long as its sender sends:
// without this, a client that repeats a datagram reaches a deleted pod, or nothing, for ever. TCP is left alone, its
// connections end by themselves. The package starts no goroutine and never touches a flow that no changed Service owned.
package conntrack
