package iptables

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// fakeKernel holds tables in memory and is as strict as iptables-restore: a rule's target and chain must exist, a chain
// that goes must be empty and unreferenced, a rule that is deleted must be there. A failed transaction changes nothing.
type fakeKernel struct {
	tables map[string]map[string][]string // table → chain → rules
	inputs []string
	refuse string // a rule with this text is refused
}

func newFakeKernel() *fakeKernel {
	k := &fakeKernel{tables: map[string]map[string][]string{}}
	for table, chains := range map[string][]string{
		"nat": {"PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"}, "filter": {"INPUT", "FORWARD", "OUTPUT"},
		"mangle": {"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"},
	} {
		k.tables[table] = map[string][]string{}
		for _, c := range chains {
			k.tables[table][c] = nil
		}
	}
	return k
}

func (k *fakeKernel) Restore(_ context.Context, input []byte) error {
	k.inputs = append(k.inputs, string(input))
	var table string
	var chains map[string][]string
	for n, line := range strings.Split(strings.TrimSuffix(string(input), "\n"), "\n") {
		fail := func(why string) error { return fmt.Errorf("line %d: %s: %s", n+1, why, line) }
		word, rest, _ := strings.Cut(line, " ")
		chain, rule, _ := strings.Cut(rest, " ")
		if k.refuse != "" && strings.Contains(line, k.refuse) {
			return fail("the kernel lacks this")
		}
		switch {
		case strings.HasPrefix(line, "*"):
			table = line[1:]
			chains = map[string][]string{}
			for c, rules := range k.tables[table] {
				chains[c] = slices.Clone(rules)
			}
		case strings.HasPrefix(line, ":"):
			chains[word[1:]] = nil
		case line == "COMMIT":
			k.tables[table] = chains
		case word == "-X":
			if len(chains[chain]) > 0 {
				return fail("the chain is not empty")
			}
			for _, rules := range chains {
				if slices.ContainsFunc(rules, func(r string) bool { return strings.HasSuffix(r, "-j "+chain) }) {
					return fail("the chain is in use")
				}
			}
			delete(chains, chain)
		default:
			if _, ok := chains[chain]; !ok {
				return fail("no such chain")
			}
			if word == "-I" {
				rule = strings.TrimPrefix(rule, "1 ")
			}
			_, target, _ := strings.Cut(rule, "-j ")
			target, _, _ = strings.Cut(target, " ")
			if _, ok := chains[target]; !ok && strings.HasPrefix(target, "KUBE") {
				return fail("no such target")
			}
			switch word {
			case "-A":
				chains[chain] = append(chains[chain], rule)
			case "-I":
				chains[chain] = slices.Insert(chains[chain], 0, rule)
			case "-D":
				i := slices.Index(chains[chain], rule)
				if i < 0 {
					return fail("no such rule")
				}
				chains[chain] = slices.Delete(chains[chain], i, i+1)
			default:
				return fail("unknown command")
			}
		}
	}
	return nil
}

func (k *fakeKernel) Save(_ context.Context, table string) ([]byte, error) {
	var b strings.Builder
	for c := range k.tables[table] {
		fmt.Fprintf(&b, ":%s - [0:0]\n", c)
	}
	for c, rules := range k.tables[table] {
		for _, r := range rules {
			fmt.Fprintf(&b, "-A %s %s\n", c, r)
		}
	}
	return []byte(b.String()), nil
}

func (k *fakeKernel) Exists(table, chain string, rule ...string) (bool, error) {
	return slices.Contains(k.tables[table][chain], strings.Join(rule, " ")), nil
}

// dump prints everything; with canonical, lines of dispatch chains are sorted, since their order means nothing there.
func (k *fakeKernel) dump(canonical bool) string {
	var out []string
	for table, chains := range k.tables {
		for chain, rules := range chains {
			rules = slices.Clone(rules)
			if canonical && (strings.HasSuffix(chain, "SERVICES") || strings.HasSuffix(chain, "NODEPORTS") || strings.HasSuffix(chain, "PROXY-FIREWALL")) {
				slices.Sort(rules)
			}
			out = append(out, fmt.Sprintf("%s %s\n\t%s\n", table, chain, strings.Join(rules, "\n\t")))
		}
	}
	slices.Sort(out)
	return strings.Join(out, "")
}
