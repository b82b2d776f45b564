package podstate

import (
	"net/netip"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// State is a container's state in the runtime (CRI v1 ContainerState).
//
//	Created → Running → Exited      Unknown: the runtime lost track; treated as Exited with code 137
type State int

const (
	Unknown State = iota
	Created
	Running
	Exited
)

func (s State) String() string {
	switch s {
	case Created:
		return "created"
	case Running:
		return "running"
	case Exited:
		return "exited"
	}
	return "unknown"
}

// Pod is one look at a pod's sandboxes and containers, both newest first.
type Pod struct {
	UID             types.UID
	Namespace, Name string
	Sandboxes       []Sandbox
	Containers      []Container
}

// Sandbox is one pod sandbox. IPs is empty with the host's network.
type Sandbox struct {
	ID          string
	Ready       bool
	Attempt     uint32
	CreatedAt   time.Time
	IPs         []netip.Addr
	HostNetwork bool
}

// Container is one container, alive or dead. RestartCount is the count that it was created with; CrashCount how many
// restarts in a row preceded it without ten good minutes between them (this is what back-off grows by, and it lives in
// the container's annotations so that it survives the agent).
type Container struct {
	ID           string
	Name         string
	SandboxID    string
	State        State
	CreatedAt    time.Time
	StartedAt    time.Time
	FinishedAt   time.Time
	ExitCode     int32
	Reason       string
	Message      string
	Image        string // as the runtime names it
	ImageID      string // digest reference
	Hash         string
	RestartCount int32
	CrashCount   int32
	LogPath      string
	StopSignal   string
	// TerminationMessagePath is the file inside the container; MessagePolicy File or FallbackToLogsOnError.
	TerminationMessagePath   string
	TerminationMessagePolicy string
	// Grace of the pod when the container was created, for orphans.
	TerminationGracePeriod time.Duration
	// User is the identity of the first process, when the runtime tells it.
	UID, GID           int64
	SupplementalGroups []int64
	HasUser            bool
	// Resources as the runtime enforces them; nil when unknown.
	Resources *Resources
	// CreatedWith is what a container asked for that must be restarted to be resized; nil for others.
	CreatedWith *v1.ResourceRequirements
}

// Resources are a container's limits as the runtime reports them. Zero means not set.
type Resources struct {
	CPUShares, CPUQuota, CPUPeriod, MemoryLimitBytes int64
}

// Same tells whether both mean the same limits: runtimes write "none" as 0 or -1, and a period without a quota is nothing.
func (r Resources) Same(other Resources) bool { return r.plain() == other.plain() }

func (r Resources) plain() Resources {
	r.CPUQuota, r.MemoryLimitBytes = max(r.CPUQuota, 0), max(r.MemoryLimitBytes, 0)
	if r.CPUQuota == 0 {
		r.CPUPeriod = 0
	}
	return r
}

// Latest returns the newest container called name.
func (p *Pod) Latest(name string) *Container {
	for i := range p.Containers {
		if p.Containers[i].Name == name {
			return &p.Containers[i]
		}
	}
	return nil
}

// LatestIn returns the newest container called name in the given sandbox.
func (p *Pod) LatestIn(name, sandboxID string) *Container {
	for i := range p.Containers {
		if p.Containers[i].Name == name && p.Containers[i].SandboxID == sandboxID {
			return &p.Containers[i]
		}
	}
	return nil
}

// ByID returns the container with this ID.
func (p *Pod) ByID(id string) *Container {
	for i := range p.Containers {
		if p.Containers[i].ID == id {
			return &p.Containers[i]
		}
	}
	return nil
}

// Previous returns the newest dead container called name other than the one with the given ID.
func (p *Pod) Previous(name, butID string) *Container {
	for i := range p.Containers {
		c := &p.Containers[i]
		if c.Name == name && c.ID != butID && c.State == Exited {
			return c
		}
	}
	return nil
}

// Running lists the containers that run, in no particular order; Created ones are not running.
func (p *Pod) Running() []*Container {
	var out []*Container
	for i := range p.Containers {
		if p.Containers[i].State == Running {
			out = append(out, &p.Containers[i])
		}
	}
	return out
}

// Current returns the newest sandbox, ready or not, and nil if there is none.
func (p *Pod) Current() *Sandbox {
	if len(p.Sandboxes) == 0 {
		return nil
	}
	return &p.Sandboxes[0]
}
