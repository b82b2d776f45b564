package allocator

import (
	"cmp"
	"math/big"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
)

// leakPasses is how many passes in a row must see an address or port without a Service before it is taken back. A
// create that is under way looks like a leak to one pass.
const leakPasses = 3

// observed is one pass's view of the store. Addresses and ports were read before the Services, so that one that was
// allocated and committed meanwhile does not look like a leak for longer than a pass.
type observed struct {
	addresses []networkingv1.IPAddress
	ports     *big.Int
	services  []corev1.Service
}

// leaks counts, from pass to pass, how often something was seen without a Service.
type leaks struct {
	addresses map[string]int // by UID: a new object of the same name starts anew
	ports     map[int32]int
}

type claim struct {
	address netip.Addr
	owner   owner
}

// repairs is what one pass does.
type repairs struct {
	takeAddresses    []claim
	releaseAddresses []networkingv1.IPAddress
	takePorts        []int32
	releasePorts     []int32
	// conflicts are addresses that a Service claims while another object holds them, and ports that two Services claim:
	// nothing is done but telling.
	conflicts []claim
	twice     []portClaim
	leaks     leaks
}

type portClaim struct {
	port  int32
	owner owner
}

func (r repairs) nothing() bool {
	return len(r.takeAddresses)+len(r.releaseAddresses)+len(r.takePorts)+len(r.releasePorts) == 0
}

// planRepair compares what Services hold with what is allocated.
func planRepair(o observed, before leaks, r utilnet.PortRange) repairs {
	out := repairs{leaks: leaks{map[string]int{}, map[int32]int{}}}
	planAddresses(&out, o, before)
	planPorts(&out, o, before, r)
	return out
}

func planAddresses(out *repairs, o observed, before leaks) {
	byName := make(map[string]*networkingv1.IPAddress, len(o.addresses))
	for i := range o.addresses {
		byName[o.addresses[i].Name] = &o.addresses[i]
	}
	wanted := map[string]bool{}
	for i := range o.services {
		s := &o.services[i]
		who := owner{s.Namespace, s.Name}
		for _, a := range clusterAddresses(s) {
			wanted[a.String()] = true
			switch have := byName[a.String()]; {
			case have == nil:
				out.takeAddresses = append(out.takeAddresses, claim{a, who})
			case !who.holds(have):
				out.conflicts = append(out.conflicts, claim{a, who})
			}
		}
	}
	for i := range o.addresses {
		a := &o.addresses[i]
		if a.Labels[networkingv1.LabelManagedBy] != managedBy || a.DeletionTimestamp != nil || wanted[a.Name] {
			continue
		}
		n := before.addresses[string(a.UID)] + 1
		if n >= leakPasses {
			out.releaseAddresses = append(out.releaseAddresses, *a)
		} else {
			out.leaks.addresses[string(a.UID)] = n
		}
	}
}

func planPorts(out *repairs, o observed, before leaks, r utilnet.PortRange) {
	type use struct {
		port     int32
		protocol corev1.Protocol
	}
	wanted, uses := map[int32]bool{}, map[use]bool{}
	for i := range o.services {
		s := &o.services[i]
		for _, port := range nodePorts(s) {
			wanted[port] = true
			if r.Contains(int(port)) && o.ports.Bit(int(port)-r.Base) == 0 && !slices.Contains(out.takePorts, port) {
				out.takePorts = append(out.takePorts, port)
			}
		}
		if s.Spec.Type != corev1.ServiceTypeNodePort && s.Spec.Type != corev1.ServiceTypeLoadBalancer {
			continue
		}
		for _, p := range s.Spec.Ports {
			u := use{p.NodePort, p.Protocol}
			if p.NodePort != 0 && uses[u] {
				out.twice = append(out.twice, portClaim{p.NodePort, owner{s.Namespace, s.Name}})
			}
			uses[u] = true
		}
	}
	for i := range r.Size {
		port := int32(r.Base + i)
		if o.ports.Bit(i) == 0 || wanted[port] {
			continue
		}
		n := before.ports[port] + 1
		if n >= leakPasses {
			out.releasePorts = append(out.releasePorts, port)
		} else {
			out.leaks.ports[port] = n
		}
	}
	slices.SortFunc(out.takePorts, cmp.Compare[int32])
}
