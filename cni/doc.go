// Package cni gives pods their network: conflists through libcni, or the built-in routed network; and the network
// namespaces that both work in.
package cni
