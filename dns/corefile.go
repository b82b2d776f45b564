package dns

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

const (
	defaultResolvConf = "/etc/resolv.conf"
	// stubResolver is systemd-resolved's address on the host, and resolvedConf where it names the servers behind it. Asking
	// the stub would work on the host, but resolved may itself be told to ask us.
	stubResolver = "127.0.0.53"
	resolvedConf = "/run/systemd/resolve/resolv.conf"
)

// upstreams reads the servers of a resolv.conf, without our own addresses, which would be a loop.
func upstreams(path string, own []netip.Addr) ([]string, error) {
	conf, err := dns.ClientConfigFromFile(path)
	if err != nil {
		return nil, fmt.Errorf("read upstream DNS servers: %w", err)
	}
	if path == defaultResolvConf && len(conf.Servers) == 1 && conf.Servers[0] == stubResolver {
		if real, err := dns.ClientConfigFromFile(resolvedConf); err == nil && len(real.Servers) > 0 {
			conf = real
		}
	}
	var out []string
	for _, s := range conf.Servers {
		a, err := netip.ParseAddr(s)
		if err != nil || slices.Contains(own, a.WithZone("").Unmap()) {
			continue
		}
		out = append(out, netip.AddrPortFrom(a, 53).String())
	}
	return out, nil
}

// corefile is the configuration of one server. Pure.
//
// The cluster's own names are never cached: the records are in memory, and a changed endpoint must be seen at once. Other
// names are kept for 30 s and, while no upstream server answers, served stale for an hour.
func corefile(cfg Config, servers []string) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line(".:%d {", cfg.Port)
	line("    bind %s", joinAddrs(cfg.ListenAddrs))
	// An upstream server that is away would fill the log with a line a query.
	line("    errors {")
	line("        consolidate 1m \".*\" warning")
	line("    }")
	line("    %s %s in-addr.arpa ip6.arpa {", recordsDirective, cfg.Domain)
	line("        pods insecure")
	line("        fallthrough in-addr.arpa ip6.arpa")
	line("    }")
	if len(servers) == 0 {
		line("    %s", refuseDirective)
	} else {
		line("    cache 30 {")
		line("        disable success %s", cfg.Domain)
		line("        disable denial %s", cfg.Domain)
		line("        serve_stale 1h")
		line("    }")
		line("    forward . %s {", strings.Join(servers, " "))
		line("        max_concurrent 1000")
		line("    }")
	}
	line("}")
	return b.String()
}

func joinAddrs(addrs []netip.Addr) string {
	s := make([]string, 0, len(addrs))
	for _, a := range addrs {
		s = append(s, a.String())
	}
	return strings.Join(s, " ")
}

// stamp changes when the file or what it points to is replaced or rewritten.
func stamp(paths ...string) string {
	var b strings.Builder
	for _, p := range paths {
		if fi, err := os.Stat(p); err == nil {
			fmt.Fprint(&b, fi.ModTime().UnixNano(), fi.Size(), ";")
		}
	}
	return b.String()
}
