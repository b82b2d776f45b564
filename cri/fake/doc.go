// Package fake is a CRI runtime in memory, for the tests of whatever drives a cri.Runtime. It is stateful and it
// validates: a container needs a ready sandbox and a known image, names are reserved, a running container must be
// stopped before its image goes away, and misuse answers with the gRPC codes of a real runtime. Tests steer it (Exit,
// OOMKill, SetImage, FailOn, OnExec) and read what was asked of it (Calls).
//
// NewFailing gives the twin that fails every call. The package starts no goroutine and takes time from time.Now, so that
// it works inside testing/synctest. It never touches a file, a process or the network.
package fake
