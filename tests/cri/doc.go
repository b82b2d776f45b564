// Package cri shows the container runtimes to those who judge them: critest, the validation suite of the Container
// Runtime Interface, and crictl, its command line, both from sigs.k8s.io/cri-tools (CRITEST_BIN, CRICTL_BIN). `reeve cri`
// and containerd's own CRI plugin run on a private containerd each, with the same conflist, and pull what the specs want
// from a registry that the test itself fills and serves under the names of the real ones.
//
// `go test` runs critest against reeve and compares with testdata/plugin.txt, what the plugin does here. REEVE_LONG=1
// also runs it against the plugin, and -update then writes testdata/plugin.txt and docs/CRITEST.md anew.
//
// It starts no goroutine beyond the registry's server, which lives as long as the process.
package cri
