package validation

import (
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Bounds of a signer's name: a domain, a slash, a path.
const (
	maxSignerDomain = 253
	maxSignerName   = maxSignerDomain + 1 + 253
)

// signerName checks "domain/path" where the domain has a dot.
func signerName(r *report, p *field.Path, name string) {
	domain, path, ok := strings.Cut(name, "/")
	if !ok || path == "" {
		r.invalid(p, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'")
		return
	}
	if len(name) > maxSignerName {
		r.add(field.TooLong(p, name, maxSignerName))
	}
	if len(domain) > maxSignerDomain || !strings.Contains(domain, ".") {
		r.invalid(p, name, "should be a domain with at least two segments separated by dots")
	}
	r.each(p, domain, validation.IsDNS1123Subdomain(domain))
	for _, label := range strings.Split(path, ".") {
		r.each(p, label, validation.IsDNS1123Subdomain(label))
	}
}
