package authorization

import (
	"fmt"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// attributesOf turns a review into what an authorizer judges.
func attributesOf(u user.Info, res *authorizationv1.ResourceAttributes, non *authorizationv1.NonResourceAttributes) authorizer.AttributesRecord {
	if res == nil {
		a := authorizer.AttributesRecord{User: u}
		if non != nil {
			a.Path, a.Verb = non.Path, non.Verb
		}
		return a
	}
	a := authorizer.AttributesRecord{
		User: u, Verb: res.Verb, Namespace: res.Namespace, APIGroup: res.Group, APIVersion: res.Version,
		Resource: res.Resource, Subresource: res.Subresource, Name: res.Name, ResourceRequest: true,
	}
	if a.APIVersion == "" {
		a.APIVersion = "*" // reviews without one ask about any version
	}
	a.FieldSelectorRequirements, a.FieldSelectorParsingErr = fieldRequirements(res.FieldSelector)
	a.LabelSelectorRequirements, a.LabelSelectorParsingErr = labelRequirements(res.LabelSelector)
	return a
}

// fieldRequirements keeps what can be understood: a requirement left out only makes the request look broader, and a
// broader request is refused sooner.
func fieldRequirements(f *authorizationv1.FieldSelectorAttributes) (fields.Requirements, error) {
	if f == nil {
		return nil, nil
	}
	if f.RawSelector != "" {
		s, err := fields.ParseSelector(f.RawSelector)
		if err != nil {
			return nil, err
		}
		return s.Requirements(), nil
	}
	var out fields.Requirements
	var unknown []string
	for _, r := range f.Requirements {
		switch {
		case r.Operator == metav1.FieldSelectorOpIn && len(r.Values) == 1:
			out = append(out, fields.Requirement{Field: r.Key, Operator: selection.Equals, Value: r.Values[0]})
		case r.Operator == metav1.FieldSelectorOpNotIn && len(r.Values) == 1:
			out = append(out, fields.Requirement{Field: r.Key, Operator: selection.NotEquals, Value: r.Values[0]})
		default:
			unknown = append(unknown, fmt.Sprintf("%s %s %v", r.Key, r.Operator, r.Values))
		}
	}
	if len(unknown) > 0 {
		return out, fmt.Errorf("field selector requirements not understood: %s", strings.Join(unknown, ", "))
	}
	return out, nil
}

func labelRequirements(l *authorizationv1.LabelSelectorAttributes) (labels.Requirements, error) {
	if l == nil {
		return nil, nil
	}
	if l.RawSelector != "" {
		s, err := labels.Parse(l.RawSelector)
		if err != nil {
			return nil, err
		}
		reqs, _ := s.Requirements()
		return reqs, nil
	}
	if len(l.Requirements) == 0 {
		return nil, nil
	}
	s, err := metav1.LabelSelectorAsSelector(&metav1.LabelSelector{MatchExpressions: l.Requirements})
	if err != nil {
		return nil, err
	}
	reqs, _ := s.Requirements()
	return reqs, nil
}

// validateAttributes: exactly one of the two, and selectors in one form.
func validateAttributes(path *field.Path, res *authorizationv1.ResourceAttributes, non *authorizationv1.NonResourceAttributes) field.ErrorList {
	var errs field.ErrorList
	switch {
	case res != nil && non != nil:
		errs = append(errs, field.Invalid(path.Child("nonResourceAttributes"), non, "cannot be specified in combination with resourceAttributes"))
	case res == nil && non == nil:
		errs = append(errs, field.Invalid(path.Child("resourceAttributes"), res, "exactly one of nonResourceAttributes or resourceAttributes must be specified"))
	}
	if res == nil {
		return errs
	}
	p := path.Child("resourceAttributes")
	if f := res.FieldSelector; f != nil {
		p := p.Child("fieldSelector")
		switch {
		case f.RawSelector != "" && len(f.Requirements) > 0:
			errs = append(errs, field.Invalid(p.Child("rawSelector"), f.RawSelector, "may not specified at the same time as requirements"))
		case f.RawSelector == "" && len(f.Requirements) == 0:
			errs = append(errs, field.Required(p.Child("requirements"), "when fieldSelector is specified, requirements or rawSelector is required"))
		}
		for i, r := range f.Requirements {
			errs = append(errs, validateRequirement(p.Child("requirements").Index(i), r.Key, string(r.Operator), r.Values)...)
		}
	}
	if l := res.LabelSelector; l != nil {
		p := p.Child("labelSelector")
		switch {
		case l.RawSelector != "" && len(l.Requirements) > 0:
			errs = append(errs, field.Invalid(p.Child("rawSelector"), l.RawSelector, "may not specified at the same time as requirements"))
		case l.RawSelector == "" && len(l.Requirements) == 0:
			errs = append(errs, field.Required(p.Child("requirements"), "when labelSelector is specified, requirements or rawSelector is required"))
		}
		for i, r := range l.Requirements {
			errs = append(errs, validateRequirement(p.Child("requirements").Index(i), r.Key, string(r.Operator), r.Values)...)
		}
	}
	return errs
}

func validateRequirement(p *field.Path, key, op string, values []string) field.ErrorList {
	var errs field.ErrorList
	if key == "" {
		errs = append(errs, field.Required(p.Child("key"), "must be specified"))
	}
	switch op {
	case "In", "NotIn":
		if len(values) == 0 {
			errs = append(errs, field.Required(p.Child("values"), "must be specified when `operator` is 'In' or 'NotIn'"))
		}
	case "Exists", "DoesNotExist":
		if len(values) > 0 {
			errs = append(errs, field.Forbidden(p.Child("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"))
		}
	default:
		errs = append(errs, field.NotSupported(p.Child("operator"), op, []string{"In", "NotIn", "Exists", "DoesNotExist"}))
	}
	return errs
}
