package agent

import (
	"fmt"

	authv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// reviewed says why the token is not good for the audience, as the pod's.
func (s *space) reviewed(token, audience string, p *v1.Pod) error {
	r, err := s.client.AuthenticationV1().TokenReviews().Create(s.ctx(), &authv1.TokenReview{Spec: authv1.TokenReviewSpec{Token: token, Audiences: []string{audience}}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	if !r.Status.Authenticated {
		return fmt.Errorf("%s: %s", audience, r.Status.Error)
	}
	if got := r.Status.User.Extra["authentication.kubernetes.io/pod-uid"]; len(got) != 1 || got[0] != string(p.UID) {
		return fmt.Errorf("%s: the token is for pod %v", audience, got)
	}
	return nil
}
