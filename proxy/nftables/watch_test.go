package nftables

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/reevehq/reeve/proxy/plan"
)

// message is a netlink message of nftables about a table.
func message(kind uint16, family byte, table string) []byte {
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

func TestOnlyRemovalsFromOurTableAreHeard(t *testing.T) {
	cfg := testConfig(plan.IPv4)
	added := message(unix.NFT_MSG_NEWRULE, unix.NFPROTO_IPV4, cfg.Table)
	for name, c := range map[string]struct {
		messages []byte
		want     bool
	}{
		"a rule removed":            {message(unix.NFT_MSG_DELRULE, unix.NFPROTO_IPV4, cfg.Table), true},
		"a chain removed":           {message(unix.NFT_MSG_DELCHAIN, unix.NFPROTO_IPV4, cfg.Table), true},
		"the table removed":         {message(unix.NFT_MSG_DELTABLE, unix.NFPROTO_IPV4, cfg.Table), true},
		"removed after an added":    {append(added[:len(added):len(added)], message(unix.NFT_MSG_DELRULE, unix.NFPROTO_IPV4, cfg.Table)...), true},
		"a rule added":              {added, false},
		"an element removed":        {message(unix.NFT_MSG_DELSETELEM, unix.NFPROTO_IPV4, cfg.Table), false},
		"another table's":           {message(unix.NFT_MSG_DELRULE, unix.NFPROTO_IPV4, "filter"), false},
		"another family's":          {message(unix.NFT_MSG_DELRULE, unix.NFPROTO_IPV6, cfg.Table), false},
		"a message that ends early": {message(unix.NFT_MSG_DELRULE, unix.NFPROTO_IPV4, cfg.Table)[:24], false},
	} {
		if got := removes(c.messages, cfg); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func FuzzRemoves(f *testing.F) {
	f.Add(message(unix.NFT_MSG_DELRULE, unix.NFPROTO_IPV4, "reeve-proxy"))
	f.Add(message(unix.NFT_MSG_DELTABLE, unix.NFPROTO_IPV6, ""))
	f.Fuzz(func(_ *testing.T, data []byte) { removes(data, testConfig(plan.IPv4)) })
}
