package allocator

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/reevehq/reeve/internal/logkey"
)

const (
	// repairPeriod is upstream's. While a leak is being watched the next pass comes sooner.
	repairPeriod = 3 * time.Minute
	watchPeriod  = time.Minute
	// repairTimeout bounds a pass.
	repairTimeout = time.Minute
)

// repairState belongs to Run's goroutine.
type repairState struct{ leaks leaks }

// Run repairs at once and then every few minutes, until ctx ends. One Run is enough for all servers, and several do no
// harm.
func (a *Allocator) Run(ctx context.Context) {
	for {
		suspects, err := a.Repair(ctx)
		if err != nil && ctx.Err() == nil {
			a.log.Warn("Could not repair service allocations", logkey.Err, err)
		}
		period := repairPeriod
		if suspects || err != nil {
			period = watchPeriod
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(period):
		}
	}
}

// Repair makes one pass: it takes what Services hold and is not allocated, and takes back what several passes in a row
// saw without a Service. suspects says that leaks are being watched. Not for concurrent use.
func (a *Allocator) Repair(ctx context.Context) (suspects bool, err error) {
	start := time.Now()
	var plan repairs
	var o observed
	defer func() { observeRepair(start, &plan, o, a.addresses.defaults, err) }()
	ctx, cancel := context.WithTimeout(ctx, repairTimeout)
	defer cancel()
	if o, err = a.observe(ctx); err != nil {
		return false, err
	}
	plan = planRepair(o, a.repair.leaks, a.ports.r)
	a.repair.leaks = plan.leaks
	open := a.pending.all() // an update between commit and release holds more than its Service shows
	plan.releasePorts = minus(plan.releasePorts, open.ports)

	var errs []error
	for _, c := range plan.takeAddresses {
		if _, err := a.addresses.take(ctx, c.address, c.owner, false); err != nil {
			errs = append(errs, fmt.Errorf("take address %s for service %q: %w", c.address, c.owner.namespace+"/"+c.owner.name, err))
		}
	}
	for i := range plan.releaseAddresses {
		leaked := &plan.releaseAddresses[i]
		sctx, cancel := storeContext(ctx, "ipaddresses")
		uid := leaked.UID
		_, _, err := a.addresses.store.Delete(sctx, leaked.Name, rest.ValidateAllObjectFunc,
			&metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
		cancel()
		if err != nil {
			errs = append(errs, fmt.Errorf("release leaked address %s: %w", leaked.Name, err))
		}
	}
	for _, p := range plan.takePorts {
		if err := a.ports.allocate(ctx, p, false); err != nil && !errors.Is(err, errPortTaken) {
			errs = append(errs, fmt.Errorf("take node port %d: %w", p, err))
		}
	}
	errs = append(errs, a.ports.release(ctx, plan.releasePorts))

	for _, c := range plan.conflicts {
		a.log.Warn("Service claims an address that another object holds; recreate the service",
			logkey.Service, c.owner.namespace+"/"+c.owner.name, "address", c.address.String())
	}
	for _, c := range plan.twice {
		a.log.Warn("Service claims a node port that another service has; recreate the service",
			logkey.Service, c.owner.namespace+"/"+c.owner.name, "nodePort", c.port)
	}
	if !plan.nothing() {
		a.log.Info("Repaired service allocations",
			"takenAddresses", len(plan.takeAddresses), "releasedAddresses", len(plan.releaseAddresses),
			"takenPorts", len(plan.takePorts), "releasedPorts", len(plan.releasePorts))
	}
	return len(plan.leaks.addresses)+len(plan.leaks.ports) > 0, errors.Join(errs...)
}

func (a *Allocator) observe(ctx context.Context) (observed, error) {
	var o observed
	var err error
	if o.addresses, err = a.addresses.list(ctx); err != nil {
		return o, err
	}
	if o.ports, err = a.ports.read(ctx); err != nil {
		return o, err
	}
	sctx, cancel := context.WithTimeout(request.WithNamespace(ctx, metav1.NamespaceAll), storeTimeout)
	defer cancel()
	obj, err := a.services.List(sctx, &internalversion.ListOptions{})
	if err != nil {
		return o, fmt.Errorf("list services: %w", err)
	}
	list, ok := obj.(*corev1.ServiceList)
	if !ok {
		return o, fmt.Errorf("list services: got a %T", obj)
	}
	o.services = list.Items
	return o, nil
}
