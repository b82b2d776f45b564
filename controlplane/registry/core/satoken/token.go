package satoken

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	tokenjwt "k8s.io/apiserver/pkg/authentication/token/jwt"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/reevehq/reeve/controlplane/authn"
)

const (
	// minLifetime: shorter tokens cannot be renewed in time, as upstream.
	minLifetime = 10 * time.Minute
	// maxLifetimeSeconds is the largest that may be asked for at all.
	maxLifetimeSeconds = 1 << 32
	// extendableSeconds marks tokens of the default projected volume. Old clients read their token once and never again,
	// so such tokens live a year, and their use after the hour is reported as stale instead of refused (warnafter).
	extendableSeconds = 3607
	extendedLifetime  = 365 * 24 * time.Hour
	// defaultLifetimeSeconds is used when nothing defaulted the request.
	defaultLifetimeSeconds = 3600
)

// Getter finds one object, in the request's namespace for namespaced kinds: a registry store.
type Getter interface {
	Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error)
}

// Config of the token endpoint.
type Config struct {
	Signer                         *authn.Signer
	Accounts, Pods, Secrets, Nodes Getter
	// Audiences are given to tokens that ask for none: the API server's own.
	Audiences []string
	// MaxLifetime caps what is asked for; 0 means no cap.
	MaxLifetime time.Duration
	// Extend gives tokens of projected volumes for the API server a year, see extendableSeconds.
	Extend bool
}

// Token is the storage of serviceaccounts/token.
type Token struct {
	c   Config
	now func() time.Time
}

var (
	_ rest.NamedCreater             = (*Token)(nil)
	_ rest.GroupVersionKindProvider = (*Token)(nil)
)

// New needs the signer and every getter.
func New(c Config) (*Token, error) {
	if c.Signer == nil || c.Accounts == nil || c.Pods == nil || c.Secrets == nil || c.Nodes == nil || len(c.Audiences) == 0 {
		return nil, errors.New("satoken: Signer, Accounts, Pods, Secrets, Nodes and Audiences are all needed")
	}
	return &Token{c, time.Now}, nil
}

func (*Token) New() runtime.Object { return &authenticationv1.TokenRequest{} }
func (*Token) Destroy()            {}
func (*Token) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return authenticationv1.SchemeGroupVersion.WithKind("TokenRequest")
}

// PreserveRequestObjectMetaSystemFieldsOnSubresourceCreate keeps metadata.uid, by which a caller says which incarnation
// of the account it means.
func (*Token) PreserveRequestObjectMetaSystemFieldsOnSubresourceCreate() bool { return true }

// Create issues a token for the account called name.
func (t *Token) Create(ctx context.Context, name string, obj runtime.Object, validate rest.ValidateObjectFunc, _ *metav1.CreateOptions) (runtime.Object, error) {
	req, ok := obj.(*authenticationv1.TokenRequest)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a TokenRequest: %T", obj))
	}
	account, err := get[*corev1.ServiceAccount](ctx, t.c.Accounts, name)
	if err != nil {
		return nil, err
	}
	if err := t.matchAccount(req, account); err != nil {
		return nil, err
	}
	if len(req.Spec.Audiences) == 0 {
		req.Spec.Audiences = slices.Clone(t.c.Audiences)
	}
	if req.Spec.ExpirationSeconds == nil {
		seconds := int64(defaultLifetimeSeconds)
		req.Spec.ExpirationSeconds = &seconds
	}
	if validate != nil {
		if err := validate(ctx, obj.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	if errs := validateSpec(&req.Spec); len(errs) > 0 {
		return nil, apierrors.NewInvalid(authenticationv1.SchemeGroupVersion.WithKind("TokenRequest").GroupKind(), "", errs)
	}

	spec := authn.TokenSpec{
		Namespace:      account.Namespace,
		ServiceAccount: authn.Ref{Name: account.Name, UID: string(account.UID)},
		Audiences:      req.Spec.Audiences,
	}
	if err := t.bind(ctx, req.Spec.BoundObjectRef, account.Name, &spec); err != nil {
		return nil, err
	}
	asked := time.Duration(*req.Spec.ExpirationSeconds) * time.Second
	if t.c.MaxLifetime > 0 && asked > t.c.MaxLifetime {
		asked = t.c.MaxLifetime
		*req.Spec.ExpirationSeconds = int64(asked / time.Second)
	}
	spec.Lifetime = asked
	reported := asked // holders are told the short life, so that they renew
	if t.c.Extend && *req.Spec.ExpirationSeconds == extendableSeconds && spec.Pod != nil && t.ours(req.Spec.Audiences) {
		spec.WarnAfter, spec.Lifetime = asked, extendedLifetime
	}
	signed, err := t.c.Signer.Sign(spec)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	audit.AddAuditAnnotation(ctx, serviceaccount.IssuedCredentialIDAuditAnnotationKey, tokenjwt.CredentialIDForJTI(signed.ID))

	req.Name, req.Namespace = account.Name, account.Namespace
	req.CreationTimestamp = metav1.NewTime(t.now())
	req.UID = ""
	req.Status = authenticationv1.TokenRequestStatus{
		Token:               signed.Token,
		ExpirationTimestamp: metav1.NewTime(signed.Expires.Add(reported - spec.Lifetime)),
	}
	return req, nil
}

// matchAccount refuses a request whose metadata names another account, or another incarnation of it.
func (t *Token) matchAccount(req *authenticationv1.TokenRequest, account *corev1.ServiceAccount) error {
	var errs field.ErrorList
	meta := field.NewPath("metadata")
	if req.Name != "" && req.Name != account.Name {
		errs = append(errs, field.Invalid(meta.Child("name"), req.Name, "must match the service account name"))
	}
	if req.Namespace != "" && req.Namespace != account.Namespace {
		errs = append(errs, field.Invalid(meta.Child("namespace"), req.Namespace, "must match the service account namespace"))
	}
	if len(errs) > 0 {
		return apierrors.NewInvalid(authenticationv1.SchemeGroupVersion.WithKind("TokenRequest").GroupKind(), req.Name, errs)
	}
	if req.UID != "" && req.UID != account.UID {
		return apierrors.NewConflict(schema.GroupResource{Group: authenticationv1.GroupName, Resource: "tokenrequests"}, account.Name,
			fmt.Errorf("the UID in the token request (%s) does not match the UID of the service account (%s)", req.UID, account.UID))
	}
	return nil
}

// ours says whether the token is for the API server only.
func (t *Token) ours(audiences []string) bool {
	for _, a := range audiences {
		if !slices.Contains(t.c.Audiences, a) {
			return false
		}
	}
	return true
}

// bind looks the bound object up and puts what is true of it now into the claims.
func (t *Token) bind(ctx context.Context, ref *authenticationv1.BoundObjectReference, account string, spec *authn.TokenSpec) error {
	if ref == nil {
		return nil
	}
	var bound metav1.Object
	switch ref.APIVersion + "/" + ref.Kind {
	case "v1/Pod", "/Pod":
		pod, err := get[*corev1.Pod](ctx, t.c.Pods, ref.Name)
		if err != nil {
			return err
		}
		if pod.Spec.ServiceAccountName != account {
			return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token for serviceaccount %q to pod running with different serviceaccount name.", account))
		}
		spec.Pod, bound = &authn.Ref{Name: pod.Name, UID: string(pod.UID)}, pod
		if pod.Spec.NodeName != "" {
			node, err := get[*corev1.Node](ctx, t.c.Nodes, pod.Spec.NodeName)
			switch {
			case err == nil:
				spec.Node = &authn.Ref{Name: node.Name, UID: string(node.UID)}
			case apierrors.IsNotFound(err): // the pod outlives its node for a while
				spec.Node = &authn.Ref{Name: pod.Spec.NodeName}
			default:
				return err
			}
		}
	case "v1/Secret", "/Secret":
		secret, err := get[*corev1.Secret](ctx, t.c.Secrets, ref.Name)
		if err != nil {
			return err
		}
		spec.Secret, bound = &authn.Ref{Name: secret.Name, UID: string(secret.UID)}, secret
	case "v1/Node", "/Node":
		node, err := get[*corev1.Node](ctx, t.c.Nodes, ref.Name)
		if err != nil {
			return err
		}
		spec.Node, bound = &authn.Ref{Name: node.Name, UID: string(node.UID)}, node
	default:
		return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token to object of type %s, Kind=%s: use v1 Pod, Secret or Node", ref.APIVersion, ref.Kind))
	}
	if ref.UID != "" && ref.UID != bound.GetUID() {
		return apierrors.NewConflict(schema.GroupResource{Resource: ref.Kind}, ref.Name,
			fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID))
	}
	return nil
}

func get[T runtime.Object](ctx context.Context, from Getter, name string) (T, error) {
	var none T
	obj, err := from.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return none, err
	}
	typed, ok := obj.(T)
	if !ok {
		return none, fmt.Errorf("look up %q: got a %T, want a %T", name, obj, none)
	}
	return typed, nil
}

func validateSpec(spec *authenticationv1.TokenRequestSpec) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("spec", "expirationSeconds")
	seconds := *spec.ExpirationSeconds
	if seconds < int64(minLifetime/time.Second) {
		errs = append(errs, field.Invalid(path, seconds, "may not specify a duration less than 10 minutes"))
	}
	if seconds > maxLifetimeSeconds {
		errs = append(errs, field.Invalid(path, seconds, "may not specify a duration larger than 2^32 seconds"))
	}
	for i, a := range spec.Audiences {
		if a == "" {
			errs = append(errs, field.Required(field.NewPath("spec", "audiences").Index(i), "an audience must not be empty"))
		}
	}
	if ref := spec.BoundObjectRef; ref != nil && ref.Name == "" {
		errs = append(errs, field.Required(field.NewPath("spec", "boundObjectRef", "name"), "the name of the bound object"))
	}
	return errs
}
