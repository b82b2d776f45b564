// Package testns gives a test binary a network namespace and a mount namespace of its own, both of which the kernel
// removes with the process, however it ends. It starts one child process and nothing else.
package testns
