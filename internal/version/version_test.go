package version

import "testing"

func TestParseAndCompare(t *testing.T) {
	parse := func(s string) Number {
		t.Helper()
		n, err := Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	ordered := []string{"v1.35.9+reeve.9", "v1.36.0+reeve.0", "v1.36.0+reeve.1", "v1.36.6+reeve.0", "v1.36.6+reeve.12-dirty"}
	for i := 1; i < len(ordered); i++ {
		if Compare(parse(ordered[i-1]), parse(ordered[i])) >= 0 {
			t.Errorf("%s is not older than %s", ordered[i-1], ordered[i])
		}
	}
	if Compare(parse("v1.36.6+reeve.1"), parse("v1.36.6+reeve.1-dirty")) != 0 {
		t.Error("a suffix changes the order")
	}
	for _, bad := range []string{"", "1.36", "v1.36.0", "v1.36.x+reeve.1", "v1.36.0+reeve.", "v1.-36.0+reeve.1"} {
		if n, err := Parse(bad); err == nil {
			t.Errorf("Parse(%q) = %v, want an error", bad, n)
		}
	}
	if _, err := Parse(Git()); err != nil {
		t.Errorf("the build's own version: %v", err)
	}
}
