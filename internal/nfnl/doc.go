// Package nfnl reads netfilter's netlink messages: it takes them apart, and listens to the events of nftables. Listen runs
// on its caller's goroutine; the package starts none.
package nfnl
