// Package proxy is the service proxy: it turns Services and EndpointSlices into rules of the kernel.
//
//	watch (three: Services, EndpointSlices, this Node) → tracker → loop → plan → nftables | iptables | ipvs → conntrack
//
// plan decides every policy; a backend a family translates it and writes the difference. Changing modes, the rules of the
// mode before go when the new ones are in place, and flows live on: both translate with the same conntrack.
//
// Run starts the three watches, one loop that alone owns the backends, in nftables mode a listener to the kernel's events a
// family, one goroutine that looks at other people's firewalls and its listener, a recorder of Events, and the HTTP servers
// of /healthz and /metrics and of health check node ports; it waits for all of them. Nothing is programmed before every
// watch has delivered its first list, and rules stay when the proxy stops or the API is away: only Cleanup removes them.
// The package writes nothing to the API but Events, and never changes a rule or chain that is not its own.
package proxy
