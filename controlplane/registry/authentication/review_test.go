package authentication

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
)

// known is an authenticator of one token, meant for the audiences api and vault.
func known(r *http.Request) (*authenticator.Response, bool, error) {
	if r.Header.Get("Authorization") != "Bearer good" {
		return nil, false, errors.New("bad token")
	}
	wanted, _ := authenticator.AudiencesFrom(r.Context())
	got := wanted.Intersect(authenticator.Audiences{"api", "vault"})
	if len(got) == 0 {
		return nil, false, errors.New("wrong audience")
	}
	return &authenticator.Response{Audiences: got, User: &user.DefaultInfo{Name: "jane", UID: "7", Groups: []string{"g"}, Extra: map[string][]string{"k": {"v"}}}}, true, nil
}

func review(t *testing.T, token string, audiences ...string) (*authenticationv1.TokenReview, error) {
	t.Helper()
	r := NewTokenReview(authenticator.RequestFunc(known), authenticator.Audiences{"api"})
	obj, err := r.Create(t.Context(), &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: audiences}}, nil, &metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	return obj.(*authenticationv1.TokenReview), nil
}

func TestTokenReview(t *testing.T) {
	for name, c := range map[string]struct {
		token     string
		audiences []string
		ok        bool
		granted   []string
	}{
		"good":           {"good", nil, true, []string{"api"}},
		"other audience": {"good", []string{"vault", "x"}, true, []string{"vault"}},
		"no such one":    {"good", []string{"x"}, false, nil},
		"bad":            {"bad", nil, false, nil},
	} {
		r, err := review(t, c.token, c.audiences...)
		if err != nil {
			t.Fatal(err)
		}
		if r.Status.Authenticated != c.ok || !slices.Equal(r.Status.Audiences, c.granted) || (r.Status.Error == "") != c.ok {
			t.Errorf("%s: %+v", name, r.Status)
		}
		if c.ok != (r.Status.User.Username == "jane") {
			t.Errorf("%s: user is %+v", name, r.Status.User)
		}
	}
	if _, err := review(t, ""); !apierrors.IsBadRequest(err) {
		t.Errorf("no token: %v", err)
	}
}

func TestSelfSubjectReview(t *testing.T) {
	ctx := request.WithUser(context.Background(), &user.DefaultInfo{Name: "jane", Groups: []string{"g"}, Extra: map[string][]string{"k": {"v"}}})
	obj, err := NewSelfSubjectReview().Create(ctx, &authenticationv1.SelfSubjectReview{}, nil, &metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	u := obj.(*authenticationv1.SelfSubjectReview).Status.UserInfo
	if u.Username != "jane" || !slices.Equal(u.Groups, []string{"g"}) || !slices.Equal(u.Extra["k"], authenticationv1.ExtraValue{"v"}) {
		t.Errorf("user is %+v", u)
	}
	if _, err := NewSelfSubjectReview().Create(context.Background(), &authenticationv1.SelfSubjectReview{}, nil, &metav1.CreateOptions{}); !apierrors.IsBadRequest(err) {
		t.Errorf("without a user: %v", err)
	}
}
