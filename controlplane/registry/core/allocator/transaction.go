package allocator

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/reevehq/reeve/internal/logkey"
)

// transaction allocates for one Service and can give all of it back.
type transaction struct {
	a     *Allocator
	owner owner
	uid   types.UID // of the stored Service, empty for a create
	dry   bool
	had   held // what the stored Service holds already
	taken held // what this transaction has taken newly
	// promised are the ports that a dry run has handed out without taking them.
	promised map[int32]bool
}

// rollback gives back what was taken, whatever became of the request's context.
func (t *transaction) rollback(ctx context.Context) {
	if t.dry || t.taken.empty() {
		return
	}
	ctx = context.WithoutCancel(ctx)
	var errs []error
	for _, addr := range t.taken.addresses {
		errs = append(errs, t.a.addresses.release(ctx, addr, t.owner))
	}
	errs = append(errs, t.a.ports.release(ctx, t.taken.ports))
	if err := errors.Join(errs...); err != nil {
		t.a.log.Warn("Could not give back what a failed request had allocated; it will be repaired",
			logkey.Service, t.owner.namespace+"/"+t.owner.name, logkey.Err, err)
	}
	t.taken = held{}
}

// fill allocates everything that s lacks. The field errors are the caller's mistakes, the error is ours.
func (t *transaction) fill(ctx context.Context, s *corev1.Service) (field.ErrorList, error) {
	var errs field.ErrorList
	if needsClusterIP(s) && !headless(s) {
		e, err := t.fillAddresses(ctx, s)
		if err != nil {
			return nil, err
		}
		errs = append(errs, e...)
	}
	if needsNodePort(s) || s.Spec.Type == corev1.ServiceTypeLoadBalancer {
		e, err := t.fillPorts(ctx, s)
		if err != nil {
			return nil, err
		}
		errs = append(errs, e...)
	}
	if needsHealthPort(s) {
		e, err := t.fillHealthPort(ctx, s)
		if err != nil {
			return nil, err
		}
		errs = append(errs, e...)
	}
	return errs, nil
}

// fillAddresses takes an address for each family, the given one where there is one.
func (t *transaction) fillAddresses(ctx context.Context, s *corev1.Service) (field.ErrorList, error) {
	path := field.NewPath("spec", "clusterIPs")
	list := slices.Clone(s.Spec.ClusterIPs)
	for len(list) < len(s.Spec.IPFamilies) {
		list = append(list, "")
	}
	for i := range list {
		if i >= len(s.Spec.IPFamilies) {
			break // validation says what is wrong
		}
		if list[i] == "" {
			addr, err := t.a.addresses.allocateNext(ctx, s.Spec.IPFamilies[i], t.owner, t.dry)
			if errors.Is(err, errFull) {
				return field.ErrorList{field.Invalid(path, s.Spec.ClusterIPs, "failed to allocate IP: range is full")}, nil
			}
			if err != nil {
				return nil, err
			}
			t.taken.addresses = append(t.taken.addresses, addr)
			list[i] = addr.String()
			continue
		}
		addr, err := netip.ParseAddr(list[i])
		if err != nil || slices.Contains(t.had.addresses, addr) {
			continue // validation, or nothing to do
		}
		if familyOf(addr) != s.Spec.IPFamilies[i] {
			return field.ErrorList{field.Invalid(path.Index(i), list[i], fmt.Sprintf("expected an %s value as indicated by `ipFamilies[%d]`", s.Spec.IPFamilies[i], i))}, nil
		}
		if i < len(t.had.addresses) {
			continue // an address may not be changed: validation says so
		}
		fresh, err := t.a.addresses.allocate(ctx, addr, t.owner, t.dry)
		if err != nil {
			return field.ErrorList{field.Invalid(path, s.Spec.ClusterIPs, fmt.Sprintf("failed to allocate IP %s: %v", addr, err))}, nil
		}
		if fresh {
			t.taken.addresses = append(t.taken.addresses, addr)
		}
	}
	s.Spec.ClusterIPs = list
	if len(list) > 0 {
		s.Spec.ClusterIP = list[0]
	}
	return nil, nil
}

// fillPorts takes the node ports that are named, and random ones for the rest where the type needs them. Ports of
// different protocols with one number share one node port.
func (t *transaction) fillPorts(ctx context.Context, s *corev1.Service) (field.ErrorList, error) {
	mine := map[int32]bool{}
	for _, p := range t.had.ports {
		mine[p] = true
	}
	byPort := map[int32]int32{}
	// Named ones first, so that a random one never takes what the next line asks for.
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		if p.NodePort == 0 {
			continue
		}
		if !mine[p.NodePort] {
			if errs, err := t.takePort(ctx, field.NewPath("spec", "ports").Index(i).Child("nodePort"), p.NodePort); err != nil || len(errs) > 0 {
				return errs, err
			}
			mine[p.NodePort] = true
		}
		if byPort[p.Port] == 0 {
			byPort[p.Port] = p.NodePort
		}
	}
	if !needsNodePort(s) {
		return nil, nil
	}
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		if p.NodePort != 0 {
			continue
		}
		if shared := byPort[p.Port]; shared != 0 && !sameProtocol(s, shared, p.Protocol) {
			p.NodePort = shared
			continue
		}
		n, err := t.nextPort(ctx)
		if errors.Is(err, errFull) {
			return field.ErrorList{field.Invalid(field.NewPath("spec", "ports").Index(i).Child("nodePort"), 0, "failed to allocate a nodePort: range is full")}, nil
		}
		if err != nil {
			return nil, err
		}
		p.NodePort = n
		byPort[p.Port] = n
	}
	return nil, nil
}

// sameProtocol says whether a port with that protocol has the node port already.
func sameProtocol(s *corev1.Service, nodePort int32, protocol corev1.Protocol) bool {
	for _, p := range s.Spec.Ports {
		if p.NodePort == nodePort && p.Protocol == protocol {
			return true
		}
	}
	return false
}

func (t *transaction) fillHealthPort(ctx context.Context, s *corev1.Service) (field.ErrorList, error) {
	path := field.NewPath("spec", "healthCheckNodePort")
	switch n := s.Spec.HealthCheckNodePort; {
	case n == 0:
		got, err := t.nextPort(ctx)
		if errors.Is(err, errFull) {
			return field.ErrorList{field.Invalid(path, 0, "failed to allocate a healthCheckNodePort: range is full")}, nil
		}
		if err != nil {
			return nil, err
		}
		s.Spec.HealthCheckNodePort = got
	case !slices.Contains(t.had.ports, n):
		return t.takePort(ctx, path, n)
	}
	return nil, nil
}

func (t *transaction) takePort(ctx context.Context, path *field.Path, port int32) (field.ErrorList, error) {
	err := t.a.ports.allocate(ctx, port, t.dry)
	if errors.Is(err, errPortTaken) && t.uid != "" && t.a.pending.holds(t.uid, port) {
		return nil, nil // an earlier try of this update took it
	}
	switch {
	case err == nil:
		t.take(port)
		return nil, nil
	case errors.Is(err, errPortTaken) || !t.a.ports.r.Contains(int(port)):
		return field.ErrorList{field.Invalid(path, port, err.Error())}, nil
	}
	return nil, err
}

func (t *transaction) nextPort(ctx context.Context) (int32, error) {
	n, err := t.a.ports.allocateNext(ctx, t.dry, t.promised)
	if err != nil {
		return 0, err
	}
	t.take(n)
	return n, nil
}

func (t *transaction) take(port int32) {
	t.taken.ports = append(t.taken.ports, port)
	if t.dry {
		if t.promised == nil {
			t.promised = map[int32]bool{}
		}
		t.promised[port] = true
	}
}
