package validation

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/validation/path"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func ingressCreate(i *networkingv1.Ingress) field.ErrorList {
	r := &report{}
	p := field.NewPath("spec")
	if len(i.Spec.Rules) == 0 && i.Spec.DefaultBackend == nil {
		r.invalid(p, i.Spec.Rules, "either `defaultBackend` or `rules` must be specified")
	}
	if class, ok := i.Annotations["kubernetes.io/ingress.class"]; ok && i.Spec.IngressClassName != nil && *i.Spec.IngressClassName != class {
		r.invalid(field.NewPath("annotations").Child("kubernetes.io/ingress.class"), class, "must match `ingressClassName` when both are specified")
	}
	if b := i.Spec.DefaultBackend; b != nil {
		ingressBackend(r, p.Child("defaultBackend"), b)
	}
	if c := i.Spec.IngressClassName; c != nil {
		dnsSubdomain(r, p.Child("ingressClassName"), *c)
	}
	for n, tls := range i.Spec.TLS {
		at := p.Child("tls").Index(n)
		for m, host := range tls.Hosts {
			ingressHost(r, at.Child("hosts").Index(m), host)
		}
		if tls.SecretName != "" {
			dnsSubdomain(r, at.Child("secretName"), tls.SecretName)
		}
	}
	for n := range i.Spec.Rules {
		rule, at := &i.Spec.Rules[n], p.Child("rules").Index(n)
		if rule.Host != "" {
			if isAddress(rule.Host) {
				r.invalid(at.Child("host"), rule.Host, "must be a DNS name, not an IP address")
			}
			ingressHost(r, at.Child("host"), rule.Host)
		}
		if rule.HTTP == nil {
			continue
		}
		paths := at.Child("http", "paths")
		if len(rule.HTTP.Paths) == 0 {
			r.required(paths, "")
		}
		for m := range rule.HTTP.Paths {
			ingressPath(r, paths.Index(m), &rule.HTTP.Paths[m])
		}
	}
	return r.list
}

func ingressHost(r *report, p *field.Path, host string) {
	if strings.Contains(host, "*") {
		r.each(p, host, validation.IsWildcardDNS1123Subdomain(host))
		return
	}
	dnsSubdomain(r, p, host)
}

func ingressPath(r *report, p *field.Path, h *networkingv1.HTTPIngressPath) {
	at := p.Child("path")
	switch {
	case h.PathType == nil:
		r.required(p.Child("pathType"), "pathType must be specified")
	default:
		optionalOneOf(r, p.Child("pathType"), h.PathType, networkingv1.PathTypeExact, networkingv1.PathTypePrefix, networkingv1.PathTypeImplementationSpecific)
		if *h.PathType == networkingv1.PathTypeImplementationSpecific {
			if h.Path != "" && !strings.HasPrefix(h.Path, "/") {
				r.invalid(at, h.Path, "must be an absolute path")
			}
			break
		}
		if !strings.HasPrefix(h.Path, "/") {
			r.invalid(at, h.Path, "must be an absolute path")
		}
		// Proxies read these in different ways, which has been used to get around rules.
		for _, bad := range []string{"//", "/./", "/../", "%2f", "%2F"} {
			if strings.Contains(h.Path, bad) {
				r.invalid(at, h.Path, fmt.Sprintf("must not contain '%s'", bad))
			}
		}
		for _, bad := range []string{"/..", "/."} {
			if strings.HasSuffix(h.Path, bad) {
				r.invalid(at, h.Path, fmt.Sprintf("cannot end with '%s'", bad))
			}
		}
	}
	ingressBackend(r, p.Child("backend"), &h.Backend)
}

func ingressBackend(r *report, p *field.Path, b *networkingv1.IngressBackend) {
	switch {
	case b.Resource != nil && b.Service != nil:
		r.invalid(p, "", "cannot set both resource and service backends")
	case b.Resource != nil:
		typedReferenceAny(r, p.Child("resource"), b.Resource)
	case b.Service == nil:
		r.required(p, "must specify a resource or service backend")
	default:
		if b.Service.Name == "" {
			r.required(p.Child("service", "name"), "")
		} else {
			r.each(p.Child("service", "name"), b.Service.Name, validation.IsDNS1035Label(b.Service.Name))
		}
		port, at := b.Service.Port, p.Child("service", "port")
		switch {
		case port.Name != "" && port.Number != 0:
			r.invalid(p, "", "cannot set both port name & port number")
		case port.Name == "" && port.Number == 0:
			r.required(p, "port name or number is required")
		case port.Name != "":
			r.each(at.Child("name"), port.Name, validation.IsValidPortName(port.Name))
		default:
			r.each(at.Child("number"), port.Number, validation.IsValidPortNum(int(port.Number)))
		}
	}
}

func typedReferenceAny(r *report, p *field.Path, t *corev1.TypedLocalObjectReference) {
	if t.APIGroup != nil {
		dnsSubdomain(r, p.Child("apiGroup"), *t.APIGroup)
	}
	segment(r, p.Child("kind"), t.Kind)
	segment(r, p.Child("name"), t.Name)
}

func segment(r *report, p *field.Path, value string) {
	if value == "" {
		r.required(p, "")
		return
	}
	r.each(p, value, path.IsValidPathSegmentName(value))
}

func ingressStatus(i, _ *networkingv1.Ingress) field.ErrorList {
	r := &report{}
	for n, in := range i.Status.LoadBalancer.Ingress {
		at := field.NewPath("status", "loadBalancer", "ingress").Index(n)
		if in.IP != "" {
			ip(r, at.Child("ip"), in.IP)
		}
		if in.Hostname != "" {
			dnsSubdomain(r, at.Child("hostname"), in.Hostname)
			if isAddress(in.Hostname) {
				r.invalid(at.Child("hostname"), in.Hostname, "must be a DNS name, not an IP address")
			}
		}
	}
	return r.list
}

// maxControllerName bounds the name of an ingress controller.
const maxControllerName = 250

func ingressClassCreate(c *networkingv1.IngressClass) field.ErrorList {
	r := &report{}
	p := field.NewPath("spec")
	if len(c.Spec.Controller) > maxControllerName {
		r.add(field.TooLong(p.Child("controller"), c.Spec.Controller, maxControllerName))
	}
	r.list = append(r.list, domainPath(p.Child("controller"), c.Spec.Controller)...)
	if q := c.Spec.Parameters; q != nil {
		at := p.Child("parameters")
		if q.APIGroup != nil {
			dnsSubdomain(r, at.Child("apiGroup"), *q.APIGroup)
		}
		segment(r, at.Child("kind"), q.Kind)
		segment(r, at.Child("name"), q.Name)
		if q.Scope == nil {
			r.required(at.Child("scope"), "")
		} else {
			optionalOneOf(r, at.Child("scope"), q.Scope, networkingv1.IngressClassParametersReferenceScopeCluster, networkingv1.IngressClassParametersReferenceScopeNamespace)
			namespaced := *q.Scope == networkingv1.IngressClassParametersReferenceScopeNamespace
			switch {
			case namespaced && (q.Namespace == nil || *q.Namespace == ""):
				r.required(at.Child("namespace"), "`parameters.scope` is set to 'Namespace'")
			case namespaced:
				dnsLabel(r, at.Child("namespace"), *q.Namespace)
			case q.Namespace != nil:
				r.forbidden(at.Child("namespace"), "`parameters.scope` is set to 'Cluster'")
			}
		}
	}
	return r.list
}

func ingressClassUpdate(c, old *networkingv1.IngressClass) field.ErrorList {
	r := &report{list: ingressClassCreate(c)}
	immutable(r, field.NewPath("spec", "controller"), c.Spec.Controller, old.Spec.Controller, func(a, b string) bool { return a == b })
	return r.list
}
