package ipvs

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// tendPeriod is how often servers that drain are looked at, while there are any.
const tendPeriod = 3 * time.Second

// Tend removes servers that have drained, and what was only there for them. It answers when it wants to be called again;
// 0: not before the next Apply. After an error the next Apply must be full.
func (b *Backend) Tend(ctx context.Context) (time.Duration, error) {
	var w writes
	for at := range b.draining {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		idle, err := b.k.Idle(at)
		if err != nil {
			return 0, fmt.Errorf("look at the servers of %s: %w", at, err)
		}
		k := b.known[at]
		gone := false
		k.reals = slices.DeleteFunc(k.reals, func(r real) bool {
			if !r.draining || !slices.Contains(idle, r.at) || err != nil {
				return false
			}
			err = b.k.ChangeReal(at, realChange{r.at, realDelete})
			gone = true
			return err == nil
		})
		if err != nil {
			return 0, fmt.Errorf("remove a drained server of %s: %w", at, err)
		}
		if gone {
			w.fronts = append(w.fronts, at)
			w.addrs = append(w.addrs, at.addr)
		}
	}
	if len(w.fronts) > 0 {
		slices.SortFunc(w.addrs, netip.Addr.Compare)
		w.addrs = slices.Compact(w.addrs)
		if err := b.write(ctx, &w); err != nil {
			return 0, err
		}
	}
	if len(b.draining) == 0 {
		return 0, nil
	}
	return tendPeriod, nil
}

// Intact looks for foreign changes: the device, a jump of each table, one virtual service, its entry in a set; and whether
// the node's addresses are those that node ports are on.
func (b *Backend) Intact(context.Context) (bool, error) {
	if ok, err := b.k.HasDevice(); err != nil || !ok {
		return false, err
	}
	addrs, err := b.k.Host()
	if err != nil || !slices.Equal(addrs, b.hostKey) {
		return false, err
	}
	jumps := b.cfg.jumps()
	if b.guarded {
		jumps = append(jumps, b.cfg.guard())
	}
	for _, j := range jumps {
		if j.Table != "mangle" && j.Chain != "PREROUTING" && j.Chain != "INPUT" {
			continue
		}
		if ok, err := b.k.Exists(j.Table, j.Chain, strings.Fields(j.Rule)...); err != nil || !ok {
			return false, err
		}
	}
	for table, rule := range map[string][]string{"filter": {"INPUT", "-j " + b.cfg.chain("HEALTH-PORTS")}, "nat": {"DETOURS", "-m addrtype --src-type LOCAL -j " + b.cfg.chain("MARK")}} {
		if ok, err := b.k.Exists(table, b.cfg.chain(rule[0]), strings.Fields(rule[1])...); err != nil || !ok {
			return false, err
		}
	}
	for at, k := range b.known {
		if !k.virtual || !k.sets.has(setServices) {
			continue
		}
		if !b.k.HasVirtual(at) {
			return false, nil
		}
		if ok, err := b.k.HasEntry(b.cfg, setServices, entry{frontend: at}); err != nil || !ok {
			return false, err
		}
		break
	}
	return true, nil
}
