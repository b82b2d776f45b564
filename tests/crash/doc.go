// Package crash holds the tests of what a crash may cost: nothing. The native runtime runs in a process of its own on a
// private containerd, behind a gRPC proxy that stops before or after any call, with wrapped CNI plugins, OCI runtime and
// shim that stop, fail or take long where a test wants it; kill -9 comes at that moment, and afterwards the host is
// counted: network namespaces, links, addresses, rules, mounts, cgroups, snapshots, tasks, shims, records, FIFOs.
//
// The short form runs everywhere; REEVE_LONG=1 runs each point alone, 500 lives and minutes of logging.
package crash
