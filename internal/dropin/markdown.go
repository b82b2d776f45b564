package dropin

import (
	"fmt"
	"strings"
)

// Markdown writes the tables for people: fields first, then the flags that stand for themselves. Every entry is there but
// those that only work, which are named in one line.
func Markdown(fields Table, flags []Flag) string {
	var b strings.Builder
	row := func(name string, s Support, note string) { fmt.Fprintf(&b, "| `%s` | %s | %s |\n", name, s, note) }
	var plain []string
	b.WriteString("| Field | | |\n|---|---|---|\n")
	for _, e := range fields {
		if e.Support == Works && e.Note == "" {
			plain = append(plain, "`"+e.Path+"`")
			continue
		}
		row(e.Path, e.Support, e.Note)
	}
	fmt.Fprintf(&b, "\nThese work as upstream: %s.\n", strings.Join(plain, ", "))
	plain = nil
	b.WriteString("\n| Flag without a field | | |\n|---|---|---|\n")
	of := map[string]int{}
	for _, f := range flags {
		switch {
		case f.Path != "":
			of[f.Path]++
		case f.Support == Works && f.Note == "":
			plain = append(plain, "`--"+f.Name+"`")
		default:
			note := f.Note
			if f.Deprecated != "" {
				note = strings.TrimPrefix(note+"; deprecated: "+f.Deprecated, "; ")
			}
			row("--"+f.Name, f.Support, note)
		}
	}
	fmt.Fprintf(&b, "\nThese work as upstream: %s. Every other flag (%d) sets a field, and what becomes of it is the field's row.\n", strings.Join(plain, ", "), len(of))
	return b.String()
}
