package node

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/reevehq/reeve/agent/resources"
	"github.com/reevehq/reeve/internal/logkey"
)

const (
	// callTimeout bounds one request to the API server or the runtime.
	callTimeout = 10 * time.Second
	// registerFirst doubles to registerMax between attempts to register.
	registerFirst = 100 * time.Millisecond
	registerMax   = 7 * time.Second
	// notReadyCheck is how often a runtime that is not ready is asked again.
	notReadyCheck = 500 * time.Millisecond
	// lookTimeout is how long a node that was ready may take to find out whether it still is: listing the pods of a runtime
	// behind a socket takes up to seconds on a busy host. lookAgain is how often it asks itself meanwhile.
	lookTimeout = 10 * time.Second
	lookAgain   = 50 * time.Millisecond
	// statusRetry is when a failed report is tried again.
	statusRetry = time.Second
)

// Runtime is what is asked of the container runtime.
type Runtime interface {
	Version(ctx context.Context, apiVersion string) (*runtimeapi.VersionResponse, error)
	Status(ctx context.Context, verbose bool) (*runtimeapi.StatusResponse, error)
	ListImages(ctx context.Context, filter *runtimeapi.ImageFilter) ([]*runtimeapi.Image, error)
}

// Config of a Manager.
type Config struct {
	Client        kubernetes.Interface // nil: standalone, only the runtime is watched
	Runtime       Runtime
	Name          string
	Hostname      string
	IPs           []netip.Addr
	Version       string
	ProviderID    string
	Labels        map[string]string
	Taints        []v1.Taint
	NoRegister    bool
	KubeletPort   int
	Machine       resources.Machine
	Capacity      v1.ResourceList
	Allocatable   v1.ResourceList
	LeaseDuration time.Duration
	Check         time.Duration // how often to look
	Report        time.Duration // how often to write unchanged status
	// Healthy returns what else keeps the node from being ready (the pod lifecycle generator).
	Healthy func() error
	// Pressure returns the node-pressure conditions, nil for none.
	Pressure   func() Pressure
	OnPodCIDRs func([]netip.Prefix)
	// OnRegistered hears of each Node object that is new to the manager.
	OnRegistered   func()
	OnNetwork      func(ready bool)
	OnReady        func()
	NetworkChanged <-chan struct{}
	// Event records an Event about this node. Optional.
	Event  func(eventType, reason, message string)
	Logger *slog.Logger
}

// Pressure says of which resources the node is short.
type Pressure struct{ Memory, Disk, PID bool }

// Manager keeps the Node. Make it with New.
type Manager struct {
	cfg  Config
	log  *slog.Logger
	kick chan struct{}
	// started is when this process began to look.
	started time.Time

	mu         sync.Mutex
	node       *v1.Node // as the watch last showed it
	reported   *v1.NodeStatus
	reportedAt time.Time
	cidrs      []string
	readyOnce  bool
	registered chan struct{}
	images     []v1.ContainerImage
	imagesAt   time.Time
	runtime    string // "containerd://1.6.20"
}

// New returns a manager.
func New(cfg Config) *Manager {
	return &Manager{cfg: cfg, log: cfg.Logger.With(logkey.Node, cfg.Name), kick: make(chan struct{}, 1), started: time.Now(), registered: make(chan struct{})}
}

// Kick makes the manager look at the node's status now.
func (m *Manager) Kick() {
	select {
	case m.kick <- struct{}{}:
	default:
	}
}

// Node returns the Node object as last seen, nil if it has not been. Shared: read only.
func (m *Manager) Node() *v1.Node {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.node
}

// Capacity is what the machine has.
func (m *Manager) Capacity() v1.ResourceList { return m.cfg.Capacity }

// Allocatable is what pods can have, extended resources included.
func (m *Manager) Allocatable() v1.ResourceList { return with(m.cfg.Allocatable, m.extended()) }

// extended are the resources that an operator advertises by writing them to the node's status, as Kubernetes documents:
// theirs to change, and the node's to keep.
func (m *Manager) extended() v1.ResourceList {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := v1.ResourceList{}
	if m.node == nil {
		return out
	}
	for name, q := range m.node.Status.Capacity {
		if _, own := m.cfg.Capacity[name]; !own && strings.Contains(string(name), "/") && !strings.HasPrefix(string(name), v1.ResourceDefaultNamespacePrefix) {
			out[name] = q
		}
	}
	return out
}

// with returns list and what of more it does not have; list itself when that is nothing.
func with(list, more v1.ResourceList) v1.ResourceList {
	if len(more) == 0 {
		return list
	}
	out := maps.Clone(more)
	maps.Copy(out, list)
	return out
}

// RuntimeName is the runtime's name, as in container IDs.
func (m *Manager) RuntimeName(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	v, err := m.cfg.Runtime.Version(ctx, "v1")
	if err != nil {
		return "", fmt.Errorf("ask the runtime's version: %w", err)
	}
	m.mu.Lock()
	m.runtime = v.RuntimeName + "://" + v.RuntimeVersion
	m.mu.Unlock()
	return v.RuntimeName, nil
}

// Run keeps the node until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	if m.cfg.Client != nil {
		wg.Go(func() { m.watch(ctx) })
		wg.Go(func() {
			m.register(ctx)
			wg.Go(func() { m.lease(ctx) })
		})
	}
	m.statusLoop(ctx)
	wg.Wait()
	return nil
}

// register makes the Node object, or takes over the one that is there.
func (m *Manager) register(ctx context.Context) {
	defer close(m.registered)
	defer m.Kick()
	if m.cfg.NoRegister {
		return
	}
	for delay := registerFirst; ; delay = min(delay*2, registerMax) {
		err := m.tryRegister(ctx)
		if err == nil || ctx.Err() != nil {
			return
		}
		m.log.Warn("Failed to register node", logkey.Err, err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(delay):
		}
	}
}

func (m *Manager) tryRegister(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	want := m.object(ctx)
	nodes := m.cfg.Client.CoreV1().Nodes()
	got, err := nodes.Create(ctx, want, metav1.CreateOptions{})
	if err == nil {
		m.log.Info("Registered node")
		m.see(got)
		return nil
	}
	if !apierrors.IsAlreadyExists(err) {
		// An API server that refuses to tell whether the node exists may still show it.
		if got, gerr := nodes.Get(ctx, m.cfg.Name, metav1.GetOptions{}); gerr != nil {
			return fmt.Errorf("create node %q: %w", m.cfg.Name, err)
		} else {
			return m.adopt(ctx, got, want)
		}
	}
	if got, err = nodes.Get(ctx, m.cfg.Name, metav1.GetOptions{}); err != nil {
		return fmt.Errorf("get node %q: %w", m.cfg.Name, err)
	}
	return m.adopt(ctx, got, want)
}

// adopt brings labels and annotations that are the node's own up to date on an existing object.
func (m *Manager) adopt(ctx context.Context, got, want *v1.Node) error {
	next := got.DeepCopy()
	if next.Labels == nil {
		next.Labels = map[string]string{}
	}
	if next.Annotations == nil {
		next.Annotations = map[string]string{}
	}
	maps.Copy(next.Labels, want.Labels)
	maps.Copy(next.Annotations, want.Annotations)
	if next.Spec.ProviderID == "" {
		next.Spec.ProviderID = want.Spec.ProviderID
	}
	if !equality.Semantic.DeepEqual(got, next) {
		updated, err := patchNode(ctx, m.cfg.Client, got, next, "")
		if err != nil {
			return fmt.Errorf("update node %q: %w", m.cfg.Name, err)
		}
		got = updated
	}
	m.log.Info("Took over the registered node")
	m.see(got)
	return nil
}

// see takes in the Node object.
func (m *Manager) see(n *v1.Node) {
	m.mu.Lock()
	fresh := m.node == nil || m.node.UID != n.UID
	m.node = n
	cidrs := n.Spec.PodCIDRs
	if len(cidrs) == 0 && n.Spec.PodCIDR != "" {
		cidrs = []string{n.Spec.PodCIDR}
	}
	changed := len(cidrs) > 0 && !slices.Equal(cidrs, m.cidrs)
	if changed {
		m.cidrs = cidrs
	}
	// While this node was not heard the control plane spoke for it; it takes the word back at once.
	spokenFor := m.reported != nil && contradicts(n.Status.Conditions, m.reported.Conditions)
	if spokenFor {
		m.reported = nil
	}
	m.mu.Unlock()
	if spokenFor {
		m.Kick()
	}
	if fresh && m.cfg.OnRegistered != nil {
		m.cfg.OnRegistered()
	}
	if !changed {
		return
	}
	var prefixes []netip.Prefix
	for _, s := range cidrs {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			m.log.Error("Failed to read pod CIDR of node", logkey.Err, err)
			return
		}
		prefixes = append(prefixes, p)
	}
	m.log.Info("Learnt pod CIDRs", "podCIDRs", cidrs)
	if m.cfg.OnPodCIDRs != nil {
		m.cfg.OnPodCIDRs(prefixes)
	}
	m.Kick()
}

// contradicts tells whether a condition of the node's own stands otherwise than it was reported.
func contradicts(there, reported []v1.NodeCondition) bool {
	for _, r := range reported {
		switch r.Type {
		case v1.NodeReady, v1.NodeMemoryPressure, v1.NodeDiskPressure, v1.NodePIDPressure:
		default:
			continue
		}
		for _, t := range there {
			if t.Type == r.Type && t.Status != r.Status {
				return true
			}
		}
	}
	return false
}

func (m *Manager) watch(ctx context.Context) {
	client := m.cfg.Client
	sel := fields.OneTermEqualSelector("metadata.name", m.cfg.Name).String()
	lw := cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = sel
			return client.CoreV1().Nodes().List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = sel
			return client.CoreV1().Nodes().Watch(ctx, o)
		},
	}, client)
	_, inf := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: lw, ObjectType: &v1.Node{},
		Transform: func(obj any) (any, error) {
			if n, ok := obj.(*v1.Node); ok {
				c := *n
				c.ManagedFields, c.Status.Images = nil, nil
				return &c, nil
			}
			return obj, nil
		},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc: func(obj any) { m.see(obj.(*v1.Node)) },
			UpdateFunc: func(_, obj any) {
				m.see(obj.(*v1.Node))
			},
			DeleteFunc: func(any) {
				// Somebody deleted this node while it lives: it registers again.
				if ctx.Err() == nil && !m.cfg.NoRegister {
					m.log.Warn("Node object was deleted, registering again")
					m.mu.Lock()
					m.node, m.reported, m.cidrs = nil, nil, nil
					m.mu.Unlock()
					if err := m.tryRegister(ctx); err != nil && ctx.Err() == nil {
						m.log.Warn("Failed to register node", logkey.Err, err)
					}
					m.Kick()
				}
			},
		},
	})
	inf.RunWithContext(ctx)
}

// UID returns the node's name and UID, "" while it is not registered.
func (m *Manager) UID() (string, types.UID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.node == nil {
		return m.cfg.Name, ""
	}
	return m.cfg.Name, m.node.UID
}
