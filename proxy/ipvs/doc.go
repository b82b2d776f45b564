// Package ipvs translates plans into the kernel's IP virtual servers, for one IP family.
//
//	a frontend (address, port, protocol) → a virtual service, its endpoints → real servers, NAT
//	addresses of Services                → local routes on the device reeve-ipvs0, so that packets reach IPVS
//	who is masqueraded, dropped, let in  → ipsets, which a handful of iptables rules in chains <prefix>_IPVS-… look into
//
// So the rules do not grow with Services; only a Service with external traffic policy Local has rules of its own, one for
// each of its external addresses: they send what comes from this node and its pods to the ClusterIP. The device's other
// ports are closed: a program that listens on all of the node's addresses is not reachable on those of Services.
//
// Only the difference is written. An endpoint that goes gets no new connections (weight 0) and is removed when its last
// connection has ended; so is everything else of a Service that is deleted. UDP and SCTP endpoints go at once. After a
// restart what the kernel holds is taken over. Ours is what stands in the set of services or has an address on the
// device; other virtual services are not touched.
//
// A Backend starts no goroutine but Watch, which runs in its caller's.
package ipvs
