package probes

import (
	"cmp"
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Config is what a Manager needs from its surroundings. Zero values of optional fields are named below.
type Config struct {
	// Exec runs cmd in the container and answers its exit code and combined output. It must end the command and return
	// an error that matches context.DeadlineExceeded when timeout passes. Required for exec probes.
	Exec func(ctx context.Context, containerID string, cmd []string, timeout time.Duration) (exitCode int, output []byte, err error)
	// OnResult hears of every changed result, from the probe's own goroutine and with no lock held. It must not block.
	OnResult func(Update)
	// OnEvent records an event about a container of the pod (reasons Unhealthy and ProbeWarning). Optional.
	OnEvent func(pod *corev1.Pod, container, eventType, reason, message string)
	// Registerer takes prober_probe_total and its companions. Optional.
	Registerer prometheus.Registerer
	// Logger is optional.
	Logger *slog.Logger
	// UserAgent of HTTP and gRPC probes; "kube-probe/1.36" when empty.
	UserAgent string
}

// PodState is what the caller observed of a pod: where to reach it, and which container instance runs under each name.
type PodState struct {
	// IP is the pod's primary address; for a pod on the host's network, the node's. Empty while unknown: network probes
	// without a host then wait.
	IP string
	// Containers holds the running instances only, by container name. A container that is absent is not running.
	Containers map[string]ContainerState
	// Terminating ends startup and liveness probes; readiness probes go on until the container ends.
	Terminating bool
}

// ContainerState is one running container instance.
type ContainerState struct {
	ID        string
	StartedAt time.Time
}

// Manager runs the probes of all pods. Its methods are safe for concurrent use and do not block on probes.
type Manager struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	prober  prober

	mu      sync.Mutex
	closed  bool
	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	pods    map[types.UID]*podEntry
	results map[resultKey]state
}

type podEntry struct {
	pod     *corev1.Pod
	workers map[workerKey]*worker
	// containers is the running instance under each name, as last told.
	containers map[string]string
}

type workerKey struct {
	container string
	typ       Type
}

// NewManager makes a manager without workers. Close ends it.
func NewManager(cfg Config) *Manager {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.UserAgent == "" {
		cfg.UserAgent = "kube-probe/1.36"
	}
	m := &Manager{
		cfg:     cfg,
		log:     cfg.Logger,
		metrics: newMetrics(cfg.Registerer),
		prober:  newNetProber(cfg),
		pods:    map[types.UID]*podEntry{},
		results: map[resultKey]state{},
	}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	return m
}

// Close ends every worker and waits for them. Results stay readable. SetPod does nothing afterwards.
func (m *Manager) Close() {
	m.mu.Lock()
	m.closed = true
	m.cancel()
	m.mu.Unlock()
	m.wg.Wait()
}

// SetPod tells the manager what runs of a pod now: it starts workers for running containers that have probes, ends those
// of instances that are gone, and forgets the results of replaced instances. Safe to repeat at any rate; a repeat with
// nothing new costs a map look-up a container.
func (m *Manager) SetPod(pod *corev1.Pod, st PodState) {
	var updates []Update
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return
	}
	e := m.pods[pod.UID]
	if e == nil {
		e = &podEntry{workers: map[workerKey]*worker{}, containers: map[string]string{}}
		m.pods[pod.UID] = e
	}
	e.pod = pod
	for c := range probedContainers(pod) {
		now, running := st.Containers[c.Name]
		old := e.containers[c.Name]
		if old != "" && old != now.ID {
			m.endContainerLocked(e, c.Name, old)
			if running {
				// The old instance was replaced; nothing will ask about it again.
				m.forgetLocked(old)
				delete(e.containers, c.Name)
			} else if s, ok := m.results[resultKey{old, Readiness}]; ok && s.Result != Failure {
				// A container that ended is not ready, whatever its probe said last.
				m.results[resultKey{old, Readiness}] = state{Result: Failure, Last: Failure, Probed: true}
				updates = append(updates, m.update(pod, c.Name, old, Readiness, Failure, ""))
			}
		}
		if !running {
			continue
		}
		e.containers[c.Name] = now.ID
		for _, t := range []Type{Startup, Liveness, Readiness} {
			spec := probeOf(c, t)
			if spec == nil {
				continue
			}
			k := workerKey{c.Name, t}
			rk := resultKey{now.ID, t}
			if _, ok := m.results[rk]; !ok {
				m.results[rk] = state{Result: initialResult(t)}
			}
			if st.Terminating && t != Readiness {
				if w := e.workers[k]; w != nil {
					w.stop()
					delete(e.workers, k)
				}
				// Whatever it said, a terminating container is not to be restarted for its probes' sake.
				if s := m.results[rk]; s.Result != Success {
					m.results[rk] = state{Result: Success, Last: Success, Probed: true}
				}
				continue
			}
			w := e.workers[k]
			if w == nil {
				if t == Startup && m.results[rk].Result != Unknown {
					continue // decided, by this process or before it
				}
				if t == Liveness && m.results[rk].Result == Failure {
					continue // decided: the caller restarts the container, and the next instance is asked afresh
				}
				ctx, stop := context.WithCancel(m.ctx)
				w = newWorker(m, pod, c, t, spec, now, st.IP, stop)
				e.workers[k] = w
				m.wg.Go(func() { w.run(ctx) })
			}
			w.setAddress(st.IP)
		}
	}
	m.mu.Unlock()
	m.tell(updates)
}

// RemovePod ends the pod's workers and forgets its results. Idempotent.
func (m *Manager) RemovePod(uid types.UID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.pods[uid]
	if e == nil {
		return
	}
	for _, w := range e.workers {
		w.stop()
	}
	for _, id := range e.containers {
		m.forgetLocked(id)
	}
	delete(m.pods, uid)
	m.metrics.forget(e.pod)
}

// Result is what the probes of this type have established about a container instance; ok is false when the instance is
// not known to have such a probe.
func (m *Manager) Result(containerID string, t Type) (r Result, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, ok := m.results[resultKey{containerID, t}]
	return s.Result, ok
}

// Started and ready of a running container instance, as its status is to say: without a startup probe it has started,
// without a readiness probe it is ready once it has started.
func (m *Manager) ContainerStatus(c *corev1.Container, containerID string) (started, ready bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	started = true
	if c.StartupProbe != nil {
		started = m.results[resultKey{containerID, Startup}].Result == Success
	}
	ready = started
	if ready && c.ReadinessProbe != nil {
		ready = m.results[resultKey{containerID, Readiness}].Result == Success
	}
	return started, ready
}

// Unhealthy says whether a running container instance is to be killed, and for which probe: its liveness or its startup
// probe failed as often as its threshold allows.
func (m *Manager) Unhealthy(containerID string) (t Type, unhealthy bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, t := range []Type{Startup, Liveness} {
		if m.results[resultKey{containerID, t}].Result == Failure {
			return t, true
		}
	}
	return 0, false
}

// Checkpoint is every result and streak as versioned JSON, in a fixed order, for Restore in a later process.
func (m *Manager) Checkpoint() []byte {
	m.mu.Lock()
	c := checkpoint{Version: checkpointVersion, Results: make([]checkpointResult, 0, len(m.results))}
	for k, s := range m.results {
		c.Results = append(c.Results, checkpointResult{k.containerID, k.typ, s.Result, s.Last, s.Run, s.Probed})
	}
	m.mu.Unlock()
	slices.SortFunc(c.Results, func(a, b checkpointResult) int {
		return cmp.Or(cmp.Compare(a.ContainerID, b.ContainerID), cmp.Compare(a.Type, b.Type))
	})
	out, err := json.Marshal(c)
	if err != nil {
		panic(err) // plain strings and numbers
	}
	return out
}

// Restore takes the results of an earlier process, before the first SetPod. Results of containers that are gone are
// forgotten with Retain. An unreadable checkpoint is an error and changes nothing: probing begins afresh.
func (m *Manager) Restore(data []byte) error {
	results, err := decodeCheckpoint(data)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for k, s := range results {
		if _, ok := m.results[k]; !ok {
			m.results[k] = s
		}
	}
	return nil
}

// Seed takes one result that the caller knows from elsewhere (a pod's status in the API), where there is none yet. Like
// Restore it comes before the container's first SetPod.
func (m *Manager) Seed(containerID string, t Type, r Result) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k := resultKey{containerID, t}
	if _, ok := m.results[k]; !ok {
		m.results[k] = state{Result: r, Last: r, Run: 1, Probed: true}
	}
}

// Retain forgets every result whose container is neither kept nor told of by SetPod.
func (m *Manager) Retain(keep func(containerID string) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	told := map[string]bool{}
	for _, e := range m.pods {
		for _, id := range e.containers {
			told[id] = true
		}
	}
	for k := range m.results {
		if !told[k.containerID] && !keep(k.containerID) {
			delete(m.results, k)
		}
	}
}

func (m *Manager) endContainerLocked(e *podEntry, name, containerID string) {
	for k, w := range e.workers {
		if k.container == name && w.container.ID == containerID {
			w.stop()
			delete(e.workers, k)
		}
	}
}

func (m *Manager) forgetLocked(containerID string) {
	for _, t := range []Type{Startup, Liveness, Readiness} {
		delete(m.results, resultKey{containerID, t})
	}
}

// probedContainers are the containers whose probes run: app containers, and init containers that restart always.
func probedContainers(pod *corev1.Pod) func(yield func(*corev1.Container) bool) {
	return func(yield func(*corev1.Container) bool) {
		for i := range pod.Spec.InitContainers {
			c := &pod.Spec.InitContainers[i]
			if c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways {
				continue
			}
			if hasProbe(c) && !yield(c) {
				return
			}
		}
		for i := range pod.Spec.Containers {
			if c := &pod.Spec.Containers[i]; hasProbe(c) && !yield(c) {
				return
			}
		}
	}
}

func hasProbe(c *corev1.Container) bool {
	return c.StartupProbe != nil || c.LivenessProbe != nil || c.ReadinessProbe != nil
}

func probeOf(c *corev1.Container, t Type) *corev1.Probe {
	switch t {
	case Startup:
		return c.StartupProbe
	case Liveness:
		return c.LivenessProbe
	}
	return c.ReadinessProbe
}
