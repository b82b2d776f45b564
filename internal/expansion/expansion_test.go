package expansion

import "testing"

func TestExpand(t *testing.T) {
	vars := map[string]string{"A": "1", "B": "$(A)", "E": ""}
	lookup := func(n string) (string, bool) { v, ok := vars[n]; return v, ok }
	for _, tc := range []struct{ in, want string }{
		{"", ""}, {"plain", "plain"}, {"$(A)", "1"}, {"x$(A)y$(A)", "x1y1"},
		{"$(B)", "$(A)"}, {"$(E)", ""}, {"$(NOPE)", "$(NOPE)"},
		{"$$(A)", "$(A)"}, {"$$$(A)", "$1"}, {"$$$$(A)", "$$(A)"},
		{"$", "$"}, {"$$", "$"}, {"a$", "a$"}, {"$A", "$A"}, {"$(A", "$(A"}, {"$(A$(A)", "$(A$(A)"}, {"$()", "$()"},
		{"$(A))", "1)"}, {"é$(A)", "é1"},
	} {
		if got := Expand(tc.in, lookup); got != tc.want {
			t.Errorf("Expand(%q) = %q, want %q", tc.in, got, tc.want)
		}
	}
	if _, missing := ExpandStrict("$(A)$(X)$$(Y)$(Z)", lookup); len(missing) != 2 || missing[0] != "X" || missing[1] != "Z" {
		t.Errorf("missing = %q, want X and Z", missing)
	}
}
