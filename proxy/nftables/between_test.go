package nftables

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/reevehq/reeve/proxy/plan"
)

// between looks at the moment of every transaction, as a packet does that has looked up the first map before it and looks
// up the next after it.
type between struct {
	fakeTable
	looked, moved int
	lost          []string
}

// leads are a map's verdicts by frontend: the chain that each leads to.
func (b *between) leads(in string) map[string]string {
	out := map[string]string{}
	if b.Table == nil || b.Table.Maps[in] == nil {
		return out
	}
	for _, e := range b.Table.Maps[in].Elements {
		if chain, is := strings.CutPrefix(strings.Join(e.Value, concat), "goto "); is {
			out[strings.Join(e.Key, concat)] = chain
		}
	}
	return out
}

var dispatches = []string{serviceIPs, insideIPs, outsideIPs, serviceNodePorts, insideNodePorts, outsideNodePorts}

func (b *between) WriteElements(ctx context.Context, remove, add map[slot]content) error {
	before := map[string]map[string]string{}
	for _, in := range dispatches {
		before[in] = b.leads(in)
	}
	if err := b.fakeTable.WriteElements(ctx, remove, add); err != nil {
		return err
	}
	for _, in := range dispatches {
		after := b.leads(in)
		for front, chain := range before[in] {
			now, still := after[front]
			if !still {
				continue
			}
			b.looked++
			if now != chain {
				b.moved++
			}
			b.follow(before, front, chain, now)
		}
	}
	return nil
}

// follow goes on in a chain, which a packet was sent to by what stood there before.
func (b *between) follow(before map[string]map[string]string, front, chain, now string) {
	for _, n := range []names{addressNames, nodePortNames} {
		if chain == n.externalLocal && now != chain {
			for _, in := range []string{n.inside, n.outside} {
				if _, there := before[in][front]; there && b.leads(in)[front] == "" {
					b.lost = append(b.lost, fmt.Sprintf("%s, sent to %s, is not in %s", front, chain, in))
				}
			}
			return
		}
	}
	kind, proto, n, numberedChain := split(chain)
	if !numberedChain {
		return
	}
	in := numbered(map[string]string{
		toCluster: endpointsMap, toExternal: endpointsMap, toPod: endpointsMap, toLocal: localsMap,
		toNodePort: nodePortsMap, toNodePortPod: nodePortsMap, toNodePortLocal: nodeLocalsMap,
	}[kind], proto, n)
	key := strings.Split(front, concat)
	pick := append(append([]string{}, key[:len(key)-2]...), key[len(key)-1]) // without the protocol
	for i := range n {
		at := pick
		if n > 1 {
			at = append(append([]string{}, pick...), fmt.Sprint(i))
		}
		if m := b.Table.Maps[in]; m == nil || m.FindElement(at...) == nil {
			b.lost = append(b.lost, fmt.Sprintf("%s, sent to %s, finds no endpoint %d in %s", front, chain, i, in))
		}
	}
}

// A packet that was sent on before a change finds an endpoint after it, the old or the new, as long as the Service has any:
// whatever the transaction that came between, of a change, of a start or of a table that is found.
func TestNoPacketIsLostBetweenTwoLookups(t *testing.T) {
	looked, moved := 0, 0
	for seed := range uint64(20) {
		b := &between{fakeTable: newFake(plan.IPv4)}
		steps(t, seed, b, func(map[plan.Name]*plan.Planned) {})
		for _, lost := range b.lost {
			t.Errorf("seed %d: %s", seed, lost)
		}
		looked, moved = looked+b.looked, moved+b.moved
	}
	if looked < 100 || moved < 50 {
		t.Errorf("looked at %d frontends, %d of which changed their chain", looked, moved)
	}
	t.Logf("Looked at %d frontends, %d of which changed their chain", looked, moved)
}
