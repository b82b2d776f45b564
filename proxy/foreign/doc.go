// Package foreign lets pods' and Services' traffic pass other people's firewalls. An accept in one table overrides no drop
// in another, so where a chain of somebody else's on the way of forwarded or incoming packets drops by default (its policy,
// or a last rule that drops or rejects everything), a jump to a chain of ours in that very table goes to its end, before
// such a last rule: what its owner forbids by name stays forbidden. In Docker's tables the jump goes to DOCKER-USER.
//
//	any nftables table     reeve-proxy-forward, reeve-proxy-input     by nft
//	iptables' filter       KUBE-PROXY-FORWARD, KUBE-PROXY-INPUT       by iptables, both kinds
//
// They carry our name, are made again when their owner reloads, and go when the chain drops no more, and with Cleanup. What
// cannot be mended (a table whose owner keeps it locked, no command for it) is reported. Listen runs on its caller's
// goroutine; the package starts none, and never changes a rule that is not its own.
package foreign
