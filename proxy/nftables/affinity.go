package nftables

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// forgetAttempts bounds the tries to remove remembered clients while packets remember others.
const forgetAttempts = 3

// forgetClients removes from the affinity map the clients whose endpoint serves their frontend no more.
func (b *Backend) forgetClients(ctx context.Context) error {
	var err error
	for range forgetAttempts {
		var clients map[string]content
		if clients, err = b.nft.ReadElements(ctx, affinityMap); err != nil {
			continue
		}
		remove := map[slot]content{}
		groups := map[frontend]*group{}
		for key, c := range clients {
			if !b.remembers(key, c.value, groups) {
				remove[slot{affinityMap, key}] = content{}
			}
		}
		if len(remove) == 0 {
			return nil
		}
		// One that timed out meanwhile fails the transaction; the next look does not find it.
		if err = b.nft.WriteElements(ctx, remove, nil); err == nil {
			return nil
		}
	}
	return fmt.Errorf("forget clients of endpoints that are gone: %w", err)
}

// remembers reports that a remembered client's endpoint still serves.
func (b *Backend) remembers(client, endpoint string, groups map[frontend]*group) bool {
	key := strings.Split(client, concat)
	if len(key) != 4 {
		return false
	}
	addr, err := netip.ParseAddr(key[0])
	if err != nil {
		return false
	}
	port, err := strconv.ParseUint(key[2], 10, 16)
	if err != nil {
		return false
	}
	front := frontend{addr, key[1], uint16(port)}
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
		return ep.Addr().String()+concat+strconv.Itoa(int(ep.Port())) == endpoint
	})
}
