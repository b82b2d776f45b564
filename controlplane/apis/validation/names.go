package validation

import (
	"fmt"
	"strings"

	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// dnsLabel reports a value that is not an RFC 1123 label.
func dnsLabel(r *report, p *field.Path, value string) {
	r.each(p, value, validation.IsDNS1123Label(value))
}

// dnsSubdomain reports a value that is not an RFC 1123 subdomain.
func dnsSubdomain(r *report, p *field.Path, value string) {
	r.each(p, value, validation.IsDNS1123Subdomain(value))
}

// requiredSubdomain reports an empty value as Required, any other that is no subdomain as Invalid.
func requiredSubdomain(r *report, p *field.Path, value string) {
	if value == "" {
		r.required(p, "")
		return
	}
	dnsSubdomain(r, p, value)
}

// requiredLabel is requiredSubdomain for labels.
func requiredLabel(r *report, p *field.Path, value string) {
	if value == "" {
		r.required(p, "")
		return
	}
	dnsLabel(r, p, value)
}

// qualifiedName reports a name that is not of the form [domain/]name.
func qualifiedName(r *report, p *field.Path, value string) {
	r.list = append(r.list, metavalidation.ValidateLabelName(value, p)...)
}

func labelMap(r *report, p *field.Path, labels map[string]string) {
	r.list = append(r.list, metavalidation.ValidateLabels(labels, p)...)
}

func annotationMap(r *report, p *field.Path, annotations map[string]string) {
	r.list = append(r.list, apivalidation.ValidateAnnotations(annotations, p)...)
}

// selector checks a label selector that may be nil.
func selector(r *report, p *field.Path, s *metav1.LabelSelector) {
	r.list = append(r.list, metavalidation.ValidateLabelSelector(s, metavalidation.LabelSelectorValidationOptions{}, p)...)
}

// portNumberOrName checks a port that is a number or the name of a container's port.
func portNumberOrName(r *report, p *field.Path, port intstr.IntOrString) {
	if port.Type == intstr.Int {
		r.each(p, port.IntValue(), validation.IsValidPortNum(port.IntValue()))
		return
	}
	r.each(p, port.StrVal, validation.IsValidPortName(port.StrVal))
}

// intOrPercent checks a count or a share: not negative, and "N%" where it is text.
func intOrPercent(r *report, p *field.Path, v intstr.IntOrString) {
	switch v.Type {
	case intstr.String:
		r.each(p, v, validation.IsValidPercent(v.StrVal))
	case intstr.Int:
		r.nonNegative(p, int64(v.IntValue()))
	default:
		r.invalid(p, v, "must be an integer or percentage (e.g '5%%')")
	}
}

// atMostWhole reports a percentage above 100.
func atMostWhole(r *report, p *field.Path, v intstr.IntOrString) {
	if share, isPercent := percent(v); isPercent && share > 100 {
		r.invalid(p, v, "must not be greater than 100%")
	}
}

// percent returns the share of a valid percentage.
func percent(v intstr.IntOrString) (int, bool) {
	if v.Type != intstr.String || len(validation.IsValidPercent(v.StrVal)) > 0 {
		return 0, false
	}
	n := 0
	if _, err := fmt.Sscanf(v.StrVal, "%d%%", &n); err != nil {
		return 0, false
	}
	return n, true
}

// relativePath reports a path that is absolute or climbs with "..".
func relativePath(r *report, p *field.Path, path string) {
	if strings.HasPrefix(path, "/") {
		r.invalid(p, path, "must be a relative path")
	}
	noClimbing(r, p, path)
}

// noClimbing reports a path with an element "..".
func noClimbing(r *report, p *field.Path, path string) {
	for _, element := range strings.Split(strings.ReplaceAll(path, "\\", "/"), "/") {
		if element == ".." {
			r.invalid(p, path, "must not contain '..'")
			return
		}
	}
}

// relativeNonEmpty is relativePath for files in a volume, whose names the kubelet's own entries begin with "..".
func relativeNonEmpty(r *report, p *field.Path, path string) {
	if path == "" {
		r.required(p, "")
		return
	}
	relativePath(r, p, path)
	if strings.HasPrefix(path, "..") && !strings.HasPrefix(path, "../") && path != ".." {
		r.invalid(p, path, "must not start with '..'")
	}
}

// ip reports a value that is not an IP address in its usual spelling.
func ip(r *report, p *field.Path, value string) {
	r.list = append(r.list, validation.IsValidIPForLegacyField(p, value, true, nil)...)
}
