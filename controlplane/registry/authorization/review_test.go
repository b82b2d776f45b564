package authorization

import (
	"context"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
)

// judgeFake allows jane to get pods in shop, denies everything to mallory, and keeps what it was asked.
type judgeFake struct{ last authorizer.Attributes }

func (j *judgeFake) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	j.last = a
	switch {
	case a.GetUser().GetName() == "mallory":
		return authorizer.DecisionDeny, "no", nil
	case a.GetUser().GetName() == "jane" && a.GetVerb() == "get" && a.GetResource() == "pods" && a.GetNamespace() == "shop":
		return authorizer.DecisionAllow, "yes", nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}

func pods() *authorizationv1.ResourceAttributes {
	return &authorizationv1.ResourceAttributes{Namespace: "shop", Verb: "get", Resource: "pods"}
}

func TestSubjectAccessReview(t *testing.T) {
	j := &judgeFake{}
	ask := func(spec authorizationv1.SubjectAccessReviewSpec) (authorizationv1.SubjectAccessReviewStatus, error) {
		obj, err := NewSubjectAccessReview(j).Create(t.Context(), &authorizationv1.SubjectAccessReview{Spec: spec}, nil, &metav1.CreateOptions{})
		if err != nil {
			return authorizationv1.SubjectAccessReviewStatus{}, err
		}
		return obj.(*authorizationv1.SubjectAccessReview).Status, nil
	}
	for who, want := range map[string]authorizationv1.SubjectAccessReviewStatus{
		"jane": {Allowed: true, Reason: "yes"}, "mallory": {Denied: true, Reason: "no"}, "nobody": {},
	} {
		got, err := ask(authorizationv1.SubjectAccessReviewSpec{User: who, ResourceAttributes: pods()})
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", who, got, err)
		}
	}
	selecting := pods()
	selecting.Verb = "list"
	selecting.FieldSelector = &authorizationv1.FieldSelectorAttributes{Requirements: []metav1.FieldSelectorRequirement{{Key: "spec.nodeName", Operator: "In", Values: []string{"a"}}}}
	if _, err := ask(authorizationv1.SubjectAccessReviewSpec{User: "jane", ResourceAttributes: selecting}); err != nil {
		t.Fatal(err)
	}
	if reqs, err := j.last.GetFieldSelector(); err != nil || len(reqs) != 1 || reqs[0].Value != "a" {
		t.Errorf("field selector is %v, %v", reqs, err)
	}

	bad := pods()
	bad.LabelSelector = &authorizationv1.LabelSelectorAttributes{}
	for want, spec := range map[string]authorizationv1.SubjectAccessReviewSpec{
		"at least one of user or group":                        {ResourceAttributes: pods()},
		"exactly one of nonResourceAttributes":                 {User: "jane"},
		"cannot be specified in combination":                   {User: "jane", ResourceAttributes: pods(), NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: "/"}},
		"when labelSelector is specified, requirements or raw": {User: "jane", ResourceAttributes: bad},
	} {
		if _, err := ask(spec); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

func TestLocalSubjectAccessReviewStaysInItsNamespace(t *testing.T) {
	ask := func(requestNS, metaNS, specNS string) error {
		spec := authorizationv1.SubjectAccessReviewSpec{User: "jane", ResourceAttributes: pods()}
		spec.ResourceAttributes.Namespace = specNS
		_, err := NewLocalSubjectAccessReview(&judgeFake{}).Create(request.WithNamespace(t.Context(), requestNS),
			&authorizationv1.LocalSubjectAccessReview{ObjectMeta: metav1.ObjectMeta{Namespace: metaNS}, Spec: spec}, nil, &metav1.CreateOptions{})
		return err
	}
	if err := ask("shop", "shop", "shop"); err != nil {
		t.Error(err)
	}
	if err := ask("shop", "shop", "bank"); !apierrors.IsInvalid(err) {
		t.Errorf("another namespace inside: %v", err)
	}
	if err := ask("bank", "shop", "shop"); !apierrors.IsBadRequest(err) {
		t.Errorf("another namespace of the request: %v", err)
	}
}

func TestSelfReviewsAskForTheCaller(t *testing.T) {
	ctx := request.WithUser(t.Context(), &user.DefaultInfo{Name: "jane"})
	obj, err := NewSelfSubjectAccessReview(&judgeFake{}).Create(ctx,
		&authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: pods()}}, nil, &metav1.CreateOptions{})
	if err != nil || !obj.(*authorizationv1.SelfSubjectAccessReview).Status.Allowed {
		t.Errorf("%+v, %v", obj, err)
	}
	rules := NewSelfSubjectRulesReview(fixedRules{})
	obj, err = rules.Create(ctx, &authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: "shop"}}, nil, &metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if s := obj.(*authorizationv1.SelfSubjectRulesReview).Status; len(s.ResourceRules) != 1 || s.ResourceRules[0].Resources[0] != "pods" || len(s.NonResourceRules) != 1 || s.Incomplete {
		t.Errorf("rules are %+v", s)
	}
	if _, err := rules.Create(ctx, &authorizationv1.SelfSubjectRulesReview{}, nil, &metav1.CreateOptions{}); !apierrors.IsBadRequest(err) {
		t.Errorf("without a namespace: %v", err)
	}
}

type fixedRules struct{}

func (fixedRules) RulesFor(context.Context, user.Info, string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	return []authorizer.ResourceRuleInfo{&authorizer.DefaultResourceRuleInfo{Verbs: []string{"get"}, Resources: []string{"pods"}}},
		[]authorizer.NonResourceRuleInfo{&authorizer.DefaultNonResourceRuleInfo{Verbs: []string{"get"}, NonResourceURLs: []string{"/x"}}}, false, nil
}
