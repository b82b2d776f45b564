package iptables

import "strings"

// saved is one table as iptables-save prints it: its chains, and for each chain how often each rule stands in it.
type saved struct {
	chains []string
	rules  map[string]map[string]int
}

// parseSave reads the output of iptables-save for one table. Lines that it does not know are skipped; counters before
// rules ("[1:60] -A …") are dropped.
func parseSave(out []byte) saved {
	s := saved{rules: map[string]map[string]int{}}
	for line := range strings.Lines(string(out)) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, ":"):
			if name, _, _ := strings.Cut(line[1:], " "); name != "" {
				s.chains = append(s.chains, name)
			}
			continue
		case strings.HasPrefix(line, "["):
			_, rest, ok := strings.Cut(line, "] ")
			if !ok {
				continue
			}
			line = rest
		}
		rule, ok := strings.CutPrefix(line, "-A ")
		if !ok {
			continue
		}
		chain, rest, _ := strings.Cut(rule, " ")
		// Only built-in chains are asked for; keeping ten thousand Services' rules would be waste.
		switch chain {
		case "PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING":
			if s.rules[chain] == nil {
				s.rules[chain] = map[string]int{}
			}
			s.rules[chain][rest]++
		}
	}
	return s
}
