package volumes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/reevehq/reeve/internal/logkey"
	"github.com/reevehq/reeve/volumes/objects"
)

// Objects gives the ConfigMaps and Secrets that pods name; *objects.Cache is the real one.
type Objects interface {
	Retain(owner types.UID, refs []objects.Ref, changed func())
	ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error)
	Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
}

// Tokens makes service account tokens (the token subresource of a ServiceAccount).
type Tokens interface {
	CreateToken(ctx context.Context, namespace, serviceAccount string, tr *authv1.TokenRequest) (*authv1.TokenRequest, error)
}

// Claims reads what a PersistentVolumeClaim is bound to.
type Claims interface {
	PersistentVolumeClaim(ctx context.Context, namespace, name string) (*corev1.PersistentVolumeClaim, error)
	PersistentVolume(ctx context.Context, name string) (*corev1.PersistentVolume, error)
}

// Config is what a Manager needs. RootDir is required; without Objects, Tokens or Claims (a standalone node) the volumes
// that need them fail with an error that says so.
type Config struct {
	RootDir string // absolute, as /var/lib/kubelet
	Objects Objects
	Tokens  Tokens
	Claims  Claims
	// NodeLabels and NodeAllocatable describe the node, for local volumes' affinity and for resourceFieldRef. Optional.
	NodeLabels      func() map[string]string
	NodeAllocatable func() corev1.ResourceList
	// OnChange hears that something about the pod's volumes changed (set up, failed, gone). It must not block.
	OnChange func(types.UID)
	// OnEvent records an event about the pod (reasons FailedMount, FailedUnmount). Optional.
	OnEvent func(pod *corev1.Pod, eventType, reason, message string)
	Logger  *slog.Logger
}

// Mounted is a volume that is ready.
type Mounted struct {
	// HostPath is what a container's mount is to be bound to. Empty for image volumes.
	HostPath string
	// Image is the reference of an image volume, which the runtime mounts by itself.
	Image *corev1.ImageVolumeSource
	// ReadOnly says that no container may write, whatever its mount says (a claim's readOnly, payload volumes).
	ReadOnly bool
	// Relabel says that the content is this pod's own and may be given its SELinux label.
	Relabel bool
}

// Manager looks after the volumes of all pods. Its methods are safe for concurrent use.
type Manager struct {
	cfg Config
	log *slog.Logger
	m   mounter

	mu     sync.Mutex
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup
	pods   map[types.UID]*podWork
	asking map[asked]bool // looks that have not come back
	tokens *tokenCache
}

// NewManager makes a manager without pods; it touches nothing until it is told of one. Close ends it.
func NewManager(cfg Config) (*Manager, error) {
	if !filepath.IsAbs(cfg.RootDir) {
		return nil, fmt.Errorf("rootDir: %q is not an absolute path", cfg.RootDir)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.OnChange == nil {
		cfg.OnChange = func(types.UID) {}
	}
	if cfg.OnEvent == nil {
		cfg.OnEvent = func(*corev1.Pod, string, string, string) {}
	}
	m := &Manager{cfg: cfg, log: cfg.Logger, m: kernelMounter{}, pods: map[types.UID]*podWork{}, asking: map[asked]bool{}, tokens: newTokenCache(cfg.Tokens)}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	return m, nil
}

// Close ends all volume work and waits for it. Mounts stay: pods go on.
func (m *Manager) Close() {
	m.mu.Lock()
	m.cancel()
	for _, p := range m.pods {
		p.stopTimer()
	}
	m.mu.Unlock()
	m.wg.Wait()
}

// SetPod says that the pod is desired, in this form: fetching what it names and mounting begin at once, in parallel. A
// repeat with changed labels or annotations brings downwardAPI files up to date. Idempotent; never blocks on I/O.
func (m *Manager) SetPod(pod *corev1.Pod) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ctx.Err() != nil {
		return
	}
	p := m.pods[pod.UID]
	switch {
	case p == nil:
		p = newPodWork(m, pod)
		m.pods[pod.UID] = p
	case p.gone:
		return // one-way: a released pod is not desired again
	case sameForVolumes(p.pod, pod):
		p.pod = pod
		return
	}
	p.pod = pod
	if m.cfg.Objects != nil {
		m.cfg.Objects.Retain(pod.UID, objects.OfPod(pod), func() { m.kick(pod.UID) })
	}
	p.kickLocked()
}

// sameForVolumes says whether nothing that volumes show changed: most updates of a pod are of its status.
func sameForVolumes(a, b *corev1.Pod) bool {
	return a == b || a.Generation == b.Generation && maps.Equal(a.Labels, b.Labels) && maps.Equal(a.Annotations, b.Annotations) &&
		len(a.Spec.EphemeralContainers) == len(b.Spec.EphemeralContainers)
}

// ReleasePod says that no container of the pod runs any more and none will: its volumes are unmounted and removed, with
// retries until that worked. Unmounted says when. Idempotent.
func (m *Manager) ReleasePod(uid types.UID) { m.release(uid, false) }

func (m *Manager) release(uid types.UID, orphan bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ctx.Err() != nil {
		return
	}
	p := m.pods[uid]
	if p == nil {
		// Nothing known of it: it may have left folders behind in an earlier life.
		if !m.podDirExists(uid) {
			return
		}
		p = newPodWork(m, &corev1.Pod{})
		p.pod.UID = uid
		p.orphan = orphan
		m.pods[uid] = p
	}
	if p.gone {
		return
	}
	p.gone = true
	if p.abort != nil {
		p.abort()
	}
	if m.cfg.Objects != nil {
		m.cfg.Objects.Retain(uid, nil, nil)
	}
	p.kickLocked()
}

// SetPods is SetPod for every desired pod and ReleasePod for every other. Pods known from their folder on disk only lose
// that whole folder. Call it once all sources of pods have synced and the runtime was asked: a pod that is not listed
// loses its volumes.
func (m *Manager) SetPods(pods []*corev1.Pod) {
	desired := make(map[types.UID]bool, len(pods))
	for _, p := range pods {
		desired[p.UID] = true
		m.SetPod(p)
	}
	m.mu.Lock()
	var gone []types.UID
	for uid := range m.pods {
		if !desired[uid] {
			gone = append(gone, uid)
		}
	}
	m.mu.Unlock()
	for _, uid := range gone {
		m.release(uid, false)
	}
	for _, uid := range m.podsOnDisk() {
		if !desired[uid] {
			m.release(uid, true)
		}
	}
}

// WaitMounted blocks until every volume of the pod is ready, or ctx ends: then the error names the volumes that are not
// and why. A pod that was released or never set is an error at once.
func (m *Manager) WaitMounted(ctx context.Context, uid types.UID) error {
	for {
		m.mu.Lock()
		p := m.pods[uid]
		if p == nil || p.gone {
			m.mu.Unlock()
			return fmt.Errorf("wait for volumes of pod %q: the pod is not desired", uid)
		}
		if p.ready {
			m.mu.Unlock()
			return nil
		}
		changed, err := p.changed, p.errLocked()
		m.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			if err == nil {
				err = ctx.Err()
			}
			return err
		}
	}
}

// Mounts are the pod's ready volumes by name; ok is false until all are ready. The error of the last try comes with it.
func (m *Manager) Mounts(uid types.UID) (vols map[string]Mounted, ok bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.pods[uid]
	if p == nil || p.gone {
		return nil, false, nil
	}
	return maps.Clone(p.mounted), p.ready, p.errLocked()
}

// Unmounted says whether nothing of the pod's volumes is left: a pod may be deleted from the API only then.
func (m *Manager) Unmounted(uid types.UID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p := m.pods[uid]; p != nil {
		return false
	}
	return !m.volumesExist(uid)
}

// WaitUnmounted blocks until Unmounted, or ctx ends. Call it after ReleasePod.
func (m *Manager) WaitUnmounted(ctx context.Context, uid types.UID) error {
	for {
		m.mu.Lock()
		p := m.pods[uid]
		if p == nil {
			m.mu.Unlock()
			return nil
		}
		changed, err := p.changed, p.errLocked()
		m.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		}
	}
}

// PodDir is RootDir/pods/<uid>.
func (m *Manager) PodDir(uid types.UID) string {
	return filepath.Join(m.cfg.RootDir, "pods", string(uid))
}

// RemovePodDir removes PodDir with all that other parts of the agent put there. It refuses while volumes are left.
func (m *Manager) RemovePodDir(uid types.UID) error {
	if !m.Unmounted(uid) {
		return fmt.Errorf("remove folder of pod %q: its volumes are not yet unmounted", uid)
	}
	return removeTree(m.m, m.PodDir(uid))
}

func (m *Manager) kick(uid types.UID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p := m.pods[uid]; p != nil {
		p.kickLocked()
	}
}

func (m *Manager) volumesDir(uid types.UID) string { return filepath.Join(m.PodDir(uid), "volumes") }
func (m *Manager) subpathsDir(uid types.UID) string {
	return filepath.Join(m.PodDir(uid), "volume-subpaths")
}

func (m *Manager) podDirExists(uid types.UID) bool {
	_, err := os.Lstat(m.PodDir(uid))
	return err == nil
}

func (m *Manager) volumesExist(uid types.UID) bool {
	for _, d := range []string{m.volumesDir(uid), m.subpathsDir(uid)} {
		if _, err := os.Lstat(d); err == nil {
			return true
		}
	}
	return false
}

// podsOnDisk are the UIDs that have a folder. An unreadable RootDir is none: nothing is removed by mistake.
func (m *Manager) podsOnDisk() []types.UID {
	ents, err := os.ReadDir(filepath.Join(m.cfg.RootDir, "pods"))
	if err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			m.log.Warn("Pods' folders could not be listed", logkey.Err, err)
		}
		return nil
	}
	var out []types.UID
	for _, e := range ents {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") {
			out = append(out, types.UID(e.Name()))
		}
	}
	slices.Sort(out)
	return out
}

const (
	// passTimeout bounds one attempt to set up a pod's volumes: an object that does not come, a token that is not given.
	passTimeout = 30 * time.Second
	// retryFirst doubles to retryMax between attempts that failed (kubelet's volume operations begin at 500 ms and end at
	// the same 2 min; what fails at first is mostly a cache some milliseconds behind).
	retryFirst = 50 * time.Millisecond
	retryMax   = 2 * time.Minute
)
