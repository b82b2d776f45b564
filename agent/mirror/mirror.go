package mirror

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/workqueue"

	"github.com/reevehq/reeve/agent/container"
	"github.com/reevehq/reeve/internal/logkey"
)

// callTimeout bounds one request.
const callTimeout = 10 * time.Second

// Manager keeps mirrors. Make it with New.
type Manager struct {
	client kubernetes.Interface
	// node returns the node's UID; "" while it is not registered: no mirror can be made then.
	node  func() (name string, uid types.UID)
	log   *slog.Logger
	queue workqueue.TypedRateLimitingInterface[string]

	mu      sync.Mutex
	static  map[string]*v1.Pod // namespace/name →
	mirrors map[string]*v1.Pod
	synced  bool
}

// New returns a manager.
func New(client kubernetes.Interface, node func() (string, types.UID), log *slog.Logger) *Manager {
	return &Manager{client: client, node: node, log: log, static: map[string]*v1.Pod{}, mirrors: map[string]*v1.Pod{},
		queue: workqueue.NewTypedRateLimitingQueueWithConfig(
			workqueue.NewTypedItemExponentialFailureRateLimiter[string](100*time.Millisecond, 5*time.Second),
			workqueue.TypedRateLimitingQueueConfig[string]{Name: "mirror_pods"}),
	}
}

// NodeRegistered tells that the node has a UID now: mirrors can be made.
func (m *Manager) NodeRegistered() {
	m.mu.Lock()
	all := maps.Clone(m.static)
	m.mu.Unlock()
	for k := range all {
		m.queue.Forget(k)
		m.queue.Add(k)
	}
}

func key(p *v1.Pod) string { return p.Namespace + "/" + p.Name }

// SetStatic tells of a static pod, DropStatic that it is gone.
func (m *Manager) SetStatic(p *v1.Pod) {
	m.mu.Lock()
	m.static[key(p)] = p
	m.mu.Unlock()
	m.queue.Add(key(p))
}

// DropStatic tells that a static pod is gone. A pod that has since taken its name stays.
func (m *Manager) DropStatic(p *v1.Pod) {
	m.mu.Lock()
	if s := m.static[key(p)]; s != nil && s.UID == p.UID {
		delete(m.static, key(p))
	}
	m.mu.Unlock()
	m.queue.Add(key(p))
}

// SetMirror tells of a mirror pod as the API has it.
func (m *Manager) SetMirror(p *v1.Pod) {
	m.mu.Lock()
	m.mirrors[key(p)] = p
	m.mu.Unlock()
	m.queue.Add(key(p))
}

// DropMirror tells that the API no longer has it.
func (m *Manager) DropMirror(p *v1.Pod) {
	m.mu.Lock()
	if x := m.mirrors[key(p)]; x != nil && x.UID == p.UID {
		delete(m.mirrors, key(p))
	}
	m.mu.Unlock()
	m.queue.Add(key(p))
}

// Synced tells that all static and mirror pods have been told: mirrors without a static pod may now go.
func (m *Manager) Synced() {
	m.mu.Lock()
	m.synced = true
	all := maps.Clone(m.mirrors)
	m.mu.Unlock()
	for k := range all {
		m.queue.Add(k)
	}
}

// Mirror returns the mirror of a static pod, nil if there is none that fits it.
func (m *Manager) Mirror(static *v1.Pod) *v1.Pod {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.mirrors[key(static)]
	if p == nil || !fits(static, p) {
		return nil
	}
	return p
}

// Static returns the static pod that a mirror stands for, nil if there is none.
func (m *Manager) Static(mirror *v1.Pod) *v1.Pod {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.static[key(mirror)]
}

func fits(static, mirror *v1.Pod) bool {
	return mirror.DeletionTimestamp == nil &&
		mirror.Annotations[container.ConfigMirrorAnnotation] == static.Annotations[container.ConfigHashAnnotation]
}

// Run keeps mirrors until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	go func() {
		<-ctx.Done()
		m.queue.ShutDown()
	}()
	for {
		k, quit := m.queue.Get()
		if quit {
			return nil
		}
		if err := m.sync(ctx, k); err != nil && ctx.Err() == nil {
			m.log.Warn("Failed to keep mirror pod", logkey.Pod, k, logkey.Err, err)
			m.queue.AddRateLimited(k)
		} else {
			m.queue.Forget(k)
		}
		m.queue.Done(k)
	}
}

func (m *Manager) sync(ctx context.Context, k string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	m.mu.Lock()
	static, mirror, synced := m.static[k], m.mirrors[k], m.synced
	m.mu.Unlock()
	if mirror != nil && (static == nil && synced || static != nil && !fits(static, mirror)) {
		zero := int64(0)
		err := m.client.CoreV1().Pods(mirror.Namespace).Delete(ctx, mirror.Name, metav1.DeleteOptions{
			GracePeriodSeconds: &zero, Preconditions: metav1.NewUIDPreconditions(string(mirror.UID))})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return fmt.Errorf("delete mirror pod: %w", err)
		}
		mirror = nil
	}
	if static == nil || mirror != nil {
		return nil
	}
	name, uid := m.node()
	if uid == "" {
		return fmt.Errorf("make mirror pod: node %s is not registered yet", name)
	}
	_, err := m.client.CoreV1().Pods(static.Namespace).Create(ctx, Of(static, name, uid), metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("make mirror pod: %w", err)
	}
	return nil
}

// Of returns the mirror of a static pod: its copy with the annotation, owned by the node.
func Of(static *v1.Pod, node string, nodeUID types.UID) *v1.Pod {
	p := static.DeepCopy()
	p.UID, p.ResourceVersion = "", ""
	p.Annotations[container.ConfigMirrorAnnotation] = static.Annotations[container.ConfigHashAnnotation]
	yes := true
	p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node, UID: nodeUID, Controller: &yes}}
	return p
}
