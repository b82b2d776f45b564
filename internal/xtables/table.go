package xtables

import "github.com/google/nftables"

// hasTable reports that nftables has a table of this name, or that it cannot tell. A look with iptables-nft at one that
// nobody made would make it.
func (f Family) hasTable(name string) bool {
	family := nftables.TableFamilyIPv4
	if f == IPv6 {
		family = nftables.TableFamilyIPv6
	}
	conn, err := nftables.New()
	if err != nil {
		return true
	}
	tables, err := conn.ListTablesOfFamily(family)
	if err != nil {
		return true
	}
	for _, t := range tables {
		if t.Name == name {
			return true
		}
	}
	return false
}
