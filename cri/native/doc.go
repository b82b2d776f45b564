// Package native is CRI v1 on containerd's client: reeve's own runtime. It owns pod sandboxes (the pause container, the
// pod's folder, /dev/shm, and its network through the small Network interface that it declares), containers, images,
// exec, attach, port forwarding and stats. It needs no CRI plugin and works with containerd 1.6 and later.
//
// Truth lies in containerd's container records (what a sandbox or container is) and in small files under
// Config.StateDir (what became of it: network result, start, exit), so that New rebuilds everything after a kill -9 at
// any point, and removes what was half made. Lists and statuses are answered from memory, kept current by containerd's
// events and by our own calls.
//
// Goroutines, all started by New and ended by Close: the event loop, logpump's supervisor, the streaming server, the
// collector of what crashes leave, the look at the shims; besides, one short one for each exit that is being settled, and
// one for each thing that recovery undoes. Containers are never stopped by Close.
//
// It never writes a container's log (logpump does), never pulls an image on its own, and never touches a container that
// does not carry its label.
package native
