package native

import (
	"context"
	"fmt"
	"sync"

	"github.com/containerd/containerd/api/services/tasks/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs/pkg/errgrpc"
)

// taskView is what a shim says of a task: nil without unknown means that there is none.
type taskView struct {
	task    *tasktypes.Process
	unknown bool // the shim did not answer in time
}

// viewTasks asks each shim by itself, so that one that hangs costs probeTimeout, and is not taken for one that has gone:
// containerd's list leaves out those that do not answer.
func (r *Runtime) viewTasks(ctx context.Context, records []containers.Container) map[string]taskView {
	out := make(map[string]taskView, len(records))
	var mu sync.Mutex
	var wg sync.WaitGroup
	slots := make(chan struct{}, probeParallel)
	for _, rec := range records {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			v := r.viewTask(ctx, rec.ID)
			mu.Lock()
			defer mu.Unlock()
			out[rec.ID] = v
		})
	}
	wg.Wait()
	return out
}

func (r *Runtime) viewTask(ctx context.Context, id string) taskView {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	p, err := r.getTask(ctx, id)
	return taskView{task: p, unknown: err != nil || p != nil && !alive(p) && !ended(p)}
}

// ended says that a shim has told of a task's end. containerd says "unknown", or that it stopped at no time, for one whose
// shim did not answer it soon enough.
func ended(p *tasktypes.Process) bool {
	return p != nil && p.Status == tasktypes.Status_STOPPED && p.ExitedAt != nil && p.ExitedAt.AsTime().Unix() > 0
}

func (r *Runtime) listTasks(ctx context.Context) (map[string]*tasktypes.Process, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := r.tasks.List(ctx, &tasks.ListTasksRequest{})
	if err != nil {
		return nil, fmt.Errorf("list containerd's tasks: %w", errgrpc.ToNative(err))
	}
	out := map[string]*tasktypes.Process{}
	for _, p := range resp.Tasks {
		out[p.ID] = p
	}
	return out, nil
}

func alive(p *tasktypes.Process) bool {
	return p != nil && (p.Status == tasktypes.Status_RUNNING || p.Status == tasktypes.Status_PAUSED || p.Status == tasktypes.Status_PAUSING || p.Status == tasktypes.Status_CREATED)
}
