package nftables

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/knftables"
)

// forgetAttempts bounds the tries to remove remembered clients while packets remember others.
const forgetAttempts = 3

// forgetClients removes from the affinity map the clients whose endpoint serves their frontend no more.
func (b *Backend) forgetClients(ctx context.Context) error {
	var err error
	for range forgetAttempts {
		var elements []*knftables.Element
		if elements, err = b.nft.ListElements(ctx, "map", affinityMap); err != nil {
			continue
		}
		tx := b.nft.NewTransaction()
		groups := map[frontend]*group{}
		for _, e := range elements {
			if !b.remembers(e, groups) {
				// One that timed out meanwhile is no error: it is added first.
				e.Comment = nil
				tx.Add(e)
				tx.Delete(&knftables.Element{Map: affinityMap, Key: e.Key})
			}
		}
		if tx.NumOperations() == 0 {
			return nil
		}
		if err = b.nft.Run(ctx, tx); err == nil {
			return nil
		}
	}
	return fmt.Errorf("forget clients of endpoints that are gone: %w", err)
}

// remembers reports that a remembered client's endpoint still serves.
func (b *Backend) remembers(e *knftables.Element, groups map[frontend]*group) bool {
	if len(e.Key) != 4 || len(e.Value) != 2 {
		return false
	}
	addr, err := netip.ParseAddr(e.Key[0])
	if err != nil {
		return false
	}
	port, err := strconv.ParseUint(e.Key[2], 10, 16)
	if err != nil {
		return false
	}
	front := frontend{addr, e.Key[1], uint16(port)}
	if _, owned := b.state.owners[front]; !owned {
		front.addr = netip.Addr{}
	}
	owner, owned := b.state.owners[front]
	if !owned {
		return false
	}
	g, ok := groups[front]
	if !ok {
		g = b.cfg.groupAt(front, b.state.plans[owner], nil, false)
		groups[front] = g
	}
	return g != nil && g.sticky && slices.ContainsFunc(g.endpoints, func(ep netip.AddrPort) bool {
		return ep.Addr().String()+concat+strconv.Itoa(int(ep.Port())) == strings.Join(e.Value, concat)
	})
}
