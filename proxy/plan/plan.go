package plan

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// Plan decides one Service with its slices. The slices' order does not matter.
func Plan(facts Facts, svc Service, all []Slice) Planned {
	var out Planned
	for _, clusterIP := range svc.ClusterIPs {
		family := FamilyOf(clusterIP)
		for _, sp := range svc.Ports {
			p := Port{
				ID:        PortID{Service: svc.Name, Port: sp.Name, Protocol: sp.Protocol, Family: family},
				ClusterIP: clusterIP, Port: sp.Port, NodePort: sp.NodePort,
				ExternalIPs:     ofFamily(svc.ExternalIPs, family),
				LoadBalancerIPs: ofFamily(svc.LoadBalancerIPs, family),
				AffinitySeconds: svc.AffinitySeconds,
				InternalLocal:   svc.InternalLocal, ExternalLocal: svc.ExternalLocal,
			}
			if len(svc.SourceRanges) > 0 {
				p.SourceRanges = []netip.Prefix{}
				for _, r := range svc.SourceRanges {
					if FamilyOf(r.Addr()) == family {
						p.SourceRanges = append(p.SourceRanges, r)
					}
				}
				if slices.ContainsFunc(p.SourceRanges, func(r netip.Prefix) bool { return r.Bits() == 0 }) {
					p.SourceRanges = nil // everybody
				}
			}
			eps := endpointsOf(sp.Name, sp.Protocol, family, all)
			p.Cluster = pickCluster(facts, eps)
			if p.InternalLocal || p.ExternalLocal {
				p.Local = pickLocal(facts, eps)
			}
			p.Internal = verdict(p.InternalPool(), p.Cluster)
			p.External = verdict(p.ExternalPool(), p.Cluster)
			out.Ports = append(out.Ports, p)
		}
	}
	if svc.HealthCheckNodePort != 0 {
		out.Health = &Health{Service: svc.Name, NodePort: svc.HealthCheckNodePort, LocalEndpoints: countLocalReady(facts, all)}
	}
	return out
}

func verdict(pool, cluster []netip.AddrPort) Verdict {
	switch {
	case len(pool) > 0:
		return Forward
	case len(cluster) > 0:
		return Drop
	default:
		return Reject
	}
}

// endpoint is a SliceEndpoint with its port resolved.
type endpoint struct {
	SliceEndpoint
	at netip.AddrPort
}

// endpointsOf gathers the endpoints of one Service port in one family. A port belongs together by its name and protocol.
// An endpoint that several slices carry (one is being moved) counts once, in its best condition.
func endpointsOf(name string, protocol corev1.Protocol, family Family, all []Slice) []endpoint {
	at := map[netip.AddrPort]endpoint{}
	for i := range all {
		for _, port := range all[i].Ports {
			if port.Name != name || port.Protocol != protocol || port.Port == 0 {
				continue
			}
			for _, e := range all[i].Endpoints {
				if FamilyOf(e.Addr) != family {
					continue
				}
				next := endpoint{SliceEndpoint: e, at: netip.AddrPortFrom(e.Addr, port.Port)}
				if has, ok := at[next.at]; ok && rank(has) >= rank(next) {
					continue
				}
				at[next.at] = next
			}
		}
	}
	out := make([]endpoint, 0, len(at))
	for _, e := range at {
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b endpoint) int { return a.at.Compare(b.at) })
	return out
}

func rank(e endpoint) int {
	switch {
	case e.Ready:
		return 2
	case e.Serving:
		return 1
	}
	return 0
}

// pickCluster are the ready endpoints, narrowed by hints; without a ready one, those that still serve while they
// terminate.
func pickCluster(facts Facts, eps []endpoint) []netip.AddrPort {
	ready := filter(eps, func(e endpoint) bool { return e.Ready })
	if len(ready) == 0 {
		return ports(filter(eps, func(e endpoint) bool { return e.Serving && e.Terminating }))
	}
	near := hinted(ready, facts.NodeName, func(e endpoint) []string { return e.ForNodes })
	if len(near) == 0 {
		near = hinted(ready, facts.Zone, func(e endpoint) []string { return e.ForZones })
	}
	return ports(orElse(near, ready))
}

// hinted are the endpoints meant for here, or none when hints cannot be used: here is unknown, an endpoint has no hint, or
// none is meant for here.
func hinted(eps []endpoint, here string, hints func(endpoint) []string) []endpoint {
	if here == "" {
		return nil
	}
	var near []endpoint
	for _, e := range eps {
		h := hints(e)
		if len(h) == 0 {
			return nil
		}
		if slices.Contains(h, here) {
			near = append(near, e)
		}
	}
	return near
}

// pickLocal are this node's ready endpoints, or those that still serve while they terminate. Hints do not narrow them.
func pickLocal(facts Facts, eps []endpoint) []netip.AddrPort {
	local := filter(eps, func(e endpoint) bool { return e.NodeName == facts.NodeName })
	ready := filter(local, func(e endpoint) bool { return e.Ready })
	return ports(orElse(ready, filter(local, func(e endpoint) bool { return e.Serving && e.Terminating })))
}

// countLocalReady counts this node's ready endpoints by address, as the health check answers them.
func countLocalReady(facts Facts, all []Slice) int {
	seen := map[netip.Addr]bool{}
	for i := range all {
		for _, e := range all[i].Endpoints {
			if e.Ready && e.NodeName == facts.NodeName {
				seen[e.Addr] = true
			}
		}
	}
	return len(seen)
}

func filter(eps []endpoint, keep func(endpoint) bool) []endpoint {
	var out []endpoint
	for _, e := range eps {
		if keep(e) {
			out = append(out, e)
		}
	}
	return out
}

func orElse(a, b []endpoint) []endpoint {
	if len(a) > 0 {
		return a
	}
	return b
}

func ports(eps []endpoint) []netip.AddrPort {
	out := make([]netip.AddrPort, 0, len(eps))
	for _, e := range eps {
		out = append(out, e.at)
	}
	return out
}

func ofFamily(in []netip.Addr, family Family) []netip.Addr {
	var out []netip.Addr
	for _, a := range in {
		if FamilyOf(a) == family {
			out = append(out, a)
		}
	}
	return out
}
