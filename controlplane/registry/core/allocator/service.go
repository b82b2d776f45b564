package allocator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/endpoints/request"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/util/dryrun"

	"github.com/reevehq/reeve/internal/logkey"
)

// Config of an Allocator.
type Config struct {
	// CIDRs are the ranges of cluster addresses, the primary family first; at most one of each family.
	CIDRs []netip.Prefix
	// NodePorts is the range of node ports.
	NodePorts utilnet.PortRange

	// Services, IPAddresses and ServiceCIDRs are the registry's stores; ServiceCIDRs may be nil.
	Services, IPAddresses, ServiceCIDRs Store
	// Ports holds the node-port allocation.
	Ports RangeStore

	Logger *slog.Logger
}

// Allocator gives Services their addresses and ports. Hook it into the Service store with Attach.
type Allocator struct {
	log       *slog.Logger
	services  Store
	addresses *addresses
	ports     *ports
	families  []corev1.IPFamily
	pending   pending
	now       func() time.Time

	repair repairState // Run's own
}

// New checks the ranges.
func New(c Config) (*Allocator, error) {
	if len(c.CIDRs) == 0 || len(c.CIDRs) > 2 {
		return nil, fmt.Errorf("service CIDRs: give one, or one of each IP family, not %d", len(c.CIDRs))
	}
	if c.Services == nil || c.IPAddresses == nil || c.Ports == nil || c.Logger == nil {
		return nil, errors.New("allocator: Services, IPAddresses, Ports and Logger are all needed")
	}
	if c.NodePorts.Size < 1 {
		return nil, errors.New("node-port range is empty: use for example 30000-32767")
	}
	registerMetrics()
	newRand := func() *rand.Rand { return rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())) }
	a := &Allocator{
		log:       c.Logger,
		services:  c.Services,
		addresses: &addresses{store: c.IPAddresses, cidrs: c.ServiceCIDRs, rand: newRand},
		ports:     &ports{store: c.Ports, r: c.NodePorts, rand: newRand},
		now:       time.Now,
	}
	for _, p := range c.CIDRs {
		s, err := newSpan(p)
		if err != nil {
			return nil, err
		}
		if len(a.families) == 1 && a.families[0] == s.family() {
			return nil, fmt.Errorf("service CIDRs %s and %s are of one IP family: give one of each", c.CIDRs[0], p)
		}
		a.families = append(a.families, s.family())
		a.addresses.defaults = append(a.addresses.defaults, s)
	}
	return a, nil
}

// Attach sets the hooks of the Service store. Call it before the store serves and before subresource stores are copied
// from it, or clear the hooks of those copies: they must not allocate.
func (a *Allocator) Attach(store *genericregistry.Store) {
	store.BeginCreate = a.BeginCreate
	store.BeginUpdate = a.BeginUpdate
	store.AfterUpdate = a.AfterUpdate
	store.AfterDelete = a.AfterDelete
}

func nothing(context.Context, bool) {}

// BeginCreate defaults the families and allocates what the Service needs; on failure of the create it is given back.
func (a *Allocator) BeginCreate(ctx context.Context, obj runtime.Object, options *metav1.CreateOptions) (genericregistry.FinishFunc, error) {
	s, ok := obj.(*corev1.Service)
	if !ok {
		return nil, fmt.Errorf("create service: got a %T", obj)
	}
	normalizeAddresses(s, nil)
	dry := options != nil && dryrun.IsDryRun(options.DryRun)
	return a.begin(ctx, s, nil, dry)
}

// BeginUpdate keeps what was allocated, allocates what the Service needs newly, and marks for release what it gives up.
func (a *Allocator) BeginUpdate(ctx context.Context, obj, oldObj runtime.Object, options *metav1.UpdateOptions) (genericregistry.FinishFunc, error) {
	s, ok := obj.(*corev1.Service)
	old, ok2 := oldObj.(*corev1.Service)
	if !ok || !ok2 {
		return nil, fmt.Errorf("update service: got a %T and a %T", obj, oldObj)
	}
	dropTypeFields(s, old)
	normalizeAddresses(s, old)
	keepAllocated(s, old)
	dry := options != nil && dryrun.IsDryRun(options.DryRun)
	return a.begin(ctx, s, old, dry)
}

// begin allocates for s, of which old holds some already, and returns how to end the transaction.
func (a *Allocator) begin(ctx context.Context, s, old *corev1.Service, dry bool) (genericregistry.FinishFunc, error) {
	t := &transaction{a: a, owner: ownerOf(ctx, s), dry: dry}
	if old != nil {
		t.had, t.uid = heldBy(old), old.UID
	}
	// Which of the two fields is meant cannot be known, and allocating would hide that they differ.
	switch ips := s.Spec.ClusterIPs; {
	case len(ips) == 0 || ips[0] == s.Spec.ClusterIP:
	case s.Spec.ClusterIP == "":
		return nil, invalid(s, field.ErrorList{field.Required(field.NewPath("spec", "clusterIP"), "must be set when clusterIPs is set")})
	default:
		return nil, invalid(s, field.ErrorList{field.Invalid(field.NewPath("spec", "clusterIPs"), ips, "first value must match `clusterIP`")})
	}
	if errs := defaultFamilies(s, old, a.families); len(errs) > 0 {
		return nil, invalid(s, errs)
	}
	errs, err := t.fill(ctx, s)
	if err != nil || len(errs) > 0 {
		t.rollback(ctx)
		if err != nil {
			return nil, apierrors.NewInternalError(fmt.Errorf("allocate for service %q: %w", s.Name, err))
		}
		return nil, invalid(s, errs)
	}
	if dry {
		return nothing, nil
	}
	return func(ctx context.Context, success bool) {
		switch {
		case !success:
			t.rollback(ctx)
		case old != nil:
			a.pending.begin(old, t.taken, a.now())
		}
	}, nil
}

func ownerOf(ctx context.Context, s *corev1.Service) owner {
	ns := s.Namespace
	if ns == "" {
		ns = request.NamespaceValue(ctx)
	}
	return owner{ns, s.Name}
}

func invalid(s *corev1.Service, errs field.ErrorList) error {
	return apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Service").GroupKind(), s.Name, errs)
}

// AfterUpdate releases what the stored Service no longer holds.
func (a *Allocator) AfterUpdate(obj runtime.Object, options *metav1.UpdateOptions) {
	s, ok := obj.(*corev1.Service)
	if !ok || options != nil && dryrun.IsDryRun(options.DryRun) {
		return
	}
	a.release(owner{s.Namespace, s.Name}, a.pending.committed(s))
}

// AfterDelete releases everything that the Service held, unless a namesake made meanwhile holds it.
func (a *Allocator) AfterDelete(obj runtime.Object, options *metav1.DeleteOptions) {
	s, ok := obj.(*corev1.Service)
	if !ok || options != nil && dryrun.IsDryRun(options.DryRun) {
		return
	}
	a.pending.forget(s.UID)
	gone := heldBy(s)
	if gone.empty() {
		return
	}
	ctx, cancel := context.WithTimeout(request.WithNamespace(context.Background(), s.Namespace), storeTimeout)
	defer cancel()
	if now, err := a.services.Get(ctx, s.Name, &metav1.GetOptions{}); err == nil {
		if live, ok := now.(*corev1.Service); ok && live.UID != s.UID {
			gone = gone.without(heldBy(live))
		}
	}
	a.release(owner{s.Namespace, s.Name}, gone)
}

// release never fails the request: it is done already, and the repair loop finds what is left.
func (a *Allocator) release(o owner, h held) {
	if h.empty() {
		return
	}
	ctx := context.Background()
	var errs []error
	for _, addr := range h.addresses {
		errs = append(errs, a.addresses.release(ctx, addr, o))
	}
	errs = append(errs, a.ports.release(ctx, h.ports))
	if err := errors.Join(errs...); err != nil {
		a.log.Warn("Could not release what a service held; it will be repaired",
			logkey.Service, o.namespace+"/"+o.name, logkey.Err, err)
	}
}
