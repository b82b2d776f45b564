package endpoints

import (
	"cmp"
	"fmt"
	"net"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/endpointslice"
	endpointsliceutil "k8s.io/endpointslice/util"
)

// maxAddresses is the most one Endpoints object holds; more are cut and the object says so.
const maxAddresses = 1000

// subsets groups the pods' addresses by the ports that they serve, in a canonical order. cut says that some were left out.
func subsets(svc *v1.Service, pods []*v1.Pod) (out []v1.EndpointSubset, cut bool) {
	type group struct {
		ports           []v1.EndpointPort
		ready, notReady []v1.EndpointAddress
	}
	groups := map[string]*group{}
	for _, p := range pods {
		if !endpointsliceutil.ShouldPodBeInEndpoints(p, svc.Spec.PublishNotReadyAddresses) {
			continue
		}
		ip := podIP(svc, p)
		if ip == "" {
			continue
		}
		addr := v1.EndpointAddress{IP: ip, TargetRef: &v1.ObjectReference{Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID}}
		if p.Spec.NodeName != "" {
			name := p.Spec.NodeName
			addr.NodeName = &name
		}
		if p.Spec.Hostname != "" && p.Spec.Subdomain == svc.Name && p.Namespace == svc.Namespace {
			addr.Hostname = p.Spec.Hostname
		}
		var ports []v1.EndpointPort
		for i := range svc.Spec.Ports {
			sp := &svc.Spec.Ports[i]
			n, err := endpointslice.FindPort(p, sp)
			if err != nil {
				continue // this pod does not have the port by that name
			}
			ports = append(ports, v1.EndpointPort{Name: sp.Name, Port: int32(n), Protocol: sp.Protocol, AppProtocol: sp.AppProtocol})
		}
		if len(ports) == 0 && len(svc.Spec.Ports) > 0 {
			continue
		}
		slices.SortFunc(ports, func(a, b v1.EndpointPort) int {
			return cmp.Or(strings.Compare(a.Name, b.Name), cmp.Compare(a.Port, b.Port), strings.Compare(string(a.Protocol), string(b.Protocol)))
		})
		key := fmt.Sprint(ports)
		g := groups[key]
		if g == nil {
			g = &group{ports: ports}
			groups[key] = g
		}
		if svc.Spec.PublishNotReadyAddresses || endpointsliceutil.IsPodReady(p) {
			g.ready = append(g.ready, addr)
		} else {
			g.notReady = append(g.notReady, addr)
		}
	}
	keys := make([]string, 0, len(groups))
	for k := range groups {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	left := maxAddresses
	take := func(list []v1.EndpointAddress) []v1.EndpointAddress {
		slices.SortFunc(list, func(a, b v1.EndpointAddress) int {
			return cmp.Or(strings.Compare(a.IP, b.IP), strings.Compare(string(a.TargetRef.UID), string(b.TargetRef.UID)))
		})
		if len(list) > left {
			list, cut = list[:left], true
		}
		left -= len(list)
		return list
	}
	ready := make([][]v1.EndpointAddress, len(keys)) // ready ones have the first claim
	for i, k := range keys {
		ready[i] = take(groups[k].ready)
	}
	for i, k := range keys {
		s := v1.EndpointSubset{Addresses: ready[i], NotReadyAddresses: take(groups[k].notReady), Ports: groups[k].ports}
		if len(s.Addresses)+len(s.NotReadyAddresses) > 0 {
			out = append(out, s)
		}
	}
	return out, cut
}

// podIP is the pod's address in the Service's first IP family.
func podIP(svc *v1.Service, p *v1.Pod) string {
	family := v1.IPv4Protocol
	switch {
	case len(svc.Spec.IPFamilies) > 0:
		family = svc.Spec.IPFamilies[0]
	case strings.Contains(svc.Spec.ClusterIP, ":"):
		family = v1.IPv6Protocol
	}
	for _, ip := range p.Status.PodIPs {
		if a := net.ParseIP(ip.IP); a != nil && (a.To4() != nil) == (family == v1.IPv4Protocol) {
			return ip.IP
		}
	}
	return ""
}
