package nftables

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/reevehq/reeve/internal/nfnl"
	"github.com/reevehq/reeve/proxy/plan"
)

// message is a netlink message of nftables about a table.
func event(kind uint16, family byte, table string) []byte {
	name := append([]byte(table), 0)
	m := make([]byte, unix.SizeofNlMsghdr+4, 64)
	m[unix.SizeofNlMsghdr] = family
	m = binary.NativeEndian.AppendUint16(m, uint16(4+len(name)))
	m = binary.NativeEndian.AppendUint16(m, unix.NFTA_RULE_TABLE)
	m = append(m, name...)
	for len(m)%4 != 0 {
		m = append(m, 0)
	}
	binary.NativeEndian.PutUint32(m, uint32(len(m)))
	binary.NativeEndian.PutUint16(m[4:], unix.NFNL_SUBSYS_NFTABLES<<8|kind)
	return m
}

func TestOnlyForeignChangesOfOurTableAreHeard(t *testing.T) {
	cfg := testConfig(plan.IPv4)
	added := event(unix.NFT_MSG_NEWRULE, unix.NFPROTO_IPV4, cfg.Table)
	element := event(unix.NFT_MSG_DELSETELEM, unix.NFPROTO_IPV4, cfg.Table)
	own := append([]byte{}, element...)
	binary.NativeEndian.PutUint32(own[12:], 4711)
	for name, c := range map[string]struct {
		messages []byte
		want     bool
	}{
		"a rule removed":            {event(unix.NFT_MSG_DELRULE, unix.NFPROTO_IPV4, cfg.Table), true},
		"a chain removed":           {event(unix.NFT_MSG_DELCHAIN, unix.NFPROTO_IPV4, cfg.Table), true},
		"the table removed":         {event(unix.NFT_MSG_DELTABLE, unix.NFPROTO_IPV4, cfg.Table), true},
		"removed after an added":    {append(added[:len(added):len(added)], event(unix.NFT_MSG_DELRULE, unix.NFPROTO_IPV4, cfg.Table)...), true},
		"an element removed":        {element, true},
		"an element added":          {event(unix.NFT_MSG_NEWSETELEM, unix.NFPROTO_IPV4, cfg.Table), true},
		"an element of our own":     {own, false},
		"a rule added":              {added, false},
		"another table's":           {event(unix.NFT_MSG_DELRULE, unix.NFPROTO_IPV4, "filter"), false},
		"another family's":          {event(unix.NFT_MSG_DELRULE, unix.NFPROTO_IPV6, cfg.Table), false},
		"a message that ends early": {event(unix.NFT_MSG_DELRULE, unix.NFPROTO_IPV4, cfg.Table)[:24], false},
	} {
		var d damage
		got := false
		for m := range nfnl.Messages(c.messages) {
			got = d.hear(m, cfg, 4711) || got
		}
		if got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func FuzzEvents(f *testing.F) {
	f.Add(event(unix.NFT_MSG_DELRULE, unix.NFPROTO_IPV4, "reeve-proxy"))
	f.Add(event(unix.NFT_MSG_DELSETELEM, unix.NFPROTO_IPV6, ""))
	f.Fuzz(func(_ *testing.T, data []byte) {
		var d damage
		for m := range nfnl.Messages(data) {
			d.hear(m, testConfig(plan.IPv4), 1)
		}
	})
}

// What the kernel answers is decoded whatever it is, and what is decoded encodes to the same again.
func FuzzElements(f *testing.F) {
	for _, e := range []struct{ in, key, value, comment string }{
		{serviceIPs, "10.96.0.1 . tcp . 80", "goto cluster-tcp-2", "default/web cluster IP"},
		{deniedNodePorts, "sctp . 30000", "drop", ""},
		{"endpoints-udp-3", "10.96.0.1 . 53 . 2", "10.244.0.1 . 5353", ""},
		{"nodeport-endpoints-tcp-1", "30000", "10.244.0.1 . 80", ""},
		{firewallAllow, "198.51.100.1 . tcp . 80 . 192.0.2.0/25", "", ""},
		{firewallAllow, "198.51.100.1 . tcp . 80 . 192.0.2.9", "", ""},
		{hairpinSet, "10.244.0.1 . 10.244.0.1", "", ""},
	} {
		data, err := appendElement(nil, slot{e.in, e.key}, content{e.value, e.comment}, plan.IPv4)
		if err != nil {
			f.Fatal(err)
		}
		key, c, err := readElement(e.in, plan.IPv4, data[4:])
		if err != nil || key != e.key || c != (content{e.value, e.comment}) {
			f.Fatalf("%v came back as %q %v, %v", e, key, c, err)
		}
		f.Add(e.in, data[4:])
	}
	f.Fuzz(func(t *testing.T, in string, data []byte) {
		key, c, err := readElement(in, plan.IPv4, data)
		if err != nil || c.comment != "" {
			return
		}
		again, err := appendElement(nil, slot{in, key}, c, plan.IPv4)
		if err != nil {
			return // a verdict or protocol that is none of ours
		}
		if back, c2, err := readElement(in, plan.IPv4, again[4:]); err != nil || back != key || c2 != c {
			t.Errorf("%q %v came back as %q %v, %v", key, c, back, c2, err)
		}
	})
}
