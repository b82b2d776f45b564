package authentication

import (
	"context"
	"fmt"
	"net/http"
	"slices"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
)

// base is what every review shares: cluster-scoped, created only, never stored.
type base struct{ singular string }

func (base) NamespaceScoped() bool     { return false }
func (base) Destroy()                  {}
func (b base) GetSingularName() string { return b.singular }

// TokenReview answers whether a token is good and whose it is.
type TokenReview struct {
	base
	authn     authenticator.Request
	audiences authenticator.Audiences
}

var (
	_ rest.Creater              = (*TokenReview)(nil)
	_ rest.Scoper               = (*TokenReview)(nil)
	_ rest.SingularNameProvider = (*TokenReview)(nil)
	_ rest.Creater              = (*SelfSubjectReview)(nil)
)

// NewTokenReview reviews with authn, the API server's own authenticator; audiences are those of the API server.
func NewTokenReview(authn authenticator.Request, audiences authenticator.Audiences) *TokenReview {
	return &TokenReview{base{"tokenreview"}, authn, audiences}
}

func (*TokenReview) New() runtime.Object { return &authenticationv1.TokenReview{} }

// Create reviews spec.token for spec.audiences, or the API server's when none are given.
func (t *TokenReview) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, _ *metav1.CreateOptions) (runtime.Object, error) {
	review, ok := obj.(*authenticationv1.TokenReview)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a TokenReview: %T", obj))
	}
	if ns := request.NamespaceValue(ctx); ns != "" {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("namespace is not allowed on this type: %v", ns))
	}
	if review.Spec.Token == "" {
		return nil, apierrors.NewBadRequest("token is required for TokenReview in authentication")
	}
	if validate != nil {
		if err := validate(ctx, obj.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	if t.authn == nil {
		return review, nil
	}

	// The token goes through the same door as a request that bears it.
	probe := &http.Request{Header: http.Header{}}
	probe.Header.Set("Authorization", "Bearer "+review.Spec.Token)
	wanted := review.Spec.Audiences
	if len(wanted) == 0 {
		wanted = t.audiences
	}
	probe = probe.WithContext(authenticator.WithAudiences(ctx, wanted))

	resp, authenticated, err := t.authn.AuthenticateRequest(probe)
	review.Status.Authenticated = authenticated
	if err != nil {
		review.Status.Error = err.Error()
	}
	// A client that names audiences understands them; one that does not has asked for ours, of which some must match.
	if authenticated && len(resp.Audiences) > 0 && !slices.ContainsFunc(resp.Audiences, func(a string) bool { return slices.Contains(wanted, a) }) {
		review.Status.Authenticated = false
		review.Status.Error = fmt.Sprintf("authenticator granted audiences %q, none of the requested %q", resp.Audiences, wanted)
		return review, nil
	}
	if authenticated && resp.User != nil {
		review.Status.User = userInfo(resp.User)
		review.Status.Audiences = resp.Audiences
	}
	return review, nil
}

// SelfSubjectReview tells the caller who it is.
type SelfSubjectReview struct{ base }

func NewSelfSubjectReview() *SelfSubjectReview { return &SelfSubjectReview{base{"selfsubjectreview"}} }

func (*SelfSubjectReview) New() runtime.Object { return &authenticationv1.SelfSubjectReview{} }

func (*SelfSubjectReview) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, _ *metav1.CreateOptions) (runtime.Object, error) {
	if validate != nil {
		if err := validate(ctx, obj.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	review, ok := obj.(*authenticationv1.SelfSubjectReview)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a SelfSubjectReview: %T", obj))
	}
	u, ok := request.UserFrom(ctx)
	if !ok {
		return nil, apierrors.NewBadRequest("no user is on this request")
	}
	return &authenticationv1.SelfSubjectReview{
		ObjectMeta: review.ObjectMeta,
		Status:     authenticationv1.SelfSubjectReviewStatus{UserInfo: userInfo(u)},
	}, nil
}

func userInfo(u user.Info) authenticationv1.UserInfo {
	info := authenticationv1.UserInfo{Username: u.GetName(), UID: u.GetUID(), Groups: u.GetGroups()}
	for k, v := range u.GetExtra() {
		if info.Extra == nil {
			info.Extra = map[string]authenticationv1.ExtraValue{}
		}
		info.Extra[k] = v
	}
	return info
}
