package allocator

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	networkingclient "k8s.io/client-go/kubernetes/typed/networking/v1"
)

const (
	// DefaultCIDRName is the ServiceCIDR of the configured ranges, by upstream's name.
	DefaultCIDRName = "kubernetes"
	// ensureTimeout bounds EnsureDefaultCIDR.
	ensureTimeout = 30 * time.Second
)

// EnsureDefaultCIDR makes the ServiceCIDR object that shows the configured ranges to people, and marks it ready. A
// different one that is there already (from before the ranges were changed) is an error: its addresses are in use.
// Adding the second family to it is allowed.
func EnsureDefaultCIDR(ctx context.Context, client networkingclient.ServiceCIDRInterface, cidrs []netip.Prefix) error {
	ctx, cancel := context.WithTimeout(ctx, ensureTimeout)
	defer cancel()
	var want []string
	for _, c := range cidrs {
		want = append(want, c.String())
	}
	have, err := client.Get(ctx, DefaultCIDRName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		have, err = client.Create(ctx, &networkingv1.ServiceCIDR{
			ObjectMeta: metav1.ObjectMeta{Name: DefaultCIDRName},
			Spec:       networkingv1.ServiceCIDRSpec{CIDRs: want},
		}, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) { // another server
			have, err = client.Get(ctx, DefaultCIDRName, metav1.GetOptions{})
		}
	}
	if err != nil {
		return fmt.Errorf("ensure ServiceCIDR %q: %w", DefaultCIDRName, err)
	}
	if !slices.Equal(have.Spec.CIDRs, want) {
		if len(have.Spec.CIDRs) != 1 || len(want) != 2 || have.Spec.CIDRs[0] != want[0] {
			return fmt.Errorf("ServiceCIDR %q is %v but %v is configured: configure it as it is, or add a ServiceCIDR object for the new range",
				DefaultCIDRName, have.Spec.CIDRs, want)
		}
		next := have.DeepCopy()
		next.Spec.CIDRs = want
		if have, err = client.Update(ctx, next, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("add the second range to ServiceCIDR %q: %w", DefaultCIDRName, err)
		}
	}
	if meta.IsStatusConditionTrue(have.Status.Conditions, networkingv1.ServiceCIDRConditionReady) {
		return nil
	}
	next := have.DeepCopy()
	meta.SetStatusCondition(&next.Status.Conditions, metav1.Condition{
		Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionTrue,
		Reason: "Ready", Message: "Kubernetes Service CIDR is ready",
	})
	if _, err := client.UpdateStatus(ctx, next, metav1.UpdateOptions{}); err != nil && !apierrors.IsConflict(err) {
		return fmt.Errorf("mark ServiceCIDR %q ready: %w", DefaultCIDRName, err)
	}
	return nil
}
