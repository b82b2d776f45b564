package xtables

import (
	"iter"
	"slices"
	"strings"
)

// Jump is a rule of ours in a chain that others own.
type Jump struct {
	Table, Chain string
	// Rule in the words that iptables-save uses for it.
	Rule string
	// First puts it before everybody else's rules; else it comes last.
	First bool
}

// Saved is one table as iptables-save prints it: its chains, and how often each rule stands in its built-in chains.
type Saved struct {
	Chains []string
	Rules  map[string]map[string]int
}

// ParseSave reads the output of iptables-save for one table. Lines that it does not know are skipped; counters before
// rules ("[1:60] -A …") are dropped.
func ParseSave(out []byte) Saved {
	s := Saved{Rules: map[string]map[string]int{}}
	for line := range strings.Lines(string(out)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), ":"); ok {
			if name, _, _ = strings.Cut(name, " "); name != "" {
				s.Chains = append(s.Chains, name)
			}
		}
	}
	for chain, rule := range SavedRules(out) {
		// Only built-in chains are asked for; keeping ten thousand Services' rules would be waste.
		switch chain {
		case "PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING":
			if s.Rules[chain] == nil {
				s.Rules[chain] = map[string]int{}
			}
			s.Rules[chain][rule]++
		}
	}
	return s
}

// SavedRules are all rules of one table as iptables-save prints it, each with its chain, in their order.
func SavedRules(out []byte) iter.Seq2[string, string] {
	return func(yield func(chain, rule string) bool) {
		for line := range strings.Lines(string(out)) {
			line = strings.TrimSpace(line)
			if strings.HasPrefix(line, "[") {
				var ok bool
				if _, line, ok = strings.Cut(line, "] "); !ok {
					continue
				}
			}
			if rule, ok := strings.CutPrefix(line, "-A "); ok {
				chain, rest, _ := strings.Cut(rule, " ")
				if !yield(chain, rest) {
					return
				}
			}
		}
	}
}

// Has reports a chain whose name begins with prefix.
func (s Saved) Has(prefix string) bool {
	return slices.ContainsFunc(s.Chains, func(c string) bool { return strings.HasPrefix(c, prefix) })
}

// MissingJumps are the restore lines that put a table's jumps in their chains, those with First in their order. A chain
// that has all of them, in whatever place, is left alone: others may rightly have come before since.
func MissingJumps(jumps []Jump, table string, found Saved) []string {
	byChain := map[string][]Jump{}
	var order []string
	for _, j := range jumps {
		if j.Table != table {
			continue
		}
		if byChain[j.Chain] == nil {
			order = append(order, j.Chain)
		}
		byChain[j.Chain] = append(byChain[j.Chain], j)
	}
	var lines []string
	for _, chain := range order {
		complete := true
		for _, j := range byChain[chain] {
			complete = complete && found.Rules[chain][j.Rule] > 0
		}
		if complete {
			continue
		}
		for _, j := range byChain[chain] {
			for range found.Rules[chain][j.Rule] {
				lines = append(lines, "-D "+chain+" "+j.Rule)
			}
		}
		for i := len(byChain[chain]) - 1; i >= 0; i-- {
			if j := byChain[chain][i]; j.First {
				lines = append(lines, "-I "+chain+" 1 "+j.Rule)
			}
		}
		for _, j := range byChain[chain] {
			if !j.First {
				lines = append(lines, "-A "+chain+" "+j.Rule)
			}
		}
	}
	return lines
}
