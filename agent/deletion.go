package agent

import (
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/reevehq/reeve/agent/podworker"
)

// timestampSlack is how much a deletion timestamp may lag by rounding and by its way here.
const timestampSlack = 2 * time.Second

// deletions are the stops that deletion timestamps ask for. One timestamp asks for one stop, however often it is seen: a
// stop that differs would be taken for a shorter grace, and hooks that run would be run again.
type deletions struct {
	mu    sync.Mutex
	asked map[types.UID]asked
}

type asked struct {
	at    time.Time
	grace time.Duration
	stop  podworker.Stop
}

// of returns the stop of a pod that has a deletion timestamp.
func (d *deletions) of(pod *v1.Pod) podworker.Stop {
	at, grace := pod.DeletionTimestamp.Time, graceOf(pod)
	d.mu.Lock()
	defer d.mu.Unlock()
	if a, ok := d.asked[pod.UID]; ok && a.at.Equal(at) && a.grace == grace {
		return a.stop
	}
	since := at.Add(-grace)
	if late := time.Since(since); late > 0 && late < timestampSlack {
		since = since.Add(late) // the timestamp is cut to seconds; what it cut off is not the pod's loss
	}
	a := asked{at: at, grace: grace, stop: podworker.Stop{Cause: podworker.Deleted, Since: since, Grace: grace}}
	if d.asked == nil {
		d.asked = map[types.UID]asked{}
	}
	d.asked[pod.UID] = a
	return a.stop
}

func (d *deletions) forget(uid types.UID) {
	d.mu.Lock()
	delete(d.asked, uid)
	d.mu.Unlock()
}

// graceOf is the time that a pod has to end.
func graceOf(pod *v1.Pod) time.Duration {
	switch {
	case pod.DeletionGracePeriodSeconds != nil:
		return time.Duration(*pod.DeletionGracePeriodSeconds) * time.Second
	case pod.Spec.TerminationGracePeriodSeconds != nil:
		return time.Duration(*pod.Spec.TerminationGracePeriodSeconds) * time.Second
	}
	return 30 * time.Second
}
