package ipvs

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/reevehq/reeve/internal/testns"
	"github.com/reevehq/reeve/internal/xtables"
	"github.com/reevehq/reeve/proxy/plan"
)

// What iptables saves of our rules is what we have written, so that nothing is written again over what is there, and only
// the chain that somebody changed. The rules need ipsets, and not the kernel's IPVS.
func TestRulesAreWrittenOnce(t *testing.T) {
	testns.Need(t)
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE, unix.NETLINK_NETFILTER)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	for _, family := range []plan.Family{plan.IPv4, plan.IPv6} {
		for _, flavor := range []string{"nft", "legacy"} {
			t.Run(fmt.Sprintf("IPv%d %s", family, flavor), func(t *testing.T) {
				xt, err := xtables.New(xtables.Family(family), xtables.Flavor(flavor))
				if err != nil {
					t.Fatal(err)
				}
				k := &Kernel{Handle: xt, family: family, nl: h}
				c := testConfig(family)
				if err := k.EnsureSets(c); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() {
					if err := CleanupRules(context.Background(), c, xt); err != nil {
						t.Error(err)
					}
				})
				facts := map[string]plan.Facts{
					"ranges":         c.Facts,
					"an interface":   {LocalInterface: "br", LocalInterfaceIsPrefix: true},
					"nothing inside": {},
					"masquerade all": {MasqueradeAll: true},
				}
				lines := []line{c.healthLine(30123), c.healthLine(30124)}
				if family == plan.IPv4 {
					at := frontend{netip.MustParseAddr("192.0.2.1"), 30080, unix.IPPROTO_TCP}
					lines = append(lines, c.detourLine(at, netip.MustParseAddrPort("10.96.0.1:80")))
				} else {
					at := frontend{netip.MustParseAddr("2001:db8::1"), 30080, unix.IPPROTO_SCTP}
					lines = append(lines, c.detourLine(at, netip.MustParseAddrPort("[fd00:10:96::1]:80")))
				}
				save := func() map[string][]byte {
					t.Helper()
					saved := map[string][]byte{}
					for _, table := range tables {
						if saved[table], err = xt.Save(t.Context(), table); err != nil {
							t.Fatal(err)
						}
					}
					return saved
				}
				for what, f := range facts {
					c.Facts = f
					if err := xt.Restore(t.Context(), c.rulesInput(lines, save())); err != nil {
						t.Fatalf("%s: %v", what, err)
					}
					if again := c.rulesInput([]line{lines[1], lines[0], lines[2]}, save()); len(again) > 0 {
						t.Errorf("%s: written again:\n%s", what, again)
					}
				}
				for range 2 {
					guard := c.guard()
					if err := xt.Restore(t.Context(), c.guardInput(true)); err != nil {
						t.Fatal(err)
					}
					if n := xtables.ParseSave(save()[guard.Table]).Rules[guard.Chain][guard.Rule]; n != 1 {
						t.Errorf("the guard is seen %d times", n)
					}
					if err := xt.Restore(t.Context(), c.guardInput(false)); err != nil {
						t.Fatal(err)
					}
				}
				if err := xt.Restore(t.Context(), []byte("*filter\n-F "+c.chain("INPUT")+"\nCOMMIT\n")); err != nil {
					t.Fatal(err)
				}
				mend := c.rulesInput(lines, save())
				if n := bytes.Count(mend, []byte("\n:")); n != 1 || !bytes.Contains(mend, []byte("\n:"+c.chain("INPUT"))) {
					t.Errorf("over one flushed chain is written\n%s", mend)
				}
				forward := func(label int) bool { // whether forwarded packets pass a hook of ours, with that label or none
					c.Label = label
					if err := xt.Restore(t.Context(), c.rulesInput(lines, save())); err != nil {
						t.Fatalf("label %d: %v", label, err)
					}
					if again := c.rulesInput(lines, save()); len(again) > 0 {
						t.Errorf("label %d: written again:\n%s", label, again)
					}
					return bytes.Contains(save()["filter"], []byte("FORWARD -j "+c.chain("FORWARD")))
				}
				if with, without := forward(firstLabel), forward(0); with || !without {
					t.Errorf("forwarded packets pass our chain with labels: %v, without: %v", with, without)
				}
				if forward(firstLabel) {
					t.Error("forwarded packets still pass our chain once there are labels")
				}
			})
		}
	}
}
