package validation

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Bounds of resolv.conf, as the resolver libraries know them.
const (
	maxNameservers     = 3
	maxSearchPaths     = 32
	maxSearchListChars = 2048
	// maxHostname is what a kernel takes.
	maxHostname = 64
)

func hostAliases(r *report, p *field.Path, list []corev1.HostAlias) {
	for i, a := range list {
		ip(r, p.Index(i).Child("ip"), a.IP)
		for j, name := range a.Hostnames {
			dnsSubdomain(r, p.Index(i).Child("hostnames").Index(j), name)
		}
	}
}

func dns(r *report, p *field.Path, spec *corev1.PodSpec) {
	oneOf(r, p.Child("dnsPolicy"), spec.DNSPolicy, true, corev1.DNSClusterFirstWithHostNet, corev1.DNSClusterFirst, corev1.DNSDefault, corev1.DNSNone)
	c, at := spec.DNSConfig, p.Child("dnsConfig")
	if spec.DNSPolicy == corev1.DNSNone {
		if c == nil {
			r.required(at, "must provide `dnsConfig` when `dnsPolicy` is None")
			return
		}
		if len(c.Nameservers) == 0 {
			r.required(at.Child("nameservers"), "must provide at least one DNS nameserver when `dnsPolicy` is None")
			return
		}
	}
	if c == nil {
		return
	}
	if len(c.Nameservers) > maxNameservers {
		r.invalid(at.Child("nameservers"), c.Nameservers, fmt.Sprintf("must not have more than %d nameservers", maxNameservers))
	}
	for i, server := range c.Nameservers {
		ip(r, at.Child("nameservers").Index(i), server)
	}
	searches := at.Child("searches")
	if len(c.Searches) > maxSearchPaths {
		r.invalid(searches, c.Searches, fmt.Sprintf("must not have more than %d search paths", maxSearchPaths))
	}
	if len(strings.Join(c.Searches, " ")) > maxSearchListChars {
		r.invalid(searches, c.Searches, fmt.Sprintf("must not have more than %d characters (including spaces) in the search list", maxSearchListChars))
	}
	for i, search := range c.Searches {
		// The root, and names with underscores, are what real search lists hold.
		if search == "." {
			continue
		}
		name := strings.TrimSuffix(search, ".")
		r.each(searches.Index(i), search, validation.IsDNS1123SubdomainWithUnderscore(name))
	}
	for i, o := range c.Options {
		if o.Name == "" {
			r.required(at.Child("options").Index(i), "must not be empty")
		}
	}
}

func hostnames(r *report, p *field.Path, spec *corev1.PodSpec) {
	if spec.Hostname != "" {
		dnsLabel(r, p.Child("hostname"), spec.Hostname)
	}
	if spec.Subdomain != "" {
		dnsLabel(r, p.Child("subdomain"), spec.Subdomain)
	}
	if o := spec.HostnameOverride; o != nil {
		at := p.Child("hostnameOverride")
		dnsSubdomain(r, at, *o)
		if len(*o) > maxHostname {
			r.add(field.TooLong(at, *o, maxHostname))
		}
		if spec.HostNetwork {
			r.forbidden(at, "cannot be set when hostNetwork is true")
		}
		if spec.SetHostnameAsFQDN != nil && *spec.SetHostnameAsFQDN {
			r.forbidden(at, "cannot be set when setHostnameAsFQDN is true")
		}
	}
}
