package cni

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sort"
	"strings"
	"sync"

	"github.com/reevehq/reeve/internal/xtables"
)

// rules keeps the node's chains as the records want them. Everything is written anew from the whole desired state, in one
// transaction a table, whenever it differs from what was last written.
type rules struct {
	prefix string
	flavor xtables.Flavor

	mu      sync.Mutex
	tables  map[xtables.Family]*xtables.Handle
	written map[xtables.Family]string
}

func (r *rules) init(prefix string, flavor xtables.Flavor) {
	r.prefix, r.flavor = prefix, flavor
	r.tables = map[xtables.Family]*xtables.Handle{}
	r.written = map[xtables.Family]string{}
}

func (r *rules) chain(name string) string { return r.prefix + "-" + name }

// jumps into our chains. The forward one is appended: the service proxy's rejects and others' policies come before it,
// and only a DROP policy after it.
func (r *rules) jumps() []xtables.Jump {
	local := "-m addrtype --dst-type LOCAL -j " + r.chain("HOSTPORTS")
	return []xtables.Jump{
		{Table: "nat", Chain: "PREROUTING", Rule: local},
		{Table: "nat", Chain: "OUTPUT", Rule: local},
		{Table: "nat", Chain: "POSTROUTING", Rule: "-j " + r.chain("MASQ")},
		{Table: "filter", Chain: "FORWARD", Rule: "-j " + r.chain("FORWARD")},
		{Table: "filter", Chain: "INPUT", Rule: "-j " + r.chain("INPUT"), First: true},
	}
}

// ruleInput is what the rules of one family are made from.
type ruleInput struct {
	podCIDR      netip.Prefix
	clusterCIDRs []netip.Prefix
	records      []*record // in a stable order
}

// render writes the family's chains as iptables-restore input. Pure.
func (r *rules) render(in ruleInput) string {
	var b bytes.Buffer
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	v4 := in.podCIDR.Addr().Is4()
	multicast, loopback := "ff00::/8", "::1/128"
	if v4 {
		multicast, loopback = "224.0.0.0/4", "127.0.0.0/8"
	}

	hostPorts, masq := r.chain("HOSTPORTS"), r.chain("MASQ")
	line("*nat")
	line(":%s - [0:0]", hostPorts)
	line(":%s - [0:0]", masq)
	for _, rec := range in.records {
		for _, ip := range rec.IPs {
			if ip.Is4() != v4 {
				continue
			}
			rules := hostPortRules(rec, ip)
			for _, rule := range rules {
				line("-A %s %s", hostPorts, rule)
			}
			if len(rules) > 0 {
				// A pod that reaches itself through its host port must see the answer come back to the node.
				line("-A %s -s %s -d %s -j MASQUERADE", masq, ip, ip)
			}
		}
	}
	if v4 {
		line("-A %s -s %s -d %s -j MASQUERADE", masq, loopback, in.podCIDR)
	}
	for _, c := range in.clusterCIDRs {
		line("-A %s -s %s -d %s -j RETURN", masq, in.podCIDR, c)
	}
	line("-A %s -s %s -d %s -j RETURN", masq, in.podCIDR, multicast)
	line("-A %s -s %s -j MASQUERADE --random-fully", masq, in.podCIDR)
	line("COMMIT")

	forward, input := r.chain("FORWARD"), r.chain("INPUT")
	line("*filter")
	line(":%s - [0:0]", forward)
	line(":%s - [0:0]", input)
	line("-A %s -s %s -j ACCEPT", forward, in.podCIDR)
	line("-A %s -d %s -j ACCEPT", forward, in.podCIDR)
	if v4 {
		// route_localnet on a pod's link must not let neighbours talk to what listens on the node's loopback (CVE-2020-8558).
		line("-A %s ! -i lo -d %s -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP", input, loopback)
	}
	// What pods reach on this node through a Service (the API server first of all) is meant to be reached, also where the
	// host's own policy is to drop.
	line("-A %s -s %s -m conntrack --ctstate DNAT -j ACCEPT", input, in.podCIDR)
	line("COMMIT")
	return b.String()
}

// EnsureRules makes chains and jumps as the records want them. It costs one look when nothing changed.
func (b *Builtin) EnsureRules(ctx context.Context) error { return b.ensureRulesWithout(ctx, "") }

// ensureRulesWithout leaves one sandbox out, whose record goes only after its rules.
func (b *Builtin) ensureRulesWithout(ctx context.Context, leaving string) error {
	b.rules.mu.Lock()
	defer b.rules.mu.Unlock()
	// The snapshot is taken under the rules' lock, so that an older one is never written over a newer.
	b.mu.Lock()
	var recs []*record
	for id, rec := range b.records {
		if id != leaving && len(rec.Ports) > 0 {
			recs = append(recs, rec)
		}
	}
	var inputs []ruleInput
	for _, r := range b.ranges {
		in := ruleInput{podCIDR: r.Prefix()}
		for _, c := range b.cfg.ClusterCIDRs {
			if c.Addr().Is4() == r.Prefix().Addr().Is4() {
				in.clusterCIDRs = append(in.clusterCIDRs, c)
			}
		}
		if len(in.clusterCIDRs) == 0 {
			in.clusterCIDRs = []netip.Prefix{r.Prefix()}
		}
		inputs = append(inputs, in)
	}
	b.mu.Unlock()
	sort.Slice(recs, func(i, j int) bool { return recs[i].SandboxID < recs[j].SandboxID })
	for i := range inputs {
		inputs[i].records = recs
		if err := b.rules.ensure(ctx, inputs[i]); err != nil {
			return err
		}
	}
	return nil
}

func (r *rules) ensure(ctx context.Context, in ruleInput) error {
	family := xtables.IPv4
	if in.podCIDR.Addr().Is6() {
		family = xtables.IPv6
	}
	h := r.tables[family]
	if h == nil {
		var err error
		if h, err = xtables.New(family, r.flavor); err != nil {
			return err
		}
		r.tables[family] = h
	}
	want := r.render(in)
	before := r.written[family]
	if before != "" && before != want {
		// A host port came or went: flushed chains and jumps are looked after by the slow check.
		if err := h.Restore(ctx, []byte(want)); err != nil {
			return fmt.Errorf("write the network's rules: %w", err)
		}
		r.written[family] = want
		return nil
	}
	kept := before == want && r.stillThere(h, in.podCIDR)
	input, err := r.withJumps(ctx, h, want, kept)
	if err != nil || input == "" {
		return err
	}
	if err := h.Restore(ctx, []byte(input)); err != nil {
		return fmt.Errorf("write the network's rules: %w", err)
	}
	r.written[family] = want
	return nil
}

// withJumps completes the chains' rules with the jumps that are missing, or answers nothing when the chains are kept and
// no jump is missing.
func (r *rules) withJumps(ctx context.Context, h *xtables.Handle, want string, kept bool) (string, error) {
	var out strings.Builder
	missing := false
	for _, section := range strings.SplitAfter(want, "COMMIT\n") {
		body, ok := strings.CutSuffix(section, "COMMIT\n")
		if !ok {
			continue
		}
		table, _, _ := strings.Cut(strings.TrimPrefix(body, "*"), "\n")
		saved, err := h.Save(ctx, table)
		if err != nil {
			return "", fmt.Errorf("look for the network's rules: %w", err)
		}
		out.WriteString(body)
		for _, line := range xtables.MissingJumps(r.jumps(), table, xtables.ParseSave(saved)) {
			missing = true
			out.WriteString(line + "\n")
		}
		out.WriteString("COMMIT\n")
	}
	if kept && !missing {
		return "", nil
	}
	return out.String(), nil
}

// stillThere looks for the last rule of a chain in each table: an emptied or deleted chain has lost it.
func (r *rules) stillThere(h *xtables.Handle, podCIDR netip.Prefix) bool {
	nat, err := h.Exists("nat", r.chain("MASQ"), "-s", podCIDR.String(), "-j", "MASQUERADE", "--random-fully")
	if err != nil || !nat {
		return false
	}
	filter, err := h.Exists("filter", r.chain("FORWARD"), "-d", podCIDR.String(), "-j", "ACCEPT")
	return err == nil && filter
}

// Cleanup removes every pod network, namespace, chain and jump with this configuration's marks. It is for uninstalling:
// the pods must be gone. Nothing there is no error.
func (b *Builtin) Cleanup(ctx context.Context) error {
	b.mu.Lock()
	clear(b.fresh)
	b.ranges = nil
	b.mu.Unlock()
	errs := []error{b.GC(ctx, nil), b.store.removeRanges()}
	b.rules.mu.Lock()
	defer b.rules.mu.Unlock()
	for _, family := range []xtables.Family{xtables.IPv4, xtables.IPv6} {
		h, err := xtables.New(family, b.rules.flavor)
		if err != nil {
			if family == xtables.IPv4 {
				errs = append(errs, err)
			}
			continue
		}
		for _, j := range b.rules.jumps() {
			errs = append(errs, h.DeleteJump(j))
		}
		for _, table := range []string{"nat", "filter"} {
			errs = append(errs, h.DeleteChains(ctx, table, func(chain string) bool {
				return strings.HasPrefix(chain, b.rules.prefix+"-")
			}))
		}
		delete(b.rules.written, family)
	}
	return errors.Join(errs...)
}
