// Package cni gives pods their network, in one of two ways that answer the same calls: Builtin, a routed network made in
// this process through netlink, and Conflist, whatever CNI plugins the node's conflist names. Both also own the pods'
// network namespaces (package netns).
//
// Builtin is a veth pair a pod: in the pod eth0 with a /32 (/128) and a default route through an on-link gateway; on the
// node the gateway's address and a route to the pod. There is no bridge, so what a pod sends to a Service always passes
// the node's routing and NAT, whatever bridge-nf-call-iptables says. Addresses come from the node's pod CIDR. Host ports
// are DNAT rules, and what pods send out of the cluster is masqueraded.
//
// Goroutines: Conflist watches its folder with one, until Close. Builtin starts none; Run, which the caller starts, heals
// flushed rules. What a pod was given is written down before it is made, in one file a sandbox, so that Del and GC find
// it after a kill at any moment.
//
// The package never touches links, chains, namespaces or files without its mark: the veth prefix, the chain prefix, its
// two folders.
package cni
