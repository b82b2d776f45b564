// Package xtables drives the host's iptables and ip6tables, nft-backed or legacy: chains and jumps through go-iptables,
// bulk changes through iptables-restore --noflush, one atomic transaction a table. It starts no goroutine and never
// changes a chain that the caller did not name.
package xtables
