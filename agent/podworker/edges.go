package podworker

import (
	"context"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/reevehq/reeve/agent/podworker/podstate"
)

// Observer looks at one pod in the runtime.
type Observer interface {
	Observe(ctx context.Context, uid types.UID) (podstate.Pod, error)
}

// Runtime carries out what a plan asks for. Every method may be called again after a failure, and an error that is or
// wraps a *Reason becomes the container's waiting reason.
type Runtime interface {
	// CreateSandbox makes the pod's folders, cgroup and sandbox.
	CreateSandbox(ctx context.Context, pod *v1.Pod, attempt uint32) error
	// StopSandbox stops what runs in the sandbox and takes its network down. Unknown IDs are fine.
	StopSandbox(ctx context.Context, pod *v1.Pod, id string) error
	// EnsureImage brings the container's image here, by its pull policy, and returns what to run.
	EnsureImage(ctx context.Context, pod *v1.Pod, c *v1.Container) (Image, error)
	// StartContainer makes and starts one container and runs its postStart hook. tried is the ID of a container that
	// was made though it could not be started.
	StartContainer(ctx context.Context, pod *v1.Pod, state *podstate.Pod, s Start, img Image) (tried string, err error)
	// Resize brings running containers, and the pod's cgroup around them, to the resources in pod.
	Resize(ctx context.Context, pod *v1.Pod, state *podstate.Pod, names []string) error
	// KillContainer runs preStop and stops the container, in k.Grace all in all.
	KillContainer(ctx context.Context, pod *v1.Pod, state *podstate.Pod, k Kill) error
	// Cleanup removes the pod's containers, sandboxes, cgroup, logs and folders, once nobody wants them.
	Cleanup(ctx context.Context, pod *v1.Pod, state *podstate.Pod) error
	// Settle frees what a finished pod holds while its object stays: its cgroup.
	Settle(ctx context.Context, pod *v1.Pod) error
}

// Image is an image that is here.
type Image struct {
	Ref      string // what the runtime runs: an image ID
	UID      *int64
	Username string
}

// Volumes is the pod's view of the volume manager.
type Volumes interface {
	// WaitMounted returns once every volume of the pod can be mounted into containers.
	WaitMounted(ctx context.Context, pod *v1.Pod) error
	// Release lets go of the pod's volumes and returns once they are gone.
	Release(ctx context.Context, pod *v1.Pod) error
}

// Probes is the pod's view of the prober.
type Probes interface {
	// Set tells what runs; terminating ends startup and liveness probes.
	Set(pod *v1.Pod, state *podstate.Pod, terminating bool)
	Verdict(c *v1.Container, containerID string) Verdict
	Remove(uid types.UID)
}

// Waiting is why a container does not run (core/v1 ContainerStateWaiting).
type Waiting struct{ Reason, Message string }

// Reason is an error that users see in a container's state.
type Reason struct {
	Waiting
	// RetryAfter is how long to leave the container alone; zero means RetryDelay.
	RetryAfter time.Duration
	// OnChange: a ConfigMap or Secret is at fault, and a change of one is worth a try at once.
	OnChange bool
}

func (r *Reason) Error() string { return r.Reason + ": " + r.Message }

// Stage is where a worker stands; it only goes forward.
//
//	Syncing → Stopping → Stopped → Gone
type Stage int

const (
	Syncing  Stage = iota // the pod should run
	Stopping              // its containers are being ended
	Stopped               // nothing of it runs, volumes and network are gone
	Gone                  // nothing of it is left
)

func (s Stage) String() string { return [...]string{"syncing", "stopping", "stopped", "gone"}[s] }

// Report is what a worker knows when it has looked at its pod. Maps are the receiver's to read, not to keep.
type Report struct {
	Pod   *v1.Pod
	State podstate.Pod
	Stage Stage
	Stop  *Stop
	// Done is the phase in which the pod ended by itself; empty if it did not.
	Done v1.PodPhase
	// Waiting by container name; Starting are containers on their way up, postStart hook included.
	Waiting  map[string]Waiting
	Starting map[string]bool
	// Resizing: a container lacks the resources that the pod was allocated; ResizeError is why the last try failed.
	Resizing    bool
	ResizeError string
	// Removed: the sources no longer have the pod.
	Removed bool
}

// Reporter takes reports. It must not block.
type Reporter interface {
	Report(r Report)
}
