// Package conntrack forgets UDP and SCTP flows whose Service has moved on. Such a flow lives as long as its sender sends:
// without this, a client that repeats a datagram reaches a deleted pod, or nothing, for ever. TCP connections end by
// themselves and are left alone, but for beginnings that met no rules and that nobody has answered. The package starts no
// goroutine and never touches a flow that no changed Service owned.
package conntrack
