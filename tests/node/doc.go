// Package node runs a whole node for tests and benches: `reeve server` from the built binary (REEVE_BIN), with a data-dir,
// folders and cgroups of its own. Main puts the test binary into network, mount, process and IPC namespaces of its own, so
// that the kernel takes everything away with it, however it ends; cgroups, which no namespace owns, bear the mark
// "reeve-node" and are removed by the next run.
//
// Main starts the processes of these namespaces; New's node is stopped, and `reeve cleanup` run on it, at the end of the
// test that made it.
package node
