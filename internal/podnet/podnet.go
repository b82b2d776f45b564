package podnet

import "net/netip"

// Protocol is the transport of a host port: "TCP", "UDP" or "SCTP" (core/v1 Protocol).
type Protocol string

// PortMapping asks for HostIP:HostPort on the node to reach ContainerPort in the pod.
// A zero HostIP means every address of the node; a zero HostPort is not a mapping and is ignored.
type PortMapping struct {
	HostIP        netip.Addr
	HostPort      uint16
	ContainerPort uint16
	Protocol      Protocol
}

// Request names one pod sandbox to a network. SandboxID is the CNI container ID; NetNS is the absolute path of the
// bind-mounted network namespace. Everything else is what CNI plugins receive as CNI_ARGS and capability arguments.
type Request struct {
	SandboxID    string
	NetNS        string
	PodNamespace string
	PodName      string
	PodUID       string
	Annotations  map[string]string
	Labels       map[string]string
	Ports        []PortMapping
	// DNS servers, searches and options of the sandbox (the "dns" capability of the CNI conventions).
	DNSServers, DNSSearches, DNSOptions []string
	// CgroupParent is the pod's cgroup (the "cgroupPath" capability); empty when unknown.
	CgroupParent string
}

// Result is what an ADD gave the pod. IPs are the addresses of its first interface, the primary one first, at most one
// per family. Raw is the CNI result as JSON (spec 1.0.0), kept for CHECK, DEL and crictl's verbose status.
type Result struct {
	IPs []netip.Addr
	Raw []byte
}
