// Package proxy is the service proxy: it turns Services and EndpointSlices into rules of the kernel.
//
//	watch (three: Services, EndpointSlices, this Node) → tracker → loop → plan → iptables | nftables → conntrack
//
// plan decides every policy; a backend a family translates it and writes the difference. Changing modes, the rules of the
// mode before go when the new ones are in place, and flows live on: both translate with the same conntrack.
//
// Run starts the three watches, one loop that alone owns the backends, in nftables mode a listener to the kernel's events a
// family, and the HTTP servers of /healthz and /metrics and of health check node ports; it waits for all of them. Nothing is programmed before every watch has delivered its first
// list, and rules stay when the proxy stops or the API is away: only Cleanup removes them. The package never writes to
// the API and never touches a rule or chain that is not its own.
package proxy
