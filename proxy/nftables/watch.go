package nftables

import (
	"context"

	"golang.org/x/sys/unix"

	"github.com/reevehq/reeve/internal/nfnl"
)

// Watch calls changed whenever a rule, chain or map of the table, or the table itself, was removed by anybody, this process
// included, when others changed elements, and when messages were lost: then Heal. It returns nil when ctx ends.
func (b *Backend) Watch(ctx context.Context, changed func()) error {
	return nfnl.Listen(ctx, func(m nfnl.Message) {
		if b.damage.hear(m, b.cfg, b.nft.PortID()) {
			changed()
		}
	}, func() {
		b.damage.note("", false, true)
		changed()
	})
}

// hear notes what a message tells of the table, but for the elements that mine, this process's own connection, changed. It
// reports whether there was anything.
func (d *damage) hear(m nfnl.Message, cfg Config, mine uint32) bool {
	if family, ok := m.Family(); !ok || family != netfilterFamily(cfg.Family) {
		return false
	}
	switch m.Kind {
	case nfnl.Type(unix.NFT_MSG_DELTABLE), nfnl.Type(unix.NFT_MSG_DELCHAIN), nfnl.Type(unix.NFT_MSG_DELRULE), nfnl.Type(unix.NFT_MSG_DELSET):
		// The table's name is the first attribute of them all.
		if nfnl.String(m.Find(unix.NFTA_RULE_TABLE)) != cfg.Table {
			return false
		}
		d.note("", true, false)
		return true
	case nfnl.Type(unix.NFT_MSG_DELSETELEM), nfnl.Type(unix.NFT_MSG_NEWSETELEM):
		set := nfnl.String(m.Find(unix.NFTA_SET_ELEM_LIST_SET))
		if m.Port == mine || set == affinityMap || nfnl.String(m.Find(unix.NFTA_SET_ELEM_LIST_TABLE)) != cfg.Table {
			return false
		}
		d.note(set, false, false)
		return true
	}
	return false
}
