package container

import (
	"bufio"
	"io"
	"net/netip"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// What glibc and upstream's validation still accept.
const (
	maxNameservers     = 3
	maxSearches        = 32
	maxSearchListChars = 2048
)

// ResolvConf is a parsed resolv.conf.
type ResolvConf struct{ Servers, Searches, Options []string }

// ParseResolvConf reads "nameserver", "search", "domain" and "options" lines; the last search list counts, options add up.
func ParseResolvConf(r io.Reader) (ResolvConf, error) {
	var out ResolvConf
	sc := bufio.NewScanner(r)
	for sc.Scan() {
		line := sc.Text()
		if i := strings.IndexAny(line, "#;"); i >= 0 {
			line = line[:i]
		}
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "nameserver":
			out.Servers = append(out.Servers, f[1])
		case "search", "domain":
			out.Searches = nil
			for _, s := range f[1:] {
				if s != "." {
					s = strings.TrimSuffix(s, ".")
				}
				out.Searches = append(out.Searches, s)
			}
		case "options":
			out.Options = append(out.Options, f[1:]...)
		}
	}
	return out, sc.Err()
}

// DNS returns the pod's resolv.conf by its dnsPolicy and dnsConfig, and says what had to be left out.
func DNS(pod *v1.Pod, clusterDNS []netip.Addr, domain string, host ResolvConf) (*runtimeapi.DNSConfig, []string) {
	var conf ResolvConf
	var warn []string
	policy := pod.Spec.DNSPolicy
	switch {
	case policy == v1.DNSNone:
	case policy == v1.DNSClusterFirstWithHostNet, policy == v1.DNSClusterFirst && !pod.Spec.HostNetwork, policy == "" && !pod.Spec.HostNetwork:
		if len(clusterDNS) == 0 {
			warn = append(warn, "kubelet does not have ClusterDNS IP configured and cannot create Pod using \"ClusterFirst\" policy. Falling back to \"Default\" policy.")
			conf = host
			break
		}
		for _, ip := range clusterDNS {
			conf.Servers = append(conf.Servers, ip.String())
		}
		if domain != "" {
			conf.Searches = []string{pod.Namespace + ".svc." + domain, "svc." + domain, domain}
		}
		for _, s := range host.Searches {
			if !slices.Contains(conf.Searches, s) {
				conf.Searches = append(conf.Searches, s)
			}
		}
		conf.Options = []string{"ndots:5"}
	default:
		conf = ResolvConf{Servers: slices.Clone(host.Servers), Searches: slices.Clone(host.Searches), Options: slices.Clone(host.Options)}
		if len(conf.Servers) == 0 {
			conf.Servers = []string{"127.0.0.1"}
		}
	}
	if dc := pod.Spec.DNSConfig; dc != nil {
		conf.Servers = appendNew(conf.Servers, dc.Nameservers)
		conf.Searches = appendNew(conf.Searches, dc.Searches)
		for _, o := range dc.Options {
			opt := o.Name
			if o.Value != nil && *o.Value != "" {
				opt += ":" + *o.Value
			}
			conf.Options = setOption(conf.Options, o.Name, opt)
		}
	}
	if len(conf.Servers) > maxNameservers {
		conf.Servers = conf.Servers[:maxNameservers]
		warn = append(warn, "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: "+strings.Join(conf.Servers, " "))
	}
	if kept := fitSearches(conf.Searches); len(kept) != len(conf.Searches) {
		conf.Searches = kept
		warn = append(warn, "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: "+strings.Join(kept, " "))
	}
	return &runtimeapi.DNSConfig{Servers: conf.Servers, Searches: conf.Searches, Options: conf.Options}, warn
}

func fitSearches(in []string) []string {
	n := 0
	for i, s := range in {
		n += len(s)
		if i > 0 {
			n++
		}
		if i >= maxSearches || n > maxSearchListChars {
			return in[:i]
		}
	}
	return in
}

func appendNew(to, from []string) []string {
	for _, s := range from {
		if !slices.Contains(to, s) {
			to = append(to, s)
		}
	}
	return to
}

// setOption replaces the option called name, or adds it.
func setOption(opts []string, name, opt string) []string {
	for i, o := range opts {
		if o == name || strings.HasPrefix(o, name+":") {
			opts[i] = opt
			return opts
		}
	}
	return append(opts, opt)
}
