// Package containerd finds the containerd that a node uses, or starts a private one: the address that the user gave,
// else the host's running one, else `containerd` and `runc` from PATH with root, state and socket in a folder of ours.
// A private containerd has a session and a cgroup of its own and outlives the caller, who adopts it again by its socket;
// Run restarts it when it dies, and its shims and their containers do not notice.
//
// Run is the only goroutine that the package asks for, and the caller starts it. Only Stop ends a containerd, and only
// a private one.
package containerd
