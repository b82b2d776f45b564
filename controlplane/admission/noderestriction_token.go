package admission

import (
	"context"
	"fmt"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/component-helpers/storage/ephemeral"
)

// audienceVerb is the verb with which an administrator grants nodes further token audiences.
const audienceVerb = "request-serviceaccounts-token-audience"

// admitToken lets a node ask for tokens only of accounts whose pods run on it, bound to such a pod, for an audience that
// the pod's volumes name.
func (p *nodeRestriction) admitToken(ctx context.Context, a admission.Attributes, self string) error {
	if a.GetOperation() != admission.Create {
		return nil
	}
	request, err := objectOf[*authenticationv1.TokenRequest](a)
	if err != nil {
		return err
	}
	ref := request.Spec.BoundObjectRef
	switch {
	case ref == nil || ref.APIVersion != "v1" || ref.Kind != "Pod" || ref.Name == "":
		return forbid(a, "node requested token not bound to a pod")
	case ref.UID == "":
		return forbid(a, "node requested token with a pod binding without a uid")
	}
	pod, err := p.pod(a, a.GetNamespace(), ref.Name)
	if p.client != nil && (apierrors.IsNotFound(err) || err == nil && (pod.UID != ref.UID || pod.Spec.NodeName != self)) {
		// A node sees its pod's binding as soon as this informer does and asks at once: look again at the source before
		// refusing what is true by now.
		pod, err = p.livePod(ctx, a, ref.Name)
	}
	if err != nil {
		return err
	}
	switch {
	case pod.UID != ref.UID:
		return forbid(a, "the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID)
	case pod.Spec.NodeName != self:
		return forbid(a, "node requested token bound to a pod scheduled on a different node")
	case pod.Spec.ServiceAccountName != a.GetName():
		return forbid(a, "node requested token of service account %q bound to a pod that runs as another", a.GetName())
	}
	return p.audiences(ctx, a, pod, request.Spec.Audiences)
}

// liveTimeout bounds reading a pod past the informer.
const liveTimeout = 5 * time.Second

func (p *nodeRestriction) livePod(ctx context.Context, a admission.Attributes, name string) (*corev1.Pod, error) {
	ctx, cancel := context.WithTimeout(ctx, liveTimeout)
	defer cancel()
	pod, err := p.client.CoreV1().Pods(a.GetNamespace()).Get(ctx, name, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, admission.NewForbidden(a, err)
	}
	return pod, err
}

func (p *nodeRestriction) audiences(ctx context.Context, a admission.Attributes, pod *corev1.Pod, asked []string) error {
	if len(asked) > 1 {
		return forbid(a, "node may only request 0 or 1 audiences")
	}
	audience := "" // The API server's own.
	if len(asked) == 1 {
		audience = asked[0]
	}
	named, err := p.namedByPod(pod, audience)
	if err != nil {
		return forbid(a, "error validating audience %q: %w", audience, err)
	}
	if named {
		return nil
	}
	decision, _, err := p.authz.Authorize(ctx, authorizer.AttributesRecord{
		User: a.GetUserInfo(), Verb: audienceVerb, Namespace: a.GetNamespace(), APIVersion: "v1", Resource: audience,
		Name: a.GetName(), ResourceRequest: true,
	})
	if err != nil {
		return forbid(a, "audience %q not found in pod spec volume, error authorizing %s permission: %w", audience, audienceVerb, err)
	}
	if decision != authorizer.DecisionAllow {
		return forbid(a, "audience %q not found in pod spec volume", audience)
	}
	return nil
}

// namedByPod reports whether a projected token volume, or the CSI driver behind one of the pod's volumes, wants tokens
// for the audience.
func (p *nodeRestriction) namedByPod(pod *corev1.Pod, audience string) (bool, error) {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.Projected != nil {
			for _, s := range v.Projected.Sources {
				if s.ServiceAccountToken != nil && s.ServiceAccountToken.Audience == audience {
					return true, nil
				}
			}
			continue
		}
		driver, err := p.driverOf(pod, v)
		if err != nil {
			return false, err
		}
		if driver == "" {
			continue
		}
		d, err := p.drivers.Get(driver)
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return false, err
		}
		for _, t := range d.Spec.TokenRequests {
			if t.Audience == audience {
				return true, nil
			}
		}
	}
	return false, nil
}

func (p *nodeRestriction) driverOf(pod *corev1.Pod, v *corev1.Volume) (string, error) {
	claim := ""
	switch {
	case v.CSI != nil:
		return v.CSI.Driver, nil
	case v.PersistentVolumeClaim != nil:
		claim = v.PersistentVolumeClaim.ClaimName
	case v.Ephemeral != nil:
		claim = ephemeral.VolumeClaimName(pod, v)
	default:
		return "", nil
	}
	c, err := p.claims.PersistentVolumeClaims(pod.Namespace).Get(claim)
	if err != nil {
		return "", fmt.Errorf("get claim %q of volume %q: %w", claim, v.Name, err)
	}
	if c.Spec.VolumeName == "" {
		return "", nil
	}
	volume, err := p.volumes.Get(c.Spec.VolumeName)
	if err != nil {
		return "", fmt.Errorf("get volume %q of claim %q: %w", c.Spec.VolumeName, claim, err)
	}
	if volume.Spec.CSI == nil {
		return "", nil
	}
	return volume.Spec.CSI.Driver, nil
}
