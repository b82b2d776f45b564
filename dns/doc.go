// Package dns answers the cluster's DNS names on every node with CoreDNS as a library: its kubernetes plugin over a compact
// copy of Services, EndpointSlices and Namespaces, its cache, and its forwarder to the node's own servers.
//
// Run puts the cluster DNS address on the loopback device, starts CoreDNS's servers on it, three watches and a look at the
// upstream resolv.conf, and waits for all of them. While the API is away it answers from what it knows. The package never
// writes to the API, listens on nothing but the DNS port of its addresses, and never touches another address of the host.
package dns
