package foreign

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/reevehq/reeve/proxy/foreign/firewalld"
	"github.com/reevehq/reeve/proxy/plan"
)

// What drops by default is told from what forbids something by name; our own jump is no rule. With real firewalls and
// packets this is tested in package proxy.
func TestDropsByDefault(t *testing.T) {
	drop, accept := nftables.ChainPolicyDrop, nftables.ChainPolicyAccept
	verdict := func(k expr.VerdictKind) expr.Any { return &expr.Verdict{Kind: k} }
	jump := &nftables.Rule{Handle: 9, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: "ours"}}}
	rule := func(handle uint64, e ...expr.Any) *nftables.Rule { return &nftables.Rule{Handle: handle, Exprs: e} }
	for name, c := range map[string]struct {
		policy *nftables.ChainPolicy
		rules  []*nftables.Rule
		drops  bool
		before uint64
	}{
		"policy drop":                     {&drop, nil, true, 0},
		"policy accept":                   {&accept, nil, false, 0},
		"a last rule that rejects":        {&accept, []*nftables.Rule{rule(3, &expr.Counter{}, &expr.Log{}, &expr.Reject{})}, true, 3},
		"and our jump behind it":          {&accept, []*nftables.Rule{rule(3, verdict(expr.VerdictDrop)), jump}, true, 3},
		"a last rule that drops some":     {&accept, []*nftables.Rule{rule(3, &expr.Meta{}, &expr.Cmp{}, verdict(expr.VerdictDrop))}, false, 0},
		"a last rule that accepts":        {&accept, []*nftables.Rule{rule(3, verdict(expr.VerdictAccept))}, false, 0},
		"an unconditional rule, not last": {&accept, []*nftables.Rule{rule(3, verdict(expr.VerdictDrop)), rule(4, &expr.Counter{})}, false, 0},
	} {
		drops, before := dropsByDefault(&nftables.Chain{Policy: c.policy}, c.rules, "ours")
		if drops != c.drops || before != c.before {
			t.Errorf("%s: %v before %d, want %v before %d", name, drops, before, c.drops, c.before)
		}
	}
	for name, c := range map[string]struct {
		rules []string
		drops bool
		at    int
	}{
		"policy":        {[]string{"-P FORWARD DROP", "-A FORWARD -j KUBE-PROXY-FORWARD"}, true, 0},
		"accept":        {[]string{"-P FORWARD ACCEPT", "-A FORWARD -s 10.0.0.0/8 -j DROP"}, false, 0},
		"a last reject": {[]string{"-P FORWARD ACCEPT", "-A FORWARD -j X", "-A FORWARD -j KUBE-PROXY-FORWARD", "-A FORWARD -j REJECT --reject-with icmp-host-prohibited"}, true, 2},
	} {
		drops, at := xtDropsByDefault(c.rules, "FORWARD", "KUBE-PROXY-FORWARD")
		if drops != c.drops || at != c.at {
			t.Errorf("iptables, %s: %v at %d, want %v at %d", name, drops, at, c.drops, c.at)
		}
	}
}

// Without knowing pods, only what a Service translates passes; knowing them, they pass too.
func TestWhoPasses(t *testing.T) {
	blind := Config{Table: "t", Prefix: "P", MarkBit: 14}
	if got := blind.nftRules(forward, []plan.Family{plan.IPv4}, nil); !slices.Equal(got, []string{"meta mark & 0x4000 == 0x4000 accept", "ct status dnat accept"}) {
		t.Error(got)
	}
	sees := blind
	sees.Facts.ClusterCIDRs = []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00::/48")}
	sees.PodAddresses = []netip.Addr{netip.MustParseAddr("10.96.0.10")}
	got := sees.nftRules(input, []plan.Family{plan.IPv4, plan.IPv6}, []uint16{31001, 31000})
	for _, want := range []string{"ip saddr { 10.244.0.0/16 } ip daddr { 10.96.0.10 } accept", "tcp dport { 31000, 31001 } accept"} {
		if !slices.Contains(got, want) {
			t.Errorf("%q is not in %q", want, got)
		}
	}
	// Services behind IPVS come in to the node itself.
	sees.ServiceLabel = 110
	for _, h := range hooks {
		if got := sees.nftRules(h, []plan.Family{plan.IPv4}, nil); !slices.Contains(got, "ct label 110 accept") {
			t.Errorf("%s: no label in %q", h, got)
		}
		if got := sees.xtRules(h, plan.IPv4, nil); !slices.Contains(got, "-m connlabel --label 110 -j ACCEPT") {
			t.Errorf("%s: no label in %q", h, got)
		}
	}
}

// A table that firewalld keeps locked is in trouble only for what firewalld could not be asked.
func TestWhatFirewalldCouldNotBeAsked(t *testing.T) {
	locked := errors.New("operation not permitted")
	troubles := []Trouble{
		{Where: "inet host ways", Err: locked, hook: forward},
		{Where: "inet firewalld filter_FORWARD", Err: locked, firewalld: true, hook: forward},
		{Where: "inet firewalld filter_INPUT", Err: locked, firewalld: true, hook: input},
	}
	pods := Config{Facts: plan.Facts{ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}}}
	ipvs := pods
	ipvs.ServiceLabel = 110
	running := firewalld.Result{Running: true}
	for name, c := range map[string]struct {
		cfg  Config
		r    firewalld.Result
		err  error
		want []string // words of each trouble that is left
	}{
		"asked":                        {pods, running, nil, []string{"inet host ways drops", "to a pod itself"}},
		"asked, and a policy to pods":  {pods, firewalld.Result{Running: true, ToPods: true}, nil, []string{"inet host ways drops"}},
		"strict":                       {pods, firewalld.Result{Running: true, ToPods: true, Strict: true}, nil, []string{"StrictForwardPorts", "inet host"}},
		"refused":                      {pods, running, errors.New("not authorized"), []string{"inet host", "filter_FORWARD drops", "filter_INPUT drops"}},
		"pods cannot be told":          {Config{}, running, nil, []string{"inet host", "filter_FORWARD drops", "filter_INPUT drops"}},
		"IPVS":                         {ipvs, running, nil, []string{"inet host", "to Services or to pods", "to Services or to pods"}},
		"pods stand in another's zone": {pods, firewalld.Result{Running: true, Taken: map[string]string{"10.244.0.0/16": "work"}}, nil, []string{"zone work", "inet host", "filter_FORWARD drops", "filter_INPUT drops"}},
	} {
		got := c.cfg.afterAsking(c.r, c.err, slices.Clone(troubles))
		same := len(got) == len(c.want)
		for i := 0; same && i < len(got); i++ {
			same = strings.Contains(got[i].String(), c.want[i])
		}
		if !same {
			t.Errorf("%s: %v, want %q", name, got, c.want)
		}
	}
}
