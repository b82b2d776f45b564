package plan

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func claimant(i int, nodePort uint16, external byte) (Name, *Planned) {
	name := Name{"default", fmt.Sprint("s", i)}
	p := Port{
		ID:        PortID{Service: name, Protocol: corev1.ProtocolTCP, Family: IPv4},
		ClusterIP: netip.AddrFrom4([4]byte{10, 96, 0, byte(i)}), Port: 80, NodePort: nodePort,
	}
	if external != 0 {
		p.ExternalIPs = []netip.Addr{netip.AddrFrom4([4]byte{198, 51, 100, external})}
	}
	return name, &Planned{Ports: []Port{p}}
}

// Whatever comes in whatever steps, the state is that of everything at once, and each frontend has one owner: the first.
func TestClaimsInStepsEndWhereAtOnceDoes(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 7))
		steps := NewClaims()
		effective, raw := map[Name]*Planned{}, map[Name]*Planned{}
		for range 20 {
			changes := map[Name]*Planned{}
			for range 1 + r.IntN(4) {
				name, p := claimant(r.IntN(8), uint16(30000+r.IntN(3)), byte(r.IntN(3)))
				if r.IntN(4) == 0 {
					p = nil
				}
				changes[name] = p
				if delete(raw, name); p != nil {
					raw[name] = p
				}
			}
			for name, p := range steps.Change(changes) {
				if delete(effective, name); p != nil {
					effective[name] = p
				}
			}
		}
		atOnce := NewClaims().Change(raw)
		if len(atOnce) != len(effective) {
			t.Fatalf("seed %d: %d Services, want %d", seed, len(effective), len(atOnce))
		}
		owned := map[claim]Name{}
		for name, p := range atOnce {
			if p.String() != effective[name].String() {
				t.Errorf("seed %d: %s in steps\n%s, at once\n%s", seed, name, effective[name], p)
			}
			for _, c := range claimsOf(p) {
				if other, twice := owned[c]; twice {
					t.Errorf("seed %d: %s belongs to %s and %s", seed, c, other, name)
				}
				owned[c] = name
			}
		}
		for name, p := range raw {
			for _, c := range claimsOf(p) {
				if compareNames(owned[c], name) > 0 {
					t.Errorf("seed %d: %s belongs to %s, not to %s", seed, c, owned[c], name)
				}
			}
		}
		if len(steps.owners) != len(owned) {
			t.Errorf("seed %d: %d claims are kept of %d", seed, len(steps.owners), len(owned))
		}
	}
}

func TestLostClaimsAreNamed(t *testing.T) {
	c := NewClaims()
	a, pa := claimant(1, 30000, 7)
	b, pb := claimant(2, 30000, 7)
	c.Change(map[Name]*Planned{a: pa, b: pb})
	if got := fmt.Sprint(c.Lost(b)); got != "[198.51.100.7:80/TCP belongs to Service default/s1 node port 30000/TCP belongs to Service default/s1]" {
		t.Error(got)
	}
	if got := c.Lost(a); got != nil {
		t.Error(got)
	}
	c.Change(map[Name]*Planned{a: nil})
	if got := c.Lost(b); got != nil {
		t.Error(got)
	}
}
