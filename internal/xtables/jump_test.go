package xtables

import (
	"slices"
	"strings"
	"testing"
)

func TestMissingJumps(t *testing.T) {
	jumps := []Jump{
		{"filter", "FORWARD", "-j A", true}, {"filter", "FORWARD", "-j B", true}, {"filter", "FORWARD", "-j LAST", false},
		{"filter", "INPUT", "-j C", true}, {"nat", "OUTPUT", "-j D", true},
	}
	for _, c := range []struct {
		name, saved string
		want        []string
	}{
		{"empty", "", []string{"-I FORWARD 1 -j B", "-I FORWARD 1 -j A", "-A FORWARD -j LAST", "-I INPUT 1 -j C"}},
		{"complete, with others before", "-A FORWARD -j OTHER\n-A FORWARD -j A\n-A FORWARD -j B\n-A FORWARD -j LAST\n-A INPUT -j C\n", nil},
		{"one lost, one twice", "-A FORWARD -j B\n-A FORWARD -j B\n-A FORWARD -j LAST\n[5:300] -A INPUT -j C\n", []string{
			"-D FORWARD -j B", "-D FORWARD -j B", "-D FORWARD -j LAST", "-I FORWARD 1 -j B", "-I FORWARD 1 -j A", "-A FORWARD -j LAST"}},
	} {
		if got := MissingJumps(jumps, "filter", ParseSave([]byte(c.saved))); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func FuzzParseSave(f *testing.F) {
	f.Add([]byte("# comment\n*nat\n:PREROUTING ACCEPT [0:0]\n:KUBE-SERVICES - [0:0]\n[1:60] -A PREROUTING -j KUBE-SERVICES\n-A KUBE-SERVICES -m comment --comment \"a b\" -j X\nCOMMIT\n"))
	f.Add([]byte(":\n-A \n[1:2\n-A INPUT"))
	f.Fuzz(func(t *testing.T, in []byte) {
		s := ParseSave(in)
		for _, c := range s.Chains {
			if c == "" || strings.ContainsAny(c, " \n") {
				t.Errorf("chain %q", c)
			}
		}
		for chain, rules := range s.Rules {
			for rule, n := range rules {
				if n < 1 || strings.Contains(rule, "\n") {
					t.Errorf("%s: %q %d times", chain, rule, n)
				}
			}
		}
	})
}
