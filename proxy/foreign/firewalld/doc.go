// Package firewalld asks a running firewalld, over D-Bus, to let pods' traffic pass: the way that is its own, and the only
// one where it keeps its table locked (NftablesTableOwner).
//
//	pods send                 their ranges are sources of the zone trusted
//	health check node ports   a rich rule in the default zone and in every active one
//
// Only the running configuration is changed, never the permanent one, so a reload and a restart of firewalld forget it; both
// are signalled and it is made again. What is ours is told by the priority of rich rules, which users hardly choose: beside
// each source of ours stands such a rule, which opens nothing that the zone does not. A source that stands in a zone without
// it is somebody else's and stays. What firewalld cannot be asked for at run time is who may send to pods: that takes a
// policy, which can be made in the permanent configuration only; Result.ToPods tells whether there is one.
//
// Client starts one goroutine per connection, that hears firewalld's signals. The package never starts firewalld, speaks to no
// firewalld of another network namespace, and waits for no answer longer than callTimeout.
package firewalld
