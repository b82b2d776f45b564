package ipam

import (
	"fmt"
	"net/netip"
	"testing"
)

func TestRangeGivesEveryPodAddressOnceThenSaysFull(t *testing.T) {
	for _, c := range []struct {
		cidr  string
		first string
		count int
	}{
		{"10.244.3.0/24", "10.244.3.2", 253},
		{"10.244.3.7/29", "10.244.3.2", 5},
		{"10.0.0.0/30", "10.0.0.2", 1},
		{"fd00:1::/124", "fd00:1::2", 14},
	} {
		r, err := New(netip.MustParsePrefix(c.cidr))
		if err != nil {
			t.Fatal(err)
		}
		seen := map[netip.Addr]bool{}
		for i := range c.count {
			a, err := r.Allocate(fmt.Sprint(i))
			if err != nil {
				t.Fatalf("%s: address %d of %d: %v", c.cidr, i, c.count, err)
			}
			if i == 0 && a.String() != c.first {
				t.Errorf("%s: first address %s, want %s", c.cidr, a, c.first)
			}
			if seen[a] || a == r.Gateway() || !r.Prefix().Contains(a) {
				t.Errorf("%s: gave %s, which is taken, the gateway or outside", c.cidr, a)
			}
			seen[a] = true
		}
		if a, err := r.Allocate("one more"); err == nil {
			t.Errorf("%s: gave %s though all are taken", c.cidr, a)
		}
	}
}

func TestReleasedAddressRestsBeforeItIsGivenAgain(t *testing.T) {
	r, _ := New(netip.MustParsePrefix("10.0.0.0/29"))
	first, _ := r.Allocate("a")
	r.Release(first, "a")
	if again, _ := r.Allocate("b"); again == first {
		t.Errorf("gave %s at once again", again)
	}
}

func TestReleaseByAnotherOwnerChangesNothing(t *testing.T) {
	r, _ := New(netip.MustParsePrefix("10.0.0.0/30"))
	a, _ := r.Allocate("a")
	r.Release(a, "b")
	if _, err := r.Allocate("c"); err == nil {
		t.Error("the address of a was given to c after b released it")
	}
	if r.Reserve(a, "b") {
		t.Error("b could reserve what a has")
	}
	if !r.Reserve(a, "a") {
		t.Error("a could not reserve its own again")
	}
}

func TestTooSmallRangesAreRefused(t *testing.T) {
	for _, cidr := range []string{"10.0.0.0/31", "10.0.0.0/32", "fd00::/127"} {
		if _, err := New(netip.MustParsePrefix(cidr)); err == nil {
			t.Errorf("%s was accepted", cidr)
		}
	}
}
