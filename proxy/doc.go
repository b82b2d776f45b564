// Package proxy is the service proxy: it turns Services and EndpointSlices into rules of the kernel.
//
//	watch (three: Services, EndpointSlices, this Node) → tracker → loop → plan → iptables → conntrack
//
// Run starts the three watches, one loop that alone owns the backends, and the HTTP servers of /healthz and /metrics and
// of health check node ports; it waits for all of them. Nothing is programmed before every watch has delivered its first
// list, and rules stay when the proxy stops or the API is away: only Cleanup removes them. The package never writes to
// the API and never touches a rule or chain that is not its own.
package proxy
