package authz

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/retry"
)

const (
	// reconcileTimeout bounds the whole pass: some 140 small writes.
	reconcileTimeout = 2 * time.Minute
	// reconcileWorkers write at once. Each write waits for the disk once, and etcd groups those that wait together.
	reconcileWorkers = 16
)

// Reconcile brings the cluster's roles and bindings up to BootstrapPolicy: what is missing is added, nothing is taken
// away, and objects with rbac.authorization.kubernetes.io/autoupdate=false stay untouched. client must be allowed to
// escalate (system:masters). Safe to repeat and to run on several servers at once.
func Reconcile(ctx context.Context, client kubernetes.Interface, logger *slog.Logger) error {
	ctx, cancel := context.WithTimeout(ctx, reconcileTimeout)
	defer cancel()

	policy := BootstrapPolicy()
	seedAggregates(policy.ClusterRoles)
	if err := ensureNamespaces(ctx, client, policy); err != nil {
		return err
	}
	jobs, err := planReconcile(ctx, client, policy)
	if err != nil {
		return err
	}
	if err := runAll(ctx, jobs); err != nil {
		return fmt.Errorf("write bootstrap policy: %w", err)
	}
	if len(jobs) > 0 {
		logger.Info("Wrote bootstrap policy", "objects", len(jobs))
	} else {
		logger.Debug("Bootstrap policy was up to date")
	}
	return nil
}

type job func(context.Context) error

func ensureNamespaces(ctx context.Context, client kubernetes.Interface, p Policy) error {
	done := map[string]bool{}
	for i := range p.Roles {
		ns := p.Roles[i].Namespace
		if done[ns] {
			continue
		}
		done[ns] = true
		_, err := client.CoreV1().Namespaces().Get(ctx, ns, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			_, err = client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{})
		}
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("create namespace %q: %w", ns, err)
		}
	}
	return nil
}

// planReconcile lists each kind once and returns a job for each object that is missing or lacks something.
func planReconcile(ctx context.Context, client kubernetes.Interface, p Policy) ([]job, error) {
	rbac := client.RbacV1()
	clusterRoles, err := rbac.ClusterRoles().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list ClusterRoles: %w", err)
	}
	clusterRoleBindings, err := rbac.ClusterRoleBindings().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list ClusterRoleBindings: %w", err)
	}
	roles, err := rbac.Roles(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list Roles: %w", err)
	}
	roleBindings, err := rbac.RoleBindings(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list RoleBindings: %w", err)
	}

	var jobs []job
	liveClusterRoles := byKey(clusterRoles.Items)
	for i := range p.ClusterRoles {
		want := &p.ClusterRoles[i]
		api := rbac.ClusterRoles()
		jobs = appendJob(jobs, writer[rbacv1.ClusterRole]{
			name: "ClusterRole " + want.Name, want: want, live: liveClusterRoles["/"+want.Name],
			plan: func(w, l *rbacv1.ClusterRole) (*rbacv1.ClusterRole, bool) { return planClusterRole(w, l), false },
			api:  api,
		})
	}
	liveRoles := byKey(roles.Items)
	for i := range p.Roles {
		want := &p.Roles[i]
		api := rbac.Roles(want.Namespace)
		jobs = appendJob(jobs, writer[rbacv1.Role]{
			name: "Role " + want.Namespace + "/" + want.Name, want: want, live: liveRoles[want.Namespace+"/"+want.Name],
			plan: func(w, l *rbacv1.Role) (*rbacv1.Role, bool) { return planRole(w, l), false },
			api:  api,
		})
	}
	liveClusterRoleBindings := byKey(clusterRoleBindings.Items)
	for i := range p.ClusterRoleBindings {
		want := &p.ClusterRoleBindings[i]
		api := rbac.ClusterRoleBindings()
		jobs = appendJob(jobs, writer[rbacv1.ClusterRoleBinding]{
			name: "ClusterRoleBinding " + want.Name, want: want, live: liveClusterRoleBindings["/"+want.Name],
			plan: planClusterRoleBinding, api: api,
		})
	}
	liveRoleBindings := byKey(roleBindings.Items)
	for i := range p.RoleBindings {
		want := &p.RoleBindings[i]
		api := rbac.RoleBindings(want.Namespace)
		jobs = appendJob(jobs, writer[rbacv1.RoleBinding]{
			name: "RoleBinding " + want.Namespace + "/" + want.Name, want: want, live: liveRoleBindings[want.Namespace+"/"+want.Name],
			plan: planRoleBinding, api: api,
		})
	}
	return jobs, nil
}

func byKey[T any, P interface {
	*T
	metav1.Object
}](items []T) map[string]*T {
	m := make(map[string]*T, len(items))
	for i := range items {
		o := P(&items[i])
		m[o.GetNamespace()+"/"+o.GetName()] = &items[i]
	}
	return m
}

// api is one kind's typed client.
type api[T any] interface {
	Create(context.Context, *T, metav1.CreateOptions) (*T, error)
	Update(context.Context, *T, metav1.UpdateOptions) (*T, error)
	Delete(context.Context, string, metav1.DeleteOptions) error
	Get(context.Context, string, metav1.GetOptions) (*T, error)
}

// writer brings one object up to what is wanted.
type writer[T any] struct {
	name       string
	want, live *T // live is nil when there is none
	plan       func(want, live *T) (next *T, recreate bool)
	api        api[T]
}

func appendJob[T any, P interface {
	*T
	metav1.Object
}](jobs []job, w writer[T]) []job {
	if w.live != nil {
		if next, _ := w.plan(w.want, w.live); next == nil {
			return jobs
		}
	}
	return append(jobs, func(ctx context.Context) error {
		name := P(w.want).GetName()
		live := w.live
		err := retry.OnError(retry.DefaultBackoff, func(err error) bool {
			return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) || apierrors.IsServerTimeout(err)
		}, func() error {
			err := w.write(ctx, name, live)
			if err != nil { // another server was faster: look again
				fresh, getErr := w.api.Get(ctx, name, metav1.GetOptions{})
				switch {
				case apierrors.IsNotFound(getErr):
					live = nil
				case getErr == nil:
					live = fresh
				}
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("write %s: %w", w.name, err)
		}
		return nil
	})
}

func (w writer[T]) write(ctx context.Context, name string, live *T) error {
	if live == nil {
		_, err := w.api.Create(ctx, w.want, metav1.CreateOptions{})
		return err
	}
	next, recreate := w.plan(w.want, live)
	switch {
	case next == nil:
		return nil
	case recreate:
		if err := w.api.Delete(ctx, name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
		_, err := w.api.Create(ctx, next, metav1.CreateOptions{})
		return err
	}
	_, err := w.api.Update(ctx, next, metav1.UpdateOptions{})
	return err
}

// runAll runs every job even when some fail, and returns when all have ended.
func runAll(ctx context.Context, jobs []job) error {
	queue := make(chan job)
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		errs []error
	)
	for range min(reconcileWorkers, len(jobs)) {
		wg.Go(func() {
			for j := range queue {
				if err := j(ctx); err != nil {
					mu.Lock()
					errs = append(errs, err)
					mu.Unlock()
				}
			}
		})
	}
	for _, j := range jobs {
		queue <- j
	}
	close(queue)
	wg.Wait()
	return errors.Join(errs...)
}
