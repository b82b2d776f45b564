package resources

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	resourcehelper "k8s.io/component-helpers/resource"

	"github.com/reevehq/reeve/agent/container"
)

// Config of a Manager.
type Config struct {
	Root   string // cgroup under which kubepods lies, "/" for the top
	Driver string // "cgroupfs" or "systemd"
	// Enforce limits kubepods to the node's allocatable CPU shares and memory.
	Enforce bool
	// Allocatable before eviction thresholds: capacity less what is reserved.
	Allocatable  v1.ResourceList
	PodPidsLimit int64
}

// Manager makes and removes pods' cgroups. Safe for concurrent use.
type Manager struct {
	cfg    Config
	tree   *tree
	slices slicer // nil: folders alone

	mu   sync.Mutex
	pods map[types.UID]*v1.Pod // for the Burstable class's shares
	set  map[types.UID]limits  // what was last written
	last int64
}

// New finds the machine's cgroups and makes kubepods and its classes.
func New(cfg Config) (*Manager, error) {
	t, err := findTree()
	if err != nil {
		return nil, err
	}
	m := &Manager{cfg: cfg, tree: t, slices: managed(cfg, t.v2), pods: map[types.UID]*v1.Pod{}, set: map[types.UID]limits{}}
	top := limits{}
	if cfg.Enforce {
		top.shares = container.SharesOf(cfg.Allocatable.Cpu().MilliValue())
		top.memoryBytes = cfg.Allocatable.Memory().Value()
		top.pids = pidsOf(cfg.Allocatable)
	}
	if err := m.make(m.path(), top); err != nil {
		return nil, err
	}
	for _, q := range []v1.PodQOSClass{v1.PodQOSBurstable, v1.PodQOSBestEffort} {
		if err := m.make(m.path(class(q)), limits{shares: container.MinShares}); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func pidsOf(l v1.ResourceList) int64 {
	q, ok := l["pid"]
	if !ok {
		return 0
	}
	return q.Value()
}

// PodsPath is the cgroup of all pods, relative to the mount points.
func (m *Manager) PodsPath() string { return m.path() }

// V2 tells whether the machine runs cgroup v2.
func (m *Manager) V2() bool { return m.tree.v2 }

func class(q v1.PodQOSClass) string {
	switch q {
	case v1.PodQOSBurstable:
		return "burstable"
	case v1.PodQOSBestEffort:
		return "besteffort"
	}
	return ""
}

// path joins the elements below kubepods in the driver's notation: cgroupfs /kubepods/burstable/pod<uid>, systemd
// /kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid>.slice with "-" in a name written "_".
func (m *Manager) path(elems ...string) string {
	all := []string{"kubepods"}
	for _, e := range elems {
		if e != "" {
			all = append(all, e)
		}
	}
	if m.cfg.Driver != "systemd" {
		return path.Join("/", m.cfg.Root, path.Join(all...))
	}
	p, name := path.Join("/", m.cfg.Root), ""
	for _, e := range all {
		e = strings.ReplaceAll(e, "-", "_")
		if name != "" {
			e = name + "-" + e
		}
		name = e
		p = path.Join(p, name+".slice")
	}
	return p
}

// PodPath is the pod's cgroup, relative to the mount points.
func (m *Manager) PodPath(pod *v1.Pod) string {
	return m.path(class(container.QOS(pod)), "pod"+string(pod.UID))
}

// Parent is PodPath as CRI's cgroup_parent wants it: under the systemd driver only the slice's own name.
func (m *Manager) Parent(pod *v1.Pod) string {
	p := m.PodPath(pod)
	if m.cfg.Driver == "systemd" {
		return path.Base(p)
	}
	return p
}

// EnsurePod makes the pod's cgroup with its limits, or brings them to what the pod has now. Idempotent.
func (m *Manager) EnsurePod(pod *v1.Pod) error {
	return m.limit(pod, func(_, now limits) limits { return now })
}

// GrowPod is the first half of a resize: each limit becomes the wider one of what it is and what it is to be.
func (m *Manager) GrowPod(pod *v1.Pod) error { return m.limit(pod, wider) }

// Note tells of a pod whose cgroup an earlier process made, so that its class goes on counting it.
func (m *Manager) Note(pod *v1.Pod) {
	m.mu.Lock()
	m.pods[pod.UID] = pod
	m.mu.Unlock()
}

func (m *Manager) limit(pod *v1.Pod, join func(was, now limits) limits) error {
	m.mu.Lock()
	was, known := m.set[pod.UID]
	m.mu.Unlock()
	now := podLimits(pod, m.cfg.PodPidsLimit)
	if known {
		now = join(was, now)
	}
	write := now
	if known && was.quotaUS > 0 && now.quotaUS == 0 {
		write.quotaUS = -1
	}
	if known && was.memoryBytes > 0 && now.memoryBytes == 0 {
		write.memoryBytes = -1
	}
	if !known || now != was {
		if err := m.make(m.PodPath(pod), write); err != nil {
			return err
		}
	}
	m.mu.Lock()
	m.pods[pod.UID], m.set[pod.UID] = pod, now
	m.mu.Unlock()
	return m.reshare()
}

// wider joins two sets of limits; 0 is no limit.
func wider(a, b limits) limits {
	open := func(x, y int64) int64 {
		if x == 0 || y == 0 {
			return 0
		}
		return max(x, y)
	}
	return limits{shares: max(a.shares, b.shares), quotaUS: open(a.quotaUS, b.quotaUS), memoryBytes: open(a.memoryBytes, b.memoryBytes), pids: open(a.pids, b.pids)}
}

// podLimits: shares by requests; CPU and memory limits only if every container has one.
func podLimits(pod *v1.Pod, pids int64) limits {
	opts := resourcehelper.PodResourcesOptions{}
	req, lim := resourcehelper.PodRequests(pod, opts), resourcehelper.PodLimits(pod, opts)
	l := limits{shares: container.SharesOf(req.Cpu().MilliValue()), pids: pids}
	cpu, mem := true, true
	declared := func(r v1.ResourceList) {
		if r.Cpu().IsZero() {
			cpu = false
		}
		if r.Memory().IsZero() {
			mem = false
		}
	}
	for i := range pod.Spec.Containers {
		declared(pod.Spec.Containers[i].Resources.Limits)
	}
	for i := range pod.Spec.InitContainers {
		declared(pod.Spec.InitContainers[i].Resources.Limits)
	}
	if resourcehelper.IsPodLevelLimitsSet(pod) {
		cpu = cpu || !pod.Spec.Resources.Limits.Cpu().IsZero()
		mem = mem || !pod.Spec.Resources.Limits.Memory().IsZero()
	}
	if cpu {
		l.quotaUS = container.QuotaOf(lim.Cpu().MilliValue())
	}
	if mem {
		l.memoryBytes = lim.Memory().Value()
	}
	return l
}

// RemovePod removes the cgroup of a pod that has no process left. With the pod's class unknown (an orphan) every class is
// tried.
func (m *Manager) RemovePod(uid types.UID) error {
	m.mu.Lock()
	classes := []string{"", "burstable", "besteffort"}
	if p := m.pods[uid]; p != nil {
		classes = []string{class(container.QOS(p))}
	}
	delete(m.pods, uid)
	delete(m.set, uid)
	m.mu.Unlock()
	var errs []error
	for _, c := range classes {
		errs = append(errs, m.remove(m.path(c, "pod"+string(uid))))
	}
	errs = append(errs, m.reshare())
	return errors.Join(errs...)
}

// reshare gives the Burstable class the shares that its pods request together, so that classes compete as their pods
// would.
func (m *Manager) reshare() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var milli int64
	for _, p := range m.pods {
		if container.QOS(p) == v1.PodQOSBurstable {
			req := resourcehelper.PodRequests(p, resourcehelper.PodResourcesOptions{})
			milli += req.Cpu().MilliValue()
		}
	}
	shares := container.SharesOf(milli)
	if shares == m.last {
		return nil
	}
	if err := m.make(m.path("burstable"), limits{shares: shares}); err != nil {
		return fmt.Errorf("share CPU among Burstable pods: %w", err)
	}
	m.last = shares
	return nil
}

// Pods lists the UIDs that have a cgroup.
func (m *Manager) Pods() []types.UID {
	seen := map[types.UID]bool{}
	var out []types.UID
	for _, c := range []string{"", "burstable", "besteffort"} {
		prefix := "pod"
		if m.cfg.Driver == "systemd" {
			prefix = strings.TrimSuffix(path.Base(m.path(c)), ".slice") + "-pod"
		}
		for name := range m.tree.children(m.path(c)) {
			name = strings.TrimSuffix(name, ".slice")
			rest, ok := strings.CutPrefix(name, prefix)
			if !ok || rest == "" {
				continue
			}
			if m.cfg.Driver == "systemd" {
				rest = strings.ReplaceAll(rest, "_", "-")
			}
			if uid := types.UID(rest); !seen[uid] {
				seen[uid] = true
				out = append(out, uid)
			}
		}
	}
	return out
}
