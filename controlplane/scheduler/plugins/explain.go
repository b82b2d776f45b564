package plugins

import (
	"fmt"
	"slices"
	"strings"
)

// Explain is the sentence that users grep events for: "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were
// unschedulable." Reasons come sorted.
func Explain(nodes int, reasons map[string]int) string {
	if nodes == 0 {
		return "no nodes available to schedule pods"
	}
	parts := make([]string, 0, len(reasons))
	for why, n := range reasons {
		parts = append(parts, fmt.Sprintf("%d %s", n, why))
	}
	slices.Sort(parts)
	s := fmt.Sprintf("0/%d nodes are available", nodes)
	if len(parts) > 0 {
		s += ": " + strings.Join(parts, ", ")
	}
	return s + "."
}
