package plan

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Claims decides which Service has a frontend that several claim: an address, protocol and port, or a node port. An API
// server hands out cluster IPs and node ports once, but external and load balancer IPs as users say, and what was once
// stored wrongly stays. The first by name has it; the next when that gives it up.
type Claims struct {
	raw     map[Name]*Planned // as planned, whatever becomes of its claims
	owners  map[claim]Name
	waiting map[claim][]Name // claim an owned frontend too, sorted
	lost    map[Name][]claim
}

// claim is a frontend; a node port has no address.
type claim struct {
	at       netip.AddrPort
	protocol corev1.Protocol
	family   Family
}

func (c claim) String() string {
	if !c.at.Addr().IsValid() {
		return "node port " + strconv.Itoa(int(c.at.Port())) + "/" + string(c.protocol)
	}
	return c.at.String() + "/" + string(c.protocol)
}

// NewClaims of no Service.
func NewClaims() *Claims {
	return &Claims{raw: map[Name]*Planned{}, owners: map[claim]Name{}, waiting: map[claim][]Name{}, lost: map[Name][]claim{}}
}

// claimsOf are the frontends of a Service, each once.
func claimsOf(p *Planned) []claim {
	if p == nil {
		return nil
	}
	var out []claim
	add := func(q *Port, a netip.Addr, port uint16) {
		c := claim{netip.AddrPortFrom(a, port), q.ID.Protocol, q.ID.Family}
		if !slices.Contains(out, c) {
			out = append(out, c)
		}
	}
	for i := range p.Ports {
		q := &p.Ports[i]
		add(q, q.ClusterIP, q.Port)
		for _, a := range q.ExternalIPs {
			add(q, a, q.Port)
		}
		for _, a := range q.LoadBalancerIPs {
			add(q, a, q.Port)
		}
		if q.NodePort != 0 {
			add(q, netip.Addr{}, q.NodePort)
		}
	}
	return out
}

// Change takes in Services' new plans, nil for one that is gone, and answers what they are without what others have, with
// the Services that win or lose a frontend by it. Plans without a contest are answered as they are.
func (c *Claims) Change(changes map[Name]*Planned) map[Name]*Planned {
	affected := map[Name]bool{}
	for name := range changes {
		affected[name] = true
		for _, f := range claimsOf(c.raw[name]) {
			if next, won := c.disclaim(f, name); won {
				affected[next] = true
			}
		}
	}
	for name, p := range changes {
		if delete(c.raw, name); p == nil {
			continue
		}
		c.raw[name] = p
		for _, f := range claimsOf(p) {
			if other, contested := c.claim(f, name); contested {
				affected[other] = true
			}
		}
	}
	out := map[Name]*Planned{}
	for name := range affected {
		out[name] = c.without(name)
	}
	return out
}

// claim answers who lost the frontend by it, or waits for it with the claimant.
func (c *Claims) claim(f claim, name Name) (other Name, contested bool) {
	owner, owned := c.owners[f]
	if !owned || owner == name {
		c.owners[f] = name
		return Name{}, false
	}
	waits := name
	if compareNames(name, owner) < 0 {
		c.owners[f], waits = name, owner
	}
	w := c.waiting[f]
	if at, found := slices.BinarySearchFunc(w, waits, compareNames); !found {
		c.waiting[f] = slices.Insert(w, at, waits)
	}
	return owner, true
}

// disclaim answers who has the frontend next.
func (c *Claims) disclaim(f claim, name Name) (next Name, won bool) {
	w := c.waiting[f]
	if c.owners[f] != name {
		if at, found := slices.BinarySearchFunc(w, name, compareNames); found {
			w = slices.Delete(w, at, at+1)
		}
	} else if delete(c.owners, f); len(w) > 0 {
		next, won = w[0], true
		c.owners[f], w = next, w[1:]
	}
	if c.waiting[f] = w; len(w) == 0 {
		delete(c.waiting, f)
	}
	return next, won
}

func compareNames(a, b Name) int {
	if c := strings.Compare(a.Namespace, b.Namespace); c != 0 {
		return c
	}
	return strings.Compare(a.Name, b.Name)
}

// without is a Service's plan without the frontends that others have; nil when it is gone.
func (c *Claims) without(name Name) *Planned {
	p := c.raw[name]
	delete(c.lost, name)
	if p == nil {
		return nil
	}
	lost := map[claim]bool{}
	for _, f := range claimsOf(p) {
		if c.owners[f] != name {
			lost[f] = true
		}
	}
	if len(lost) == 0 {
		return p
	}
	c.lost[name] = slices.SortedFunc(maps.Keys(lost), func(a, b claim) int { return strings.Compare(a.String(), b.String()) })
	out := &Planned{Health: p.Health}
	for _, q := range p.Ports {
		gone := func(a netip.Addr, port uint16) bool {
			return lost[claim{netip.AddrPortFrom(a, port), q.ID.Protocol, q.ID.Family}]
		}
		left := func(in []netip.Addr) []netip.Addr {
			return slices.DeleteFunc(slices.Clone(in), func(a netip.Addr) bool { return gone(a, q.Port) })
		}
		if gone(q.ClusterIP, q.Port) {
			continue // nothing hangs on a port without its own address
		}
		q.ExternalIPs, q.LoadBalancerIPs = left(q.ExternalIPs), left(q.LoadBalancerIPs)
		if q.NodePort != 0 && gone(netip.Addr{}, q.NodePort) {
			q.NodePort = 0
		}
		out.Ports = append(out.Ports, q)
	}
	return out
}

// Lost says, of the Services that others keep a frontend from, which and who has it.
func (c *Claims) Lost(name Name) []string {
	var out []string
	for _, f := range c.lost[name] {
		out = append(out, fmt.Sprintf("%s belongs to Service %s", f, c.owners[f]))
	}
	return out
}
