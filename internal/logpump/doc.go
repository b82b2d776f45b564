// Package logpump is how the rest of reeve talks to cmd/logpump, the process that alone reads the containers' output:
// the wire protocol, a client, the folder layout and Supervisor, which starts the program outside the caller's session
// and cgroup and keeps it running. Standard library only, because cmd/logpump imports it.
//
// Supervisor.Run is the only goroutine that the package asks for, and the caller starts it. The package never reads a
// container's output itself and never kills a running logpump unless Client.Exit is called.
package logpump
