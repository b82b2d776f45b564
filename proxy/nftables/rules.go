package nftables

import (
	"context"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
	"sigs.k8s.io/knftables"

	"github.com/reevehq/reeve/proxy/plan"
)

// Table is one nftables table: nft transactions and lists, and a count of rules that asks the kernel directly, since nft
// 1.0.6 reads every element of every map (0.5 s with 10,000 Services) to list rules.
type Table struct {
	knftables.Interface
	cfg Config
}

// CountRules by chain. No rules, or no table, is no error.
func (t *Table) CountRules(context.Context) (map[string]int, error) {
	request := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETRULE, unix.NLM_F_DUMP)
	request.AddData(&nl.Nfgenmsg{NfgenFamily: netfilterFamily(t.cfg.Family)})
	request.AddData(nl.NewRtAttr(unix.NFTA_RULE_TABLE, nl.ZeroTerminated(t.cfg.Table)))
	rules, err := request.Execute(unix.NETLINK_NETFILTER, unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWRULE)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return nil, fmt.Errorf("list rules of table %q: %w", t.cfg.Table, err)
	}
	out := map[string]int{}
	for _, r := range rules {
		attrs, err := nl.ParseRouteAttr(r[nl.SizeofNfgenmsg:])
		if err != nil {
			return nil, fmt.Errorf("read a rule of table %q: %w", t.cfg.Table, err)
		}
		var table, chain string
		for _, a := range attrs {
			switch a.Attr.Type {
			case unix.NFTA_RULE_TABLE:
				table = nl.BytesToString(a.Value)
			case unix.NFTA_RULE_CHAIN:
				chain = nl.BytesToString(a.Value)
			}
		}
		if table == t.cfg.Table {
			out[chain]++
		}
	}
	return out, nil
}

// GuardsLoopback reports that the rules which keep neighbours off loopback addresses are in place.
func (t *Table) GuardsLoopback(ctx context.Context) bool {
	rules, err := t.CountRules(ctx)
	return err == nil && rules["filter-prerouting"] > 1
}

func netfilterFamily(f plan.Family) uint8 {
	if f == plan.IPv6 {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}
