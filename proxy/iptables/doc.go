// Package iptables translates the proxy's model into iptables rules: chains of its own in nat and filter, one set a
// Service, reached by jumps from the built-in chains. It decides no policy and starts no goroutine. It never flushes what
// serves traffic: a table changes from one state to the next in one iptables-restore transaction that holds only the
// chains that differ.
//
//	PREROUTING, OUTPUT → KUBE-SERVICES → KUBE-SVC-x → KUBE-SEP-y (DNAT)       cluster IPs
//	                                   → KUBE-EXT-x → KUBE-SVC-x or KUBE-SVL-x external and load balancer IPs
//	                                   → KUBE-NODEPORTS → KUBE-EXT-x           node ports, last
//	POSTROUTING        → KUBE-POSTROUTING                                      masquerades what KUBE-MARK-MASQ marked
//	filter             → KUBE-SERVICES, KUBE-EXTERNAL-SERVICES                 reject or drop where no endpoint serves
//
// The names are upstream's, since people and tools know them; their first part can be changed.
package iptables
