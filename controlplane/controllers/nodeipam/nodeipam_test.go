package nodeipam

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"go.uber.org/goleak"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/reevehq/reeve/controlplane/controllers/looptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func TestPool(t *testing.T) {
	for _, c := range []struct {
		whole string
		mask  int
		first []string
		n     int
	}{
		{"10.244.0.0/16", 24, []string{"10.244.0.0/24", "10.244.1.0/24", "10.244.2.0/24"}, 256},
		{"10.0.0.0/30", 32, []string{"10.0.0.0/32", "10.0.0.1/32"}, 4},
		{"10.1.0.0/24", 24, []string{"10.1.0.0/24"}, 1},
		{"fd00:1::/56", 64, []string{"fd00:1::/64", "fd00:1:0:1::/64"}, 256},
		{"fd00::/120", 124, []string{"fd00::/124", "fd00::10/124"}, 16},
		{"fd00::/63", 66, []string{"fd00::/66", "fd00:0:0:0:4000::/66", "fd00:0:0:0:8000::/66", "fd00:0:0:0:c000::/66", "fd00:0:0:1::/66"}, 8},
	} {
		p, err := NewPool(prefix(c.whole), c.mask)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[netip.Prefix]bool{}
		for i := range c.n {
			q, err := p.Next()
			if err != nil {
				t.Fatalf("%s: after %d of %d: %v", c.whole, i, c.n, err)
			}
			if i < len(c.first) && q != prefix(c.first[i]) {
				t.Errorf("%s: share %d is %s, want %s", c.whole, i, q, c.first[i])
			}
			if seen[q] || !prefix(c.whole).Overlaps(q) || q != q.Masked() || p.index(q.Addr()) != i {
				t.Errorf("%s: share %d is %s (seen %v, index %d)", c.whole, i, q, seen[q], p.index(q.Addr()))
			}
			seen[q] = true
		}
		if _, err := p.Next(); !errors.Is(err, errFull) {
			t.Errorf("%s: a share more than there are: %v", c.whole, err)
		}
	}
	if _, err := NewPool(prefix("10.0.0.0/16"), 8); err == nil {
		t.Error("a share larger than the whole")
	}
}

func TestPoolSkipsWhatIsTaken(t *testing.T) {
	p, _ := NewPool(prefix("10.244.0.0/16"), 24)
	p.Occupy(prefix("10.244.0.0/23")) // two shares
	p.Occupy(prefix("10.244.2.128/25"))
	p.Occupy(prefix("192.168.0.0/16")) // elsewhere
	if q, _ := p.Next(); q != prefix("10.244.3.0/24") {
		t.Errorf("first free share is %s", q)
	}
	whole, _ := NewPool(prefix("10.244.0.0/30"), 31)
	whole.Occupy(prefix("10.0.0.0/8"))
	if _, err := whole.Next(); err == nil {
		t.Error("gave out a share of a range that is taken as a whole")
	}
}

func node(name string, cidrs ...string) *v1.Node {
	n := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}, Spec: v1.NodeSpec{PodCIDRs: cidrs}}
	if len(cidrs) > 0 {
		n.Spec.PodCIDR = cidrs[0]
	}
	return n
}

func TestEveryNodeGetsItsOwnRange(t *testing.T) {
	c := looptest.New(t, node("has", "10.244.1.0/24"))
	c.Run(New(c.Env, Config{ClusterCIDRs: []netip.Prefix{prefix("10.244.0.0/22"), prefix("fd00::/62")}, MaskIPv4: 24, MaskIPv6: 64}))
	for i := range 3 {
		if _, err := c.CoreV1().Nodes().Create(t.Context(), node(fmt.Sprint("n", i)), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	owner := map[string]string{"10.244.1.0/24": "has"}
	for i := range 3 {
		name := fmt.Sprint("n", i)
		c.Eventually("ranges of "+name, func() error {
			n, err := c.CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
			if err != nil || len(n.Spec.PodCIDRs) != 2 || n.Spec.PodCIDR != n.Spec.PodCIDRs[0] {
				return fmt.Errorf("spec %+v, %v", n.Spec, err)
			}
			return nil
		})
		n, _ := c.CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
		for _, r := range n.Spec.PodCIDRs {
			if o, taken := owner[r]; taken {
				t.Errorf("%s went to %s and %s", r, o, name)
			}
			owner[r] = name
		}
	}
	// The pool is full now; a node that goes makes room for the next.
	if _, err := c.CoreV1().Nodes().Create(t.Context(), node("late"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := c.CoreV1().Nodes().Delete(t.Context(), "n1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.Eventually("a range for the late node", func() error {
		n, err := c.CoreV1().Nodes().Get(t.Context(), "late", metav1.GetOptions{})
		if err != nil || len(n.Spec.PodCIDRs) != 2 {
			return fmt.Errorf("%v, %v", n.Spec.PodCIDRs, err)
		}
		return nil
	})
}
