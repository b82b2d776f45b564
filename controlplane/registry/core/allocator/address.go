package allocator

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
)

const (
	// The labels and manager that upstream gives the IPAddress objects of Services.
	managedBy = "ipallocator.k8s.io"
	// randomTries is how often a random address is tried before every used one is listed.
	randomTries = 8
	// storeTimeout bounds one read or write of the store from a hook.
	storeTimeout = 10 * time.Second
)

// Store is the registry's store of one kind.
type Store interface {
	rest.Getter
	List(ctx context.Context, options *internalversion.ListOptions) (runtime.Object, error)
	Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error)
	rest.GracefulDeleter
}

// addresses allocates cluster addresses as IPAddress objects.
type addresses struct {
	store Store
	// cidrs lists ServiceCIDR objects, the ranges that people add to the configured ones; nil means none.
	cidrs    Store
	defaults []span
	rand     func() *rand.Rand
}

// storeContext is a context for the store of another kind than the request's.
func storeContext(ctx context.Context, resource string) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	ctx = request.WithNamespace(ctx, metav1.NamespaceNone)
	return request.WithRequestInfo(ctx, &request.RequestInfo{
		IsResourceRequest: true, APIGroup: networkingv1.GroupName, APIVersion: "v1", Resource: resource,
	}), cancel
}

// owner names the Service that holds an address.
type owner struct{ namespace, name string }

func (o owner) ref() *networkingv1.ParentReference {
	return &networkingv1.ParentReference{Resource: "services", Namespace: o.namespace, Name: o.name}
}

func (o owner) holds(a *networkingv1.IPAddress) bool {
	r := a.Spec.ParentRef
	return r != nil && r.Group == "" && r.Resource == "services" && r.Namespace == o.namespace && r.Name == o.name
}

func addressObject(a netip.Addr, o owner) *networkingv1.IPAddress {
	return &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{
			Name: a.String(),
			Labels: map[string]string{
				networkingv1.LabelIPAddressFamily: string(familyOf(a)),
				networkingv1.LabelManagedBy:       managedBy,
			},
		},
		Spec: networkingv1.IPAddressSpec{ParentRef: o.ref()},
	}
}

// spans are the ranges of a family: the configured ones, and with all also those that people added.
func (s *addresses) spans(ctx context.Context, family corev1.IPFamily, all bool) ([]span, error) {
	var out []span
	for _, d := range s.defaults {
		if d.family() == family {
			out = append(out, d)
		}
	}
	if !all || s.cidrs == nil {
		return out, nil
	}
	ctx, cancel := storeContext(ctx, "servicecidrs")
	defer cancel()
	obj, err := s.cidrs.List(ctx, &internalversion.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list ServiceCIDRs: %w", err)
	}
	list, ok := obj.(*networkingv1.ServiceCIDRList)
	if !ok {
		return nil, fmt.Errorf("list ServiceCIDRs: got a %T", obj)
	}
	for i := range list.Items {
		c := &list.Items[i]
		if !usable(c) {
			continue
		}
		for _, text := range c.Spec.CIDRs {
			p, err := netip.ParsePrefix(text)
			if err != nil {
				continue // validation keeps these out
			}
			sp, err := newSpan(p.Masked())
			if err == nil && sp.family() == family && !containsSpan(out, sp) {
				out = append(out, sp)
			}
		}
	}
	return out, nil
}

// usable: a range that is going, or declared not ready, gives out nothing more.
func usable(c *networkingv1.ServiceCIDR) bool {
	if c.DeletionTimestamp != nil {
		return false
	}
	for _, cond := range c.Status.Conditions {
		if cond.Type == networkingv1.ServiceCIDRConditionReady && cond.Status == metav1.ConditionFalse {
			return false
		}
	}
	return true
}

func containsSpan(list []span, s span) bool {
	for _, l := range list {
		if l.prefix == s.prefix {
			return true
		}
	}
	return false
}

// allocate takes the address that is asked for. Taking again what the same Service holds succeeds, so that a
// transaction may be tried again; fresh is false then, and it must not be given back on failure.
func (s *addresses) allocate(ctx context.Context, a netip.Addr, o owner, dry bool) (fresh bool, err error) {
	var in *span
	var ranges []netip.Prefix
	for _, all := range []bool{false, true} {
		spans, err := s.spans(ctx, familyOf(a), all)
		if err != nil {
			return false, err
		}
		ranges = ranges[:0]
		for _, sp := range spans {
			ranges = append(ranges, sp.prefix)
			if in == nil && sp.holds(a) {
				in = &sp
			}
		}
		if in != nil {
			break
		}
	}
	if in == nil {
		return false, fmt.Errorf("provided IP is not in the valid range. The range of valid IPs is %s", joinPrefixes(ranges))
	}
	fresh, err = s.take(ctx, a, o, dry)
	if !dry {
		countAddress(in.prefix, scopeStatic, err)
	}
	return fresh, err
}

func joinPrefixes(list []netip.Prefix) string {
	text := ""
	for i, p := range list {
		if i > 0 {
			text += ","
		}
		text += p.String()
	}
	return text
}

// take claims the address by making its object; errTaken when another Service holds it.
func (s *addresses) take(ctx context.Context, a netip.Addr, o owner, dry bool) (fresh bool, err error) {
	sctx, cancel := storeContext(ctx, "ipaddresses")
	defer cancel()
	options := &metav1.CreateOptions{}
	if dry {
		options.DryRun = []string{metav1.DryRunAll}
	}
	_, err = s.store.Create(sctx, addressObject(a, o), nil, options)
	if err == nil || !apierrors.IsAlreadyExists(err) {
		return err == nil, err
	}
	obj, err := s.store.Get(sctx, a.String(), &metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return false, errTaken // released this instant: the caller may come again
	case err != nil:
		return false, fmt.Errorf("look up address %s: %w", a, err)
	}
	if held, ok := obj.(*networkingv1.IPAddress); ok && o.holds(held) {
		return false, nil
	}
	return false, errTaken
}

// allocateNext takes a free address of the family.
func (s *addresses) allocateNext(ctx context.Context, family corev1.IPFamily, o owner, dry bool) (netip.Addr, error) {
	for _, all := range []bool{false, true} {
		spans, err := s.spans(ctx, family, all)
		if err != nil {
			return netip.Addr{}, err
		}
		if all {
			spans = spans[min(len(spans), s.defaultCount(family)):]
		}
		for _, sp := range spans {
			a, err := s.next(ctx, sp, o, dry)
			if !dry {
				countAddress(sp.prefix, scopeDynamic, err)
			}
			if err == nil || !errors.Is(err, errFull) {
				return a, err
			}
		}
	}
	return netip.Addr{}, errFull
}

func (s *addresses) defaultCount(family corev1.IPFamily) (n int) {
	for _, d := range s.defaults {
		if d.family() == family {
			n++
		}
	}
	return n
}

func (s *addresses) next(ctx context.Context, sp span, o owner, dry bool) (netip.Addr, error) {
	r := s.rand()
	for range randomTries {
		a := sp.randomUpper(r)
		switch fresh, err := s.take(ctx, a, o, dry); {
		case err == nil && fresh:
			return a, nil
		case err != nil && !errors.Is(err, errTaken):
			return netip.Addr{}, err
		}
	}
	for range randomTries { // others may be faster once more
		used, err := s.used(ctx)
		if err != nil {
			return netip.Addr{}, err
		}
		a, ok := sp.free(r, func(a netip.Addr) bool { return used[a] })
		if !ok {
			return netip.Addr{}, errFull
		}
		switch fresh, err := s.take(ctx, a, o, dry); {
		case err == nil && fresh:
			return a, nil
		case err != nil && !errors.Is(err, errTaken):
			return netip.Addr{}, err
		}
	}
	return netip.Addr{}, errors.New("addresses are taken faster than they can be found: try again")
}

func (s *addresses) list(ctx context.Context) ([]networkingv1.IPAddress, error) {
	ctx, cancel := storeContext(ctx, "ipaddresses")
	defer cancel()
	obj, err := s.store.List(ctx, &internalversion.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list IPAddresses: %w", err)
	}
	list, ok := obj.(*networkingv1.IPAddressList)
	if !ok {
		return nil, fmt.Errorf("list IPAddresses: got a %T", obj)
	}
	return list.Items, nil
}

func (s *addresses) used(ctx context.Context) (map[netip.Addr]bool, error) {
	items, err := s.list(ctx)
	if err != nil {
		return nil, err
	}
	used := make(map[netip.Addr]bool, len(items))
	for i := range items {
		if a, err := netip.ParseAddr(items[i].Name); err == nil {
			used[a] = true
		}
	}
	return used, nil
}

// release gives the address back if o holds it; it is no error when it does not.
func (s *addresses) release(ctx context.Context, a netip.Addr, o owner) error {
	ctx, cancel := storeContext(context.WithoutCancel(ctx), "ipaddresses")
	defer cancel()
	obj, err := s.store.Get(ctx, a.String(), &metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look up address %s: %w", a, err)
	}
	held, ok := obj.(*networkingv1.IPAddress)
	if !ok || !o.holds(held) {
		return nil
	}
	uid := held.UID
	_, _, err = s.store.Delete(ctx, held.Name, rest.ValidateAllObjectFunc, &metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &uid}})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("release address %s: %w", a, err)
	}
	return nil
}
