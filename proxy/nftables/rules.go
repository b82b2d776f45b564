package nftables

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
	"sigs.k8s.io/knftables"

	"github.com/reevehq/reeve/internal/nfnl"
	"github.com/reevehq/reeve/proxy/plan"
)

// Table is one nftables table: chains, maps, sets and rules through nft, which has the language; elements, and what is
// asked, through netlink, since they are many and nft 1.0.6 reads every element of every map (0.5 s with 10,000 Services)
// to list anything.
type Table struct {
	knftables.Interface
	keeper knftables.Interface
	cfg    Config
	socket *socket
}

// Close ends the connection to the kernel. The table stays, and the next use connects again.
func (t *Table) Close() { t.socket.close() }

// PortID is the kernel's name for the connection; it stands in the events of what WriteElements changed.
func (t *Table) PortID() uint32 { return t.socket.portID() }

// CountRules by chain. No rules, or no table, is no error.
func (t *Table) CountRules(ctx context.Context) (map[string]int, error) {
	request, begin := message(nil, nfnl.Type(unix.NFT_MSG_GETRULE), unix.NLM_F_REQUEST|unix.NLM_F_DUMP, netfilterFamily(t.cfg.Family), 0)
	request = endMessage(text(request, unix.NFTA_RULE_TABLE, t.cfg.Table), begin)
	var out map[string]int
	err := t.retry(ctx, func() error {
		out = map[string]int{}
		return t.socket.dump(append([]byte{}, request...), func(body []byte) error {
			var table, chain string
			for kind, data := range nfnl.Attributes(body) {
				switch kind {
				case unix.NFTA_RULE_TABLE:
					table = nfnl.String(data)
				case unix.NFTA_RULE_CHAIN:
					chain = nfnl.String(data)
				}
			}
			if table == t.cfg.Table {
				out[chain]++
			}
			return nil
		})
	})
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return nil, fmt.Errorf("list rules of table %q: %w", t.cfg.Table, err)
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
