package validation

import (
	"fmt"
	"slices"
	"strings"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/util/shufflesharding"
)

const (
	maxPrecedence = 10000
	maxQueues     = 10 * 1000 * 1000
	// maxHashBits is what dealing a hand of queues takes from a 64-bit hash.
	maxHashBits = 60
)

var flowVerbs = []string{"*", "get", "list", "create", "update", "delete", "deletecollection", "patch", "watch", "proxy"}

func flowSchemaCreate(s *flowcontrolv1.FlowSchema) field.ErrorList {
	r := &report{}
	p := field.NewPath("spec")
	spec := &s.Spec
	if spec.MatchingPrecedence <= 0 || spec.MatchingPrecedence > maxPrecedence {
		r.invalid(p.Child("matchingPrecedence"), spec.MatchingPrecedence, fmt.Sprintf("must be a value between 1 and %d", maxPrecedence))
	}
	if spec.MatchingPrecedence == 1 && s.Name != flowcontrolv1.FlowSchemaNameExempt {
		r.invalid(p.Child("matchingPrecedence"), spec.MatchingPrecedence, "only the schema named 'exempt' may have matchingPrecedence 1")
	}
	if m := spec.DistinguisherMethod; m != nil {
		oneOf(r, p.Child("distinguisherMethod", "type"), m.Type, true, flowcontrolv1.FlowDistinguisherMethodByNamespaceType, flowcontrolv1.FlowDistinguisherMethodByUserType)
	}
	if n := spec.PriorityLevelConfiguration.Name; n != "" {
		dnsSubdomain(r, p.Child("priorityLevelConfiguration", "name"), n)
	} else {
		r.required(p.Child("priorityLevelConfiguration", "name"), "must reference a priority level")
	}
	for i := range spec.Rules {
		flowRule(r, p.Child("rules").Index(i), &spec.Rules[i])
	}
	return r.list
}

func flowRule(r *report, p *field.Path, rule *flowcontrolv1.PolicyRulesWithSubjects) {
	if len(rule.Subjects) == 0 {
		r.required(p.Child("subjects"), "subjects must contain at least one value")
	}
	for i, s := range rule.Subjects {
		at := p.Child("subjects").Index(i)
		set := map[flowcontrolv1.SubjectKind]bool{flowcontrolv1.SubjectKindServiceAccount: s.ServiceAccount != nil,
			flowcontrolv1.SubjectKindUser: s.User != nil, flowcontrolv1.SubjectKindGroup: s.Group != nil}
		names := map[flowcontrolv1.SubjectKind]string{flowcontrolv1.SubjectKindServiceAccount: "serviceAccount",
			flowcontrolv1.SubjectKindUser: "user", flowcontrolv1.SubjectKindGroup: "group"}
		if _, ok := names[s.Kind]; !ok {
			r.add(field.NotSupported(at.Child("kind"), s.Kind, []flowcontrolv1.SubjectKind{flowcontrolv1.SubjectKindGroup, flowcontrolv1.SubjectKindServiceAccount, flowcontrolv1.SubjectKindUser}))
			continue
		}
		for k, name := range sorted(names) {
			switch {
			case k == s.Kind && !set[k]:
				r.required(at.Child(name), fmt.Sprintf("%s is required when subject kind is '%s'", name, s.Kind))
			case k != s.Kind && set[k]:
				r.forbidden(at.Child(name), fmt.Sprintf("%s is forbidden when subject kind is not '%s'", name, k))
			}
		}
		if s.Kind == flowcontrolv1.SubjectKindServiceAccount && s.ServiceAccount != nil {
			in := at.Child("serviceAccount")
			if s.ServiceAccount.Name == "" {
				r.required(in.Child("name"), "")
			} else if s.ServiceAccount.Name != "*" {
				r.each(in.Child("name"), s.ServiceAccount.Name, validation.IsDNS1123Subdomain(s.ServiceAccount.Name))
			}
			if s.ServiceAccount.Namespace == "" {
				r.required(in.Child("namespace"), "must specify namespace for service account")
			} else {
				dnsLabel(r, in.Child("namespace"), s.ServiceAccount.Namespace)
			}
		}
		if s.Kind == flowcontrolv1.SubjectKindUser && s.User != nil && s.User.Name == "" {
			r.required(at.Child("user", "name"), "")
		}
		if s.Kind == flowcontrolv1.SubjectKindGroup && s.Group != nil && s.Group.Name == "" {
			r.required(at.Child("group", "name"), "")
		}
	}
	if len(rule.ResourceRules)+len(rule.NonResourceRules) == 0 {
		r.required(p, "at least one of resourceRules and nonResourceRules has to be non-empty")
	}
	for i, q := range rule.ResourceRules {
		at := p.Child("resourceRules").Index(i)
		verbs(r, at.Child("verbs"), q.Verbs)
		wildcardAlone(r, at.Child("apiGroups"), q.APIGroups, "resource rules must supply at least one api group")
		wildcardAlone(r, at.Child("resources"), q.Resources, "resource rules must supply at least one resource")
		if len(q.Namespaces) == 0 && !q.ClusterScope {
			r.required(at.Child("namespaces"), "resource rules that are not cluster scoped must supply at least one namespace")
		}
		for j, n := range q.Namespaces {
			if n == "*" {
				if len(q.Namespaces) > 1 {
					r.invalid(at.Child("namespaces"), q.Namespaces, "if '*' is present, must not specify other namespaces")
				}
				continue
			}
			dnsLabel(r, at.Child("namespaces").Index(j), n)
		}
	}
	for i, q := range rule.NonResourceRules {
		at := p.Child("nonResourceRules").Index(i)
		verbs(r, at.Child("verbs"), q.Verbs)
		urls := at.Child("nonResourceURLs")
		wildcardAlone(r, urls, q.NonResourceURLs, "nonResourceURLs must contain at least one value")
		for j, u := range q.NonResourceURLs {
			if u == "*" {
				continue
			}
			in := urls.Index(j)
			switch {
			case u == "":
				r.invalid(in, u, "nonResourceURL must not be empty")
			case u == "/":
			case !strings.HasPrefix(u, "/"):
				r.invalid(in, u, "nonResourceURL must start with slash")
			case strings.Contains(u, " "):
				r.invalid(in, u, "nonResourceURL must not contain white-space")
			case strings.Contains(u, "//"):
				r.invalid(in, u, "nonResourceURL must not contain double slash")
			case strings.Contains(strings.TrimSuffix(u, "*"), "*") || strings.HasSuffix(u, "*") && !strings.HasSuffix(u, "/*"):
				r.invalid(in, u, "wildcard can only do suffix matching in nonResourceURL")
			}
		}
	}
}

func verbs(r *report, p *field.Path, list []string) {
	switch {
	case len(list) == 0:
		r.required(p, "verbs must contain at least one value")
	case slices.Contains(list, "*") && len(list) > 1:
		r.invalid(p, list, "if '*' is present, must not specify other verbs")
	default:
		for _, v := range list {
			if !slices.Contains(flowVerbs, v) {
				r.add(field.NotSupported(p, list, flowVerbs))
				return
			}
		}
	}
}

func wildcardAlone(r *report, p *field.Path, list []string, why string) {
	switch {
	case len(list) == 0:
		r.required(p, why)
	case slices.Contains(list, "*") && len(list) > 1:
		r.invalid(p, list, "if '*' is present, must not specify others")
	}
}

func priorityLevelCreate(l *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
	r := &report{}
	p := field.NewPath("spec")
	s := &l.Spec
	exempt := l.Name == flowcontrolv1.PriorityLevelConfigurationNameExempt
	if exempt != (s.Type == flowcontrolv1.PriorityLevelEnablementExempt) {
		r.invalid(p.Child("type"), s.Type, "type must be 'Exempt' if and only if name is 'exempt'")
	}
	switch s.Type {
	case flowcontrolv1.PriorityLevelEnablementExempt:
		if s.Limited != nil {
			r.forbidden(p.Child("limited"), "must be nil if the type is not Limited")
		}
		if e := s.Exempt; e != nil {
			shares(r, p.Child("exempt"), e.NominalConcurrencyShares, e.LendablePercent, 0)
		}
	case flowcontrolv1.PriorityLevelEnablementLimited:
		if s.Exempt != nil {
			r.forbidden(p.Child("exempt"), "must be nil if the type is Limited")
		}
		if s.Limited == nil {
			r.required(p.Child("limited"), "must not be empty when type is Limited")
			break
		}
		limited(r, p.Child("limited"), s.Limited)
	default:
		r.add(field.NotSupported(p.Child("type"), s.Type, []flowcontrolv1.PriorityLevelEnablement{flowcontrolv1.PriorityLevelEnablementExempt, flowcontrolv1.PriorityLevelEnablementLimited}))
	}
	return r.list
}

func shares(r *report, p *field.Path, n, lendable *int32, least int32) {
	if n != nil && *n < least {
		r.invalid(p.Child("nominalConcurrencyShares"), *n, "must be a non-negative integer")
	}
	if lendable != nil && (*lendable < 0 || *lendable > 100) {
		r.invalid(p.Child("lendablePercent"), *lendable, "must be between 0 and 100, inclusive")
	}
}

func limited(r *report, p *field.Path, l *flowcontrolv1.LimitedPriorityLevelConfiguration) {
	shares(r, p, l.NominalConcurrencyShares, l.LendablePercent, 0)
	if l.BorrowingLimitPercent != nil {
		r.nonNegative(p.Child("borrowingLimitPercent"), int64(*l.BorrowingLimitPercent))
	}
	at := p.Child("limitResponse")
	switch l.LimitResponse.Type {
	case flowcontrolv1.LimitResponseTypeReject:
		if l.LimitResponse.Queuing != nil {
			r.forbidden(at.Child("queuing"), "must be nil if limited.limitResponse.type is not Limited")
		}
	case flowcontrolv1.LimitResponseTypeQueue:
		q := l.LimitResponse.Queuing
		if q == nil {
			r.required(at.Child("queuing"), "must not be empty if limited.limitResponse.type is Limited")
			return
		}
		in := at.Child("queuing")
		if q.QueueLengthLimit <= 0 {
			r.invalid(in.Child("queueLengthLimit"), q.QueueLengthLimit, "must be positive")
		}
		switch {
		case q.Queues <= 0:
			r.invalid(in.Child("queues"), q.Queues, "must be positive")
		case q.Queues > maxQueues:
			r.invalid(in.Child("queues"), q.Queues, fmt.Sprintf("must not be greater than %d", maxQueues))
		}
		switch {
		case q.HandSize <= 0:
			r.invalid(in.Child("handSize"), q.HandSize, "must be positive")
		case q.HandSize > q.Queues:
			r.invalid(in.Child("handSize"), q.HandSize, fmt.Sprintf("should not be greater than queues (%d)", q.Queues))
		case shufflesharding.RequiredEntropyBits(int(q.Queues), int(q.HandSize)) > maxHashBits:
			r.invalid(in.Child("handSize"), q.HandSize, fmt.Sprintf("required entropy bits of deckSize %d and handSize %d should not be greater than %d", q.Queues, q.HandSize, maxHashBits))
		}
	default:
		r.add(field.NotSupported(at.Child("type"), l.LimitResponse.Type, []flowcontrolv1.LimitResponseType{flowcontrolv1.LimitResponseTypeQueue, flowcontrolv1.LimitResponseTypeReject}))
	}
}
