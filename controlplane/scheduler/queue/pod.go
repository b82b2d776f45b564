package queue

import (
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/kube-scheduler/framework"

	"github.com/reevehq/reeve/controlplane/scheduler/state"
)

// Pod is a pod that waits for a node, with the history of its attempts. The queue owns it while it waits, the scheduling
// loop between Pop and Done.
type Pod struct {
	Info *state.PodInfo
	// Timestamp is when the pod last entered the queue.
	Timestamp time.Time
	// Attempts counts Pops.
	Attempts int
	// Unschedulable counts attempts that found no node; it sets the back-off.
	Unschedulable int
	// Errors counts attempts in a row that failed by an error rather than for want of a node.
	Errors int
	// FirstAttempt is zero until the first Pop.
	FirstAttempt time.Time
	// Rejectors are the plugins that found no node; Pending those that wait for something outside (volumes to come).
	Rejectors, Pending sets.Set[string]
	// Gate is the PreEnqueue plugin that keeps the pod out, or "".
	Gate string

	backoffUntil time.Time
}

var _ framework.QueuedPodInfo = (*Pod)(nil)

func (p *Pod) uid() types.UID                                  { return p.Info.Pod.UID }
func (p *Pod) GetPodInfo() framework.PodInfo                   { return p.Info }
func (p *Pod) GetTimestamp() time.Time                         { return p.Timestamp }
func (p *Pod) GetAttempts() int                                { return p.Attempts }
func (p *Pod) GetBackoffExpiration() time.Time                 { return p.backoffUntil }
func (p *Pod) GetUnschedulableCount() int                      { return p.Unschedulable }
func (p *Pod) GetConsecutiveErrorsCount() int                  { return p.Errors }
func (p *Pod) GetInitialAttemptTimestamp() *time.Time          { return &p.FirstAttempt }
func (p *Pod) GetUnschedulablePlugins() sets.Set[string]       { return p.Rejectors }
func (p *Pod) GetPendingPlugins() sets.Set[string]             { return p.Pending }
func (p *Pod) GetGatingPlugin() string                         { return p.Gate }
func (p *Pod) GetGatingPluginEvents() []framework.ClusterEvent { return nil }

// backoff is how long a pod waits after its last attempt: initial, doubled with every failure, at most limit.
func (p *Pod) backoff(initial, limit time.Duration) time.Duration {
	n := p.Unschedulable
	if p.Errors > 0 {
		n = p.Errors
	}
	if n == 0 {
		return 0
	}
	d := initial
	for i := 1; i < n; i++ {
		if d *= 2; d >= limit {
			return limit
		}
	}
	return min(d, limit)
}
