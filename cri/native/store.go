package native

import (
	"os"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/reevehq/reeve/cri/match"
	"github.com/reevehq/reeve/internal/podnet"
)

// store is what is known of sandboxes and containers. mu guards the maps and the fields of their values that are marked
// mutable; it is never held across I/O.
type store struct {
	mu         *sync.RWMutex
	sandboxes  map[string]*sandbox
	containers map[string]*container
	names      map[string]string // reserved name → id
}

func newStore() store {
	return store{mu: &sync.RWMutex{}, sandboxes: map[string]*sandbox{}, containers: map[string]*container{}, names: map[string]string{}}
}

// sandbox is one pod sandbox. With pinned namespaces it is ready before pause runs; pid is zero until then.
//
//	making ──▶ ready ──pause exits, or stop──▶ notReady ──remove──▶ (gone)
//	   └──────fails, and undoing fails too───────▲
type sandbox struct {
	id      string
	rec     sandboxRecord
	created time.Time
	op      opLock
	shim    opLock // held while a task is made or deleted and pause does not run yet; see shim.go
	first   func() // called when the first container has been started; see pauseSoon
	began   chan struct{}
	busy    atomic.Int32 // containers being created or started

	// mutable
	state    sandboxState
	pid      uint32
	net      podnet.Result
	boot     string  // in which it was made
	taskless bool    // pause's task was never asked for
	checked  string  // what the network's CHECK said after the last restart; empty when all was well
	early    uint32  // the last exit that was told before pid was known
	pauser   *pauser // of a pinned sandbox, once it is made
	pidfd    pidfd
	torn     bool          // network, namespaces and mounts are gone
	oomKills uint64        // that the pod's ended containers account for; see outOfMemory
	exited   chan struct{} // closed when pause has ended
}

func newSandbox(id string) *sandbox {
	s := &sandbox{id: id, op: newOpLock(), shim: newOpLock(), exited: make(chan struct{}), began: make(chan struct{})}
	s.first = sync.OnceFunc(func() { close(s.began) })
	return s
}

// pausePending says that pause has yet to be started. The caller holds the store's lock.
func (s *sandbox) pausePending() bool { return s.rec.Pinned && s.state == sandboxReady && s.pid == 0 }

type sandboxState int

const (
	sandboxMaking sandboxState = iota
	sandboxReady
	sandboxNotReady
)

// container is one container.
//
//	created ──▶ starting ──▶ running ──▶ exited ──remove──▶ (gone)
//	   └───────────└──fails: exited with StartError──▲
type container struct {
	id      string
	rec     containerRecord
	created time.Time
	op      opLock

	// mutable
	state    containerState
	pid      uint32
	started  time.Time
	exit     exitRecord
	exited   chan struct{} // closed when state becomes exited
	oom      bool
	early    *exitEvent // an exit seen while starting
	settling bool       // an exit is being settled
	pidfd    pidfd
	taskGone chan struct{} // made when the exit is settled, closed when its task has been deleted
	holds    []*os.File    // our read ends of its output, so that nothing is lost while logpump is away
	layer    layerUsage
	mounts   mountList // from Prepare, until the task exists
}

// layerUsage is what a container's writable layer took when it was last measured.
type layerUsage struct {
	at           time.Time
	took         time.Duration
	size, inodes uint64
}

type containerState int

const (
	stateCreated containerState = iota
	stateStarting
	stateRunning
	stateExited
)

func (s containerState) proto() runtimeapi.ContainerState {
	switch s {
	case stateCreated, stateStarting:
		return runtimeapi.ContainerState_CONTAINER_CREATED
	case stateRunning:
		return runtimeapi.ContainerState_CONTAINER_RUNNING
	}
	return runtimeapi.ContainerState_CONTAINER_EXITED
}

// opLock serialises the life-cycle calls on one object; the channel lets a waiter give up with its context.
type opLock chan struct{}

func newOpLock() opLock { return make(opLock, 1) }

// reserve takes a name, or says who has it.
func (s *store) reserve(name, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if holder, taken := s.names[name]; taken && holder != id {
		return status.Errorf(codes.AlreadyExists, "name %q is reserved by %q", name, holder)
	}
	s.names[name] = id
	return nil
}

// release gives a name back if id has it.
func (s *store) release(name, id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.names[name] == id {
		delete(s.names, name)
	}
}

// sandbox finds by ID or unambiguous prefix.
func (s *store) sandbox(id string) (*sandbox, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return find(s.sandboxes, id, "sandbox")
}

func (s *store) container(id string) (*container, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return find(s.containers, id, "container")
}

func find[T any](m map[string]*T, id, kind string) (*T, error) {
	if v, ok := m[id]; ok {
		return v, nil
	}
	if id == "" {
		return nil, status.Errorf(codes.InvalidArgument, "%s ID is empty", kind)
	}
	var found *T
	for k, v := range m {
		if match.ID(id, k) {
			if found != nil {
				return nil, status.Errorf(codes.InvalidArgument, "%s ID %q is ambiguous", kind, id)
			}
			found = v
		}
	}
	if found == nil {
		return nil, status.Errorf(codes.NotFound, "%s %q not found", kind, id)
	}
	return found, nil
}

// containersOf returns the containers of a sandbox.
func (s *store) containersOf(sandboxID string) []*container {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.containersOfLocked(sandboxID)
}

func (s *store) containersOfLocked(sandboxID string) []*container {
	var out []*container
	for _, c := range s.containers {
		if c.rec.SandboxID == sandboxID {
			out = append(out, c)
		}
	}
	return out
}

func (s *store) closeHolds() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.containers {
		for _, f := range c.holds {
			f.Close()
		}
		c.holds = nil
		c.pidfd.close()
	}
	for _, sb := range s.sandboxes {
		sb.pidfd.close()
	}
}
