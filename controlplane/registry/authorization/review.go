package authorization

import (
	"context"
	"fmt"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
)

type base struct {
	singular   string
	namespaced bool
}

func (b base) NamespaceScoped() bool   { return b.namespaced }
func (base) Destroy()                  {}
func (b base) GetSingularName() string { return b.singular }

var (
	_ rest.Creater = (*SubjectAccessReview)(nil)
	_ rest.Creater = (*LocalSubjectAccessReview)(nil)
	_ rest.Creater = (*SelfSubjectAccessReview)(nil)
	_ rest.Creater = (*SelfSubjectRulesReview)(nil)
	_ rest.Scoper  = (*LocalSubjectAccessReview)(nil)
)

// judge asks the authorizer and writes its answer down. NoOpinion is neither allowed nor denied.
func judge(ctx context.Context, a authorizer.Authorizer, attrs authorizer.Attributes) authorizationv1.SubjectAccessReviewStatus {
	decision, reason, err := a.Authorize(ctx, attrs)
	status := authorizationv1.SubjectAccessReviewStatus{
		Allowed: decision == authorizer.DecisionAllow,
		Denied:  decision == authorizer.DecisionDeny,
		Reason:  reason,
	}
	if err != nil {
		status.EvaluationError = err.Error()
	}
	return status
}

func run(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc) error {
	if validate == nil {
		return nil
	}
	return validate(ctx, obj.DeepCopyObject())
}

func invalid(kind string, errs field.ErrorList) error {
	return apierrors.NewInvalid(authorizationv1.SchemeGroupVersion.WithKind(kind).GroupKind(), "", errs)
}

// validateMeta: a review is nothing that is kept, so it has no metadata of its own (what field managers write is
// ignored).
func validateMeta(m *metav1.ObjectMeta) field.ErrorList {
	if m.Name == "" && m.GenerateName == "" && m.Namespace == "" && len(m.Labels) == 0 && len(m.Annotations) == 0 && len(m.Finalizers) == 0 {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("metadata"), m, "must be empty")}
}

func subjectOf(s *authorizationv1.SubjectAccessReviewSpec) user.Info {
	u := &user.DefaultInfo{Name: s.User, Groups: s.Groups, UID: s.UID}
	for k, v := range s.Extra {
		if u.Extra == nil {
			u.Extra = map[string][]string{}
		}
		u.Extra[k] = v
	}
	return u
}

func validateSubject(s *authorizationv1.SubjectAccessReviewSpec) field.ErrorList {
	errs := validateAttributes(field.NewPath("spec"), s.ResourceAttributes, s.NonResourceAttributes)
	if s.User == "" && len(s.Groups) == 0 {
		errs = append(errs, field.Invalid(field.NewPath("spec", "user"), s.User, "at least one of user or group must be specified"))
	}
	return errs
}

// SubjectAccessReview: may this user do that?
type SubjectAccessReview struct {
	base
	authz authorizer.Authorizer
}

func NewSubjectAccessReview(a authorizer.Authorizer) *SubjectAccessReview {
	return &SubjectAccessReview{base{singular: "subjectaccessreview"}, a}
}

func (*SubjectAccessReview) New() runtime.Object { return &authorizationv1.SubjectAccessReview{} }

func (s *SubjectAccessReview) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, _ *metav1.CreateOptions) (runtime.Object, error) {
	review, ok := obj.(*authorizationv1.SubjectAccessReview)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a SubjectAccessReview: %T", obj))
	}
	if errs := append(validateSubject(&review.Spec), validateMeta(&review.ObjectMeta)...); len(errs) > 0 {
		return nil, invalid("SubjectAccessReview", errs)
	}
	if err := run(ctx, obj, validate); err != nil {
		return nil, err
	}
	review.Status = judge(ctx, s.authz, attributesOf(subjectOf(&review.Spec), review.Spec.ResourceAttributes, review.Spec.NonResourceAttributes))
	return review, nil
}

// LocalSubjectAccessReview: may this user do that in this namespace? Who may ask it is decided by namespace.
type LocalSubjectAccessReview struct {
	base
	authz authorizer.Authorizer
}

func NewLocalSubjectAccessReview(a authorizer.Authorizer) *LocalSubjectAccessReview {
	return &LocalSubjectAccessReview{base{singular: "localsubjectaccessreview", namespaced: true}, a}
}

func (*LocalSubjectAccessReview) New() runtime.Object {
	return &authorizationv1.LocalSubjectAccessReview{}
}

func (l *LocalSubjectAccessReview) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, _ *metav1.CreateOptions) (runtime.Object, error) {
	review, ok := obj.(*authorizationv1.LocalSubjectAccessReview)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a LocalSubjectAccessReview: %T", obj))
	}
	errs := validateSubject(&review.Spec)
	meta := review.ObjectMeta
	meta.Namespace = ""
	errs = append(errs, validateMeta(&meta)...)
	if res := review.Spec.ResourceAttributes; res != nil && res.Namespace != review.Namespace {
		errs = append(errs, field.Invalid(field.NewPath("spec", "resourceAttributes", "namespace"), res.Namespace, "must match metadata.namespace"))
	}
	if review.Spec.NonResourceAttributes != nil {
		errs = append(errs, field.Invalid(field.NewPath("spec", "nonResourceAttributes"), review.Spec.NonResourceAttributes, "disallowed on this kind of request"))
	}
	if len(errs) > 0 {
		return nil, invalid("LocalSubjectAccessReview", errs)
	}
	if ns := request.NamespaceValue(ctx); ns != review.Namespace {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("metadata.namespace %q must be the request's namespace %q", review.Namespace, ns))
	}
	if err := run(ctx, obj, validate); err != nil {
		return nil, err
	}
	review.Status = judge(ctx, l.authz, attributesOf(subjectOf(&review.Spec), review.Spec.ResourceAttributes, nil))
	return review, nil
}

// SelfSubjectAccessReview: may I do that?
type SelfSubjectAccessReview struct {
	base
	authz authorizer.Authorizer
}

func NewSelfSubjectAccessReview(a authorizer.Authorizer) *SelfSubjectAccessReview {
	return &SelfSubjectAccessReview{base{singular: "selfsubjectaccessreview"}, a}
}

func (*SelfSubjectAccessReview) New() runtime.Object {
	return &authorizationv1.SelfSubjectAccessReview{}
}

func (s *SelfSubjectAccessReview) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, _ *metav1.CreateOptions) (runtime.Object, error) {
	review, ok := obj.(*authorizationv1.SelfSubjectAccessReview)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a SelfSubjectAccessReview: %T", obj))
	}
	errs := validateAttributes(field.NewPath("spec"), review.Spec.ResourceAttributes, review.Spec.NonResourceAttributes)
	if errs = append(errs, validateMeta(&review.ObjectMeta)...); len(errs) > 0 {
		return nil, invalid("SelfSubjectAccessReview", errs)
	}
	u, ok := request.UserFrom(ctx)
	if !ok {
		return nil, apierrors.NewBadRequest("no user is on this request")
	}
	if err := run(ctx, obj, validate); err != nil {
		return nil, err
	}
	review.Status = judge(ctx, s.authz, attributesOf(u, review.Spec.ResourceAttributes, review.Spec.NonResourceAttributes))
	return review, nil
}

// SelfSubjectRulesReview: what may I do in this namespace?
type SelfSubjectRulesReview struct {
	base
	rules authorizer.RuleResolver
}

func NewSelfSubjectRulesReview(r authorizer.RuleResolver) *SelfSubjectRulesReview {
	return &SelfSubjectRulesReview{base{singular: "selfsubjectrulesreview"}, r}
}

func (*SelfSubjectRulesReview) New() runtime.Object { return &authorizationv1.SelfSubjectRulesReview{} }

func (s *SelfSubjectRulesReview) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, _ *metav1.CreateOptions) (runtime.Object, error) {
	review, ok := obj.(*authorizationv1.SelfSubjectRulesReview)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a SelfSubjectRulesReview: %T", obj))
	}
	u, ok := request.UserFrom(ctx)
	if !ok {
		return nil, apierrors.NewBadRequest("no user is on this request")
	}
	if review.Spec.Namespace == "" {
		return nil, apierrors.NewBadRequest("no namespace on request: set spec.namespace")
	}
	if err := run(ctx, obj, validate); err != nil {
		return nil, err
	}
	resource, nonResource, incomplete, err := s.rules.RulesFor(ctx, u, review.Spec.Namespace)
	out := &authorizationv1.SelfSubjectRulesReview{
		Status: authorizationv1.SubjectRulesReviewStatus{
			ResourceRules: []authorizationv1.ResourceRule{}, NonResourceRules: []authorizationv1.NonResourceRule{}, Incomplete: incomplete},
	}
	if err != nil {
		out.Status.EvaluationError = err.Error()
	}
	for _, r := range resource {
		out.Status.ResourceRules = append(out.Status.ResourceRules, authorizationv1.ResourceRule{
			Verbs: r.GetVerbs(), APIGroups: r.GetAPIGroups(), Resources: r.GetResources(), ResourceNames: r.GetResourceNames()})
	}
	for _, r := range nonResource {
		out.Status.NonResourceRules = append(out.Status.NonResourceRules, authorizationv1.NonResourceRule{
			Verbs: r.GetVerbs(), NonResourceURLs: r.GetNonResourceURLs()})
	}
	return out, nil
}
