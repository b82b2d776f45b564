package allocator

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/util/dryrun"
)

// memory is a stateful fake of a registry store: it keeps names unique, honours dry run and delete preconditions.
type memory[T any, P interface {
	*T
	runtime.Object
	metav1.Object
}] struct {
	mu    sync.Mutex
	items map[string]P
	next  int
	list  func([]T) runtime.Object
	fail  func(verb string) error
}

func (m *memory[T, P]) key(ctx context.Context, name string) string {
	return request.NamespaceValue(ctx) + "/" + name
}

func (m *memory[T, P]) broken(verb string) error {
	if m.fail == nil {
		return nil
	}
	return m.fail(verb)
}

func (m *memory[T, P]) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if o, ok := m.items[m.key(ctx, name)]; ok {
		return o.DeepCopyObject(), nil
	}
	return nil, apierrors.NewNotFound(corev1.Resource("things"), name)
}

func (m *memory[T, P]) List(context.Context, *internalversion.ListOptions) (runtime.Object, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []T
	for _, k := range slices.Sorted(maps.Keys(m.items)) {
		out = append(out, *m.items[k].DeepCopyObject().(P))
	}
	return m.list(out), nil
}

func (m *memory[T, P]) Create(ctx context.Context, obj runtime.Object, _ rest.ValidateObjectFunc, o *metav1.CreateOptions) (runtime.Object, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.broken("create"); err != nil {
		return nil, err
	}
	p := obj.DeepCopyObject().(P)
	k := m.key(ctx, p.GetName())
	if _, ok := m.items[k]; ok {
		return nil, apierrors.NewAlreadyExists(corev1.Resource("things"), p.GetName())
	}
	m.next++
	p.SetUID(types.UID(fmt.Sprint("uid-", m.next)))
	p.SetResourceVersion(strconv.Itoa(m.next))
	if !dryrun.IsDryRun(o.DryRun) {
		m.items[k] = p
	}
	return p.DeepCopyObject(), nil
}

func (m *memory[T, P]) put(p P) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.next++
	p.SetResourceVersion(strconv.Itoa(m.next))
	if p.GetUID() == "" {
		p.SetUID(types.UID(fmt.Sprint("uid-", m.next)))
	}
	m.items[p.GetNamespace()+"/"+p.GetName()] = p.DeepCopyObject().(P)
}

func (m *memory[T, P]) Delete(ctx context.Context, name string, _ rest.ValidateObjectFunc, o *metav1.DeleteOptions) (runtime.Object, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, ok := m.items[m.key(ctx, name)]
	if !ok {
		return nil, false, apierrors.NewNotFound(corev1.Resource("things"), name)
	}
	if o.Preconditions != nil && o.Preconditions.UID != nil && *o.Preconditions.UID != p.GetUID() {
		return nil, false, apierrors.NewConflict(corev1.Resource("things"), name, fmt.Errorf("uid"))
	}
	delete(m.items, m.key(ctx, name))
	return p, true, nil
}

// rangeMemory is a RangeStore in memory.
type rangeMemory struct {
	mu sync.Mutex
	a  corev1.RangeAllocation
}

func (r *rangeMemory) Get(context.Context) (*corev1.RangeAllocation, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.a.DeepCopy(), nil
}

func (r *rangeMemory) Update(_ context.Context, change func(*corev1.RangeAllocation) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := r.a.DeepCopy()
	if err := change(next); err != nil {
		return err
	}
	r.a = *next
	return nil
}

// cluster runs Services through the hooks as the generic store does.
type cluster struct {
	t         *testing.T
	alloc     *Allocator
	services  *memory[corev1.Service, *corev1.Service]
	addresses *memory[networkingv1.IPAddress, *networkingv1.IPAddress]
	cidrs     *memory[networkingv1.ServiceCIDR, *networkingv1.ServiceCIDR]
	ranges    *rangeMemory
}

func newCluster(t *testing.T, cidrs ...string) *cluster {
	t.Helper()
	if len(cidrs) == 0 {
		cidrs = []string{"10.96.0.0/16"}
	}
	c := &cluster{
		t: t,
		services: &memory[corev1.Service, *corev1.Service]{items: map[string]*corev1.Service{},
			list: func(i []corev1.Service) runtime.Object { return &corev1.ServiceList{Items: i} }},
		addresses: &memory[networkingv1.IPAddress, *networkingv1.IPAddress]{items: map[string]*networkingv1.IPAddress{},
			list: func(i []networkingv1.IPAddress) runtime.Object { return &networkingv1.IPAddressList{Items: i} }},
		cidrs: &memory[networkingv1.ServiceCIDR, *networkingv1.ServiceCIDR]{items: map[string]*networkingv1.ServiceCIDR{},
			list: func(i []networkingv1.ServiceCIDR) runtime.Object { return &networkingv1.ServiceCIDRList{Items: i} }},
		ranges: &rangeMemory{},
	}
	var prefixes []netip.Prefix
	for _, p := range cidrs {
		prefixes = append(prefixes, netip.MustParsePrefix(p))
	}
	c.restart(prefixes)
	return c
}

// restart forgets what is only in memory, as a crash does.
func (c *cluster) restart(cidrs []netip.Prefix) {
	c.t.Helper()
	var err error
	c.alloc, err = New(Config{
		CIDRs: cidrs, NodePorts: utilnet.PortRange{Base: 30000, Size: 2768},
		Services: c.services, IPAddresses: c.addresses, ServiceCIDRs: c.cidrs, Ports: c.ranges, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		c.t.Fatal(err)
	}
}

var ns = request.WithNamespace(context.Background(), "shop")

func (c *cluster) create(s *corev1.Service) (*corev1.Service, error) {
	s.Namespace = "shop"
	finish, err := c.alloc.BeginCreate(ns, s, &metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	obj, err := c.services.Create(ns, s, nil, &metav1.CreateOptions{})
	finish(ns, err == nil)
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.Service), nil
}

func (c *cluster) mustCreate(s *corev1.Service) *corev1.Service {
	c.t.Helper()
	out, err := c.create(s)
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

// update changes the stored Service; each of commits says whether that try's transaction goes through.
func (c *cluster) update(name string, change func(*corev1.Service), commits ...bool) (*corev1.Service, error) {
	if len(commits) == 0 {
		commits = []bool{true}
	}
	var stored *corev1.Service
	for _, commit := range commits {
		old, err := c.services.Get(ns, name, nil)
		if err != nil {
			return nil, err
		}
		s := old.DeepCopyObject().(*corev1.Service)
		change(s)
		finish, err := c.alloc.BeginUpdate(ns, s, old, &metav1.UpdateOptions{})
		if err != nil {
			return nil, err
		}
		finish(ns, true) // the generic store says so before it writes
		if !commit {     // somebody else wrote first
			c.services.put(old.(*corev1.Service))
			continue
		}
		c.services.put(s)
		stored = s
	}
	if stored == nil {
		return nil, fmt.Errorf("never committed")
	}
	now, err := c.services.Get(ns, name, nil)
	if err != nil {
		return nil, err
	}
	c.alloc.AfterUpdate(now, &metav1.UpdateOptions{})
	return now.(*corev1.Service), nil
}

func (c *cluster) mustUpdate(name string, change func(*corev1.Service), commits ...bool) *corev1.Service {
	c.t.Helper()
	s, err := c.update(name, change, commits...)
	if err != nil {
		c.t.Fatal(err)
	}
	return s
}

func (c *cluster) delete(name string) {
	c.t.Helper()
	obj, _, err := c.services.Delete(ns, name, nil, &metav1.DeleteOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	c.alloc.AfterDelete(obj, &metav1.DeleteOptions{})
}

// takenAddresses and takenPorts are what the store says is allocated.
func (c *cluster) takenAddresses() []string {
	c.addresses.mu.Lock()
	defer c.addresses.mu.Unlock()
	var out []string
	for _, a := range c.addresses.items {
		out = append(out, a.Name)
	}
	slices.Sort(out)
	return out
}

func (c *cluster) takenPorts() []int32 {
	c.t.Helper()
	n, err := c.alloc.ports.read(context.Background())
	if err != nil {
		c.t.Fatal(err)
	}
	var out []int32
	for i := range c.alloc.ports.r.Size {
		if n.Bit(i) == 1 {
			out = append(out, int32(c.alloc.ports.r.Base+i))
		}
	}
	return out
}

// consistent demands that exactly what the stored Services hold is allocated.
func (c *cluster) consistent() {
	c.t.Helper()
	var want held
	for _, s := range c.services.items {
		want = want.add(heldBy(s))
	}
	var addresses []string
	for _, a := range want.addresses {
		addresses = append(addresses, a.String())
	}
	slices.Sort(addresses)
	slices.Sort(want.ports)
	if got := c.takenAddresses(); !slices.Equal(got, addresses) {
		c.t.Errorf("allocated addresses are %v, services hold %v", got, addresses)
	}
	if got := c.takenPorts(); !slices.Equal(got, want.ports) {
		c.t.Errorf("allocated ports are %v, services hold %v", got, want.ports)
	}
}

func service(name string, typ corev1.ServiceType, ports ...corev1.ServicePort) *corev1.Service {
	if len(ports) == 0 {
		ports = []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}}
	}
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{
		Type: typ, Ports: ports, Selector: map[string]string{"app": name}}}
}
