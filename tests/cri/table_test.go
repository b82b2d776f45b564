package cri

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

const page = "../../docs/CRITEST.md"

// readOutcomes reads testdata/plugin.txt: a state, a tab and a spec a line, and after another tab why it did not pass.
func readOutcomes(t testing.TB) []outcome {
	t.Helper()
	b, err := os.ReadFile(pluginFile)
	if err != nil {
		t.Fatal(err)
	}
	var out []outcome
	for line := range strings.Lines(string(b)) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(f) < 2 {
			t.Fatalf("%s: line %q has no tab", pluginFile, line)
		}
		o := outcome{State: f[0], Spec: f[1]}
		if len(f) > 2 {
			o.Why = f[2]
		}
		out = append(out, o)
	}
	return out
}

func writeOutcomes(t testing.TB, list []outcome) {
	t.Helper()
	var b strings.Builder
	for _, o := range list {
		fmt.Fprintf(&b, "%s\t%s", o.State, o.Spec)
		if o.State != "passed" {
			fmt.Fprintf(&b, "\t%s", reason(o))
		}
		b.WriteByte('\n')
	}
	writeFile(t, pluginFile, b.String())
}

// changed tells the specs whose state differs.
func changed(before, after []outcome) string {
	was := map[string]string{}
	for _, o := range before {
		was[o.Spec] = o.State
	}
	var b strings.Builder
	for _, o := range after {
		if was[o.Spec] != o.State {
			fmt.Fprintf(&b, "%s: was %q, is %q: %s\n", o.Spec, was[o.Spec], o.State, reason(o))
		}
		delete(was, o.Spec)
	}
	for spec, state := range was {
		fmt.Fprintf(&b, "%s: was %q, is gone\n", spec, state)
	}
	return b.String()
}

// reason is a failure's message without what differs from run to run.
func reason(o outcome) string { return strings.ReplaceAll(firstLine(o.Why), "\t", " ") }

// writePage writes both tables between the page's marks, and leaves the words around them.
func writePage(t testing.TB, native, plugin []outcome) {
	t.Helper()
	const begin, end = "<!-- tables: written by REEVE_LONG=1 go test ./tests/cri -update -->\n", "<!-- end of tables -->\n"
	old, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(old), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s lacks the marks of the tables", page)
	}
	theirs := map[string]outcome{}
	for _, o := range plugin {
		theirs[o.Spec] = o
	}
	var b strings.Builder
	fmt.Fprintf(&b, "reeve: %s. containerd's plugin: %s.\n\n| Spec | reeve | plugin |\n|---|---|---|\n", tally(native), tally(plugin))
	for _, o := range native {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", strings.ReplaceAll(o.Spec, "|", "\\|"), cell(o), cell(theirs[o.Spec]))
	}
	writeFile(t, page, before+begin+b.String()+end+after)
}

func cell(o outcome) string {
	if o.State == "passed" {
		return "passed"
	}
	return strings.TrimSpace(o.State + ": " + strings.ReplaceAll(reason(o), "|", "\\|"))
}
