package firewalld

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
)

// What is added and removed is told from what is wanted, what is there, and whose it is.
func TestPlan(t *testing.T) {
	const pods, pods6, old = "10.244.0.0/16", "fd00:10:244::/48", "10.9.0.0/16"
	wants := Wants{Pods: []netip.Prefix{netip.MustParsePrefix("10.244.7.0/16"), netip.MustParsePrefix(pods6)}, Ports: []uint16{31000}}
	for name, c := range map[string]struct {
		wants Wants
		has   observed
		want  []string
		taken map[string]string
	}{
		"nothing is wanted, nothing is there": {has: observed{zones: []string{"public"}}},
		"all is new, the marks first": {
			wants: wants, has: observed{zones: []string{"public", "trusted"}},
			want: []string{
				"added " + sourceRule(pods) + " in firewalld's zone trusted", "added source " + pods + " in firewalld's zone trusted",
				"added " + sourceRule(pods6) + " in firewalld's zone trusted", "added source " + pods6 + " in firewalld's zone trusted",
				"added " + portRule(31000) + " in firewalld's zone public",
			},
		},
		"a mark without its source, as after a crash": {
			wants: Wants{Pods: wants.Pods[:1]}, has: observed{rules: map[string][]string{trusted: {sourceRule(pods)}}},
			want: []string{"added source " + pods + " in firewalld's zone trusted"},
		},
		"all is there": {
			wants: wants, has: observed{
				zones: []string{"public", "trusted"}, zoneOf: map[string]string{pods: trusted, pods6: trusted},
				rules: map[string][]string{trusted: {sourceRule(pods), sourceRule(pods6)}, "public": {portRule(31000)}},
			},
		},
		"somebody trusts pods himself": {
			wants: Wants{Pods: wants.Pods[:1]}, has: observed{zoneOf: map[string]string{pods: trusted}},
		},
		"somebody moved ours": {
			wants: Wants{Pods: wants.Pods[:1]},
			has:   observed{zoneOf: map[string]string{pods: "work"}, rules: map[string][]string{trusted: {sourceRule(pods)}}},
			want:  []string{"removed " + sourceRule(pods) + " in firewalld's zone trusted"}, taken: map[string]string{pods: "work"},
		},
		"another range, other ports, a zone that is active no more": {
			wants: Wants{Pods: wants.Pods[:1], Ports: []uint16{31001}},
			has: observed{
				zones: []string{"public"}, zoneOf: map[string]string{pods: trusted, old: trusted},
				rules: map[string][]string{trusted: {sourceRule(pods), sourceRule(old)}, "public": {portRule(31000)}, "work": {portRule(31001)}},
			},
			want: []string{
				"added " + portRule(31001) + " in firewalld's zone public", "removed " + portRule(31000) + " in firewalld's zone public",
				"removed source " + old + " in firewalld's zone trusted", "removed " + sourceRule(old) + " in firewalld's zone trusted",
				"removed " + portRule(31001) + " in firewalld's zone work",
			},
		},
		"nothing is wanted any more": {
			has: observed{
				zones: []string{"public"}, zoneOf: map[string]string{pods6: trusted, "10.99.0.0/16": trusted},
				rules: map[string][]string{trusted: {sourceRule(pods6)}, "public": {portRule(31000)}},
			},
			want: []string{
				"removed " + portRule(31000) + " in firewalld's zone public",
				"removed source " + pods6 + " in firewalld's zone trusted", "removed " + sourceRule(pods6) + " in firewalld's zone trusted",
			},
		},
	} {
		changes, taken := plan(c.wants, c.has)
		var got []string
		for _, ch := range changes {
			got = append(got, ch.String())
		}
		if !slices.Equal(got, c.want) || fmt.Sprint(taken) != fmt.Sprint(c.taken) {
			t.Errorf("%s:\n got %q, taken %v\nwant %q, taken %v", name, got, taken, c.want, c.taken)
		}
	}
}

// A rule with our priority that does not mark a source names none.
func TestMarkedSource(t *testing.T) {
	if got := markedSource(sourceRule("fd00::/48")); got != "fd00::/48" {
		t.Errorf("the source of its own mark is %q", got)
	}
	for _, rule := range []string{portRule(31000), mark + `family="ipv4" source address="10.0.0.0/8" drop`, mark + `family="ipv4" source address="`, ""} {
		if got := markedSource(rule); got != "" {
			t.Errorf("%s marks %q", rule, got)
		}
	}
}
