// Package nftables translates the proxy's model into one private table a family, in which Services are data: elements of
// maps and sets. It decides no policy, touches no other table, and starts no goroutine but Watch's. Chains exist per
// *number* of endpoints and protocol, not per Service: the key of the map that picks an endpoint holds a random number below it, so
// that neither a chain nor a packet mark is needed to remember the choice.
//
//	prerouting, output → services → service-ips[address . protocol . port]      → cluster-tcp-N, external-tcp-N, external-local
//	                              → service-nodeports[protocol . port] if local → nodeport-tcp-N, nodeports-local
//	cluster-tcp-N …               mark for masquerading where due, affinity[… . client], dnat endpoints-tcp-N[… . random mod N]
//	external-local                inside-ips (pods, this node) or outside-ips (others: this node's endpoints only)
//	after dnat                    remember: sticky-ips → remember-T writes affinity, with timeout T
//	postrouting                   masquerades what is marked, and an endpoint that reached itself (hairpin)
//	before dnat                   firewall-ips: who may use a load balancer's address (firewall-allow)
//	input, forward, output        denied-ips, denied-nodeports: reject or drop what no endpoint serves
//
// A frontend (an address, protocol and port, or a node port) that two Services claim belongs to the first by name.
//
// An accept in this table overrides no drop in another: package foreign sees to that.
//
// The nft command writes what is few: the table, chains, maps and rules. Elements are written and listed through a netlink
// socket that stays open. Numbered chains and maps that nothing needs wait for their next use.
package nftables
