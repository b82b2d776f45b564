package firewalld

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

const (
	// trusted is the zone of firewalld's own that lets everything pass. Zones cannot be made at run time.
	trusted = "trusted"
	// priority of our rich rules is their mark. Being above 0 it puts them behind all that the zone's owner allows or forbids.
	priority = 32215
)

// mark begins our rich rules as firewalld prints them.
var mark = fmt.Sprintf("rule priority=%q ", fmt.Sprint(priority))

// Wants is what shall pass.
type Wants struct {
	// Pods are the ranges that pods send from.
	Pods []netip.Prefix
	// Ports of the node, TCP, that everybody may reach.
	Ports []uint16
}

func (w Wants) equal(o Wants) bool {
	return slices.Equal(w.Pods, o.Pods) && slices.Equal(w.Ports, o.Ports)
}

// observed is firewalld's running configuration as far as it matters here.
type observed struct {
	// zones that packets come in by: the default one and those with interfaces or sources.
	zones []string
	// zoneOf are the zones of sources, wanted ones and ours; a source in none is missing.
	zoneOf map[string]string
	// rules of ours by zone, zones that are not active too.
	rules map[string][]string
}

// change of the running configuration: a source of a zone, or a rich rule.
type change struct {
	remove       bool
	zone         string
	source, rule string
}

func (c change) String() string {
	verb, what := "added", "source "+c.source
	if c.remove {
		verb = "removed"
	}
	if c.rule != "" {
		what = c.rule
	}
	return fmt.Sprintf("%s %s in firewalld's zone %s", verb, what, c.zone)
}

// sourceRule marks a source in the zone trusted as ours.
func sourceRule(source string) string {
	family := "ipv4"
	if p, err := netip.ParsePrefix(source); err == nil && p.Addr().Is6() {
		family = "ipv6"
	}
	return fmt.Sprintf("%sfamily=%q source address=%q accept", mark, family, source)
}

// markedSource is the source that a rule marks, "" for other rules.
func markedSource(rule string) string {
	_, rest, _ := strings.Cut(rule, `source address="`)
	source, end, _ := strings.Cut(rest, `"`)
	if source == "" || end != " accept" || rule != sourceRule(source) {
		return ""
	}
	return source
}

func portRule(port uint16) string {
	return fmt.Sprintf(`%sport port="%d" protocol="tcp" accept`, mark, port)
}

// plan answers what to change, in this order, and which sources stand in a zone that somebody else chose, by zone.
func plan(w Wants, o observed) (changes []change, taken map[string]string) {
	taken = map[string]string{}
	want := map[string]map[string]bool{trusted: {}} // rules by zone
	for _, p := range w.Pods {
		source := p.Masked().String()
		rule := sourceRule(source)
		switch zone := o.zoneOf[source]; {
		case zone == "":
			// The mark first: whatever happens in between, a source without one is nobody's of ours.
			want[trusted][rule] = true
			if !slices.Contains(o.rules[trusted], rule) {
				changes = append(changes, change{zone: trusted, rule: rule})
			}
			changes = append(changes, change{zone: trusted, source: source})
		case zone == trusted:
			want[trusted][rule] = slices.Contains(o.rules[trusted], rule)
		default:
			taken[source] = zone
		}
	}
	for _, zone := range o.zones {
		if zone == trusted {
			continue
		}
		want[zone] = map[string]bool{}
		for _, port := range w.Ports {
			rule := portRule(port)
			want[zone][rule] = true
			if !slices.Contains(o.rules[zone], rule) {
				changes = append(changes, change{zone: zone, rule: rule})
			}
		}
	}
	for _, zone := range slices.Sorted(maps.Keys(o.rules)) {
		for _, rule := range o.rules[zone] {
			if want[zone][rule] {
				continue
			}
			if source := markedSource(rule); source != "" && zone == trusted && o.zoneOf[source] == trusted {
				changes = append(changes, change{remove: true, zone: zone, source: source})
			}
			changes = append(changes, change{remove: true, zone: zone, rule: rule})
		}
	}
	return changes, taken
}
