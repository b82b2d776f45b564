package podworker

import (
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/reevehq/reeve/agent/podworker/podstate"
)

// Desired is what a pod should be. With Stop set it should end.
type Desired struct {
	Pod  *v1.Pod
	Stop *Stop
	// Figures are what the cgroups of the containers should say, by container name; nil: whatever they say is right.
	Figures map[string]podstate.Resources
}

// Stop asks for the end of a pod. Grace runs from Since; it only ever gets shorter.
type Stop struct {
	Cause Cause
	Since time.Time
	Grace time.Duration
	// Reason and Message become the pod's status; empty for a plain deletion.
	Reason  string
	Message string
}

// Deadline is when patience ends.
func (s *Stop) Deadline() time.Time { return s.Since.Add(s.Grace) }

// Cause says why a pod ends.
type Cause int

const (
	Deleted   Cause = iota // the API or the static folder no longer wants it
	Completed              // its containers are done
	Evicted                // the node needs its resources, or it outlived activeDeadlineSeconds
	Rejected               // the node does not admit it
	Orphaned               // it runs and nobody knows it
)

func (c Cause) String() string {
	return [...]string{"deleted", "completed", "evicted", "rejected", "orphaned"}[c]
}

// Work is what a worker is doing to one container right now.
type Work int

const (
	Idle Work = iota
	Pulling
	Starting
	Killing
)

func (w Work) String() string { return [...]string{"idle", "pulling", "starting", "killing"}[w] }

// Verdict is what the probes say of one running container. Started is true without a startup probe.
type Verdict struct {
	Started        bool
	StartupFailed  bool
	LivenessFailed bool
}

// Observed is what a pod is, and what is under way for it.
type Observed struct {
	State        podstate.Pod
	VolumesReady bool
	NetworkReady bool
	// SandboxBusy: a sandbox is being made or stopped. SandboxRetryAt: the last attempt failed, not before then.
	SandboxBusy    bool
	SandboxRetryAt time.Time
	// SandboxesDown are those that were stopped, network and all.
	SandboxesDown map[string]bool
	// Work, by container name; RetryAt, after a failure; Images, for which containers the image is there and checked.
	Work    map[string]Work
	RetryAt map[string]time.Time
	Images  map[string]bool
	// NextRestart is the restart count for a container of which the runtime has no trace but the API has.
	NextRestart map[string]int32
	// Failed are Created containers whose start was tried and failed: not to be resumed.
	Failed map[string]bool
	// Excused are dead containers, by ID, whose end was no crash: nothing waits for their successors.
	Excused map[string]bool
	// ResizeBusy: the pod's containers are being resized in place.
	ResizeBusy bool
	// Probes, by container ID.
	Probes map[string]Verdict
}

// Start asks for one container. ResumeID names a created container that only needs starting.
type Start struct {
	Name         string
	SandboxID    string
	RestartCount int32
	CrashCount   int32
	ResumeID     string
}

// Kill asks for the end of one container within Grace, preStop included.
type Kill struct {
	Name    string
	ID      string
	Grace   time.Duration
	Reason  KillReason
	Message string
}

// KillReason says why a container is killed.
type KillReason int

const (
	KillStop KillReason = iota
	KillChanged
	KillLiveness
	KillStartup
	KillSandbox
	KillResize
)

func (r KillReason) String() string {
	return [...]string{"stop", "changed", "liveness", "startup", "sandbox", "resize"}[r]
}

// Backoff is a container that waits to be started again.
type Backoff struct {
	Until time.Time
	Delay time.Duration
}

// Actions is what to do next. The zero value means nothing.
type Actions struct {
	CreateSandbox  bool
	SandboxAttempt uint32
	StopSandboxes  []string
	Pull           []string
	Start          []Start
	Kill           []Kill
	// Resize are running containers to resize in place; Resizing those that lack what they were allocated.
	Resize   []string
	Resizing []string
	// Backoff tells which containers wait for their back-off, by name.
	Backoff map[string]Backoff
	// Done: the pod has come to its end by itself, in this phase.
	Done v1.PodPhase
	// Torn: a stopping pod has nothing left in the runtime that runs.
	Torn bool
	// Again is when to plan again even if nothing happens; zero: no need.
	Again time.Time
	// Note is something to tell the user once.
	Note Note
}

// Note is an Event worth a word beyond the actions themselves.
type Note int

const (
	NoNote Note = iota
	NoteSandboxChanged
	NoteNoNetwork
)
