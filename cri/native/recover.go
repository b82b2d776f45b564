package native

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs/pkg/errgrpc"

	"github.com/reevehq/reeve/internal/logkey"
	"github.com/reevehq/reeve/internal/logpump"
)

// recover rebuilds the store from containerd's records, its tasks and our files, and removes what no record accounts
// for. It runs before any call is served.
func (r *Runtime) recover(ctx context.Context) error {
	records, err := r.conts.List(ctx, "labels."+labelKind)
	if err != nil {
		return fmt.Errorf("list containerd's containers: %w", err)
	}
	running, err := r.listTasks(ctx)
	if err != nil {
		return err
	}
	var half []*sandbox
	for _, rec := range records {
		switch rec.Labels[labelKind] {
		case kindSandbox:
			s, made, err := r.loadSandbox(rec, running[rec.ID])
			if err != nil {
				return fmt.Errorf("sandbox %q: %w", rec.ID, err)
			}
			r.store.sandboxes[s.id] = s
			if made {
				r.store.names[sandboxName(s.rec.Config.M.Metadata)] = s.id
			} else {
				half = append(half, s)
			}
		case kindContainer:
			c, err := r.loadContainer(rec)
			if err != nil {
				return fmt.Errorf("container %q: %w", rec.ID, err)
			}
			r.store.containers[c.id] = c
			r.store.names[containerName(c.rec.SandboxID, c.rec.Config.M.Metadata)] = c.id
		}
	}
	for _, s := range half {
		r.log.Info("Removing a half-made sandbox", logkey.SandboxID, s.id)
		if err := r.eraseSandbox(ctx, s); err != nil {
			r.log.Error("Could not remove a half-made sandbox", logkey.SandboxID, s.id, logkey.Err, err)
			continue // it stays as not ready, to be removed like any other
		}
		delete(r.store.sandboxes, s.id)
	}
	// What ended while we were away is told once every container has its state: an event carries those of its whole pod.
	var ended []func()
	for _, c := range r.store.containers {
		if tell := r.adoptContainer(ctx, c, running[c.id]); tell != nil {
			ended = append(ended, tell)
		}
	}
	for _, tell := range ended {
		tell()
	}
	r.sweep(ctx)
	r.log.Info("Recovered", "sandboxes", len(r.store.sandboxes), "containers", len(r.store.containers))
	return nil
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

func (r *Runtime) loadSandbox(rec containers.Container, task *tasktypes.Process) (s *sandbox, made bool, err error) {
	s = &sandbox{id: rec.ID, op: newOpLock(), exited: make(chan struct{}), state: sandboxNotReady}
	if err := decodeRecord(rec, &s.rec, &s.rec.Version); err != nil {
		return nil, false, err
	}
	s.created = s.rec.Made
	var net networkRecord
	if made, err = readJSON(filepath.Join(r.sandboxDir(s.id), "network.json"), &net); err != nil {
		return nil, false, err
	}
	s.net.Raw = net.Raw
	for _, ip := range net.IPs {
		if a, err := netip.ParseAddr(ip); err == nil {
			s.net.IPs = append(s.net.IPs, a)
		}
	}
	s.torn = exists(filepath.Join(r.sandboxDir(s.id), "torn"))
	if alive(task) && made && !s.torn {
		s.pid, s.state = task.Pid, sandboxReady
		s.pidfd = r.openPidfd(s.rec.Handler, task.Pid)
	} else {
		close(s.exited)
	}
	return s, made, nil
}

func alive(p *tasktypes.Process) bool {
	return p != nil && (p.Status == tasktypes.Status_RUNNING || p.Status == tasktypes.Status_PAUSED || p.Status == tasktypes.Status_PAUSING || p.Status == tasktypes.Status_CREATED)
}

func (r *Runtime) loadContainer(rec containers.Container) (*container, error) {
	c := &container{id: rec.ID, op: newOpLock(), exited: make(chan struct{})}
	if err := decodeRecord(rec, &c.rec, &c.rec.Version); err != nil {
		return nil, err
	}
	c.created = c.rec.Made
	return c, nil
}

// adoptContainer puts a loaded container into the state that its task and files tell. For one that ended while we were
// away it returns what settles its exit, to be called when all containers are adopted.
func (r *Runtime) adoptContainer(ctx context.Context, c *container, task *tasktypes.Process) (ended func()) {
	dir := r.containerDir(c.id)
	var start startRecord
	var exit exitRecord
	wasStarted, _ := readJSON(filepath.Join(dir, "start.json"), &start)
	hasExit, _ := readJSON(filepath.Join(dir, "exit.json"), &exit)
	c.started = start.At
	switch {
	case hasExit:
		c.state, c.exit = stateExited, exit
		close(c.exited)
		if _, err := r.pump.Finish(ctx, c.id, 0); err != nil {
			r.log.Warn("Could not finish a container's log", logkey.ContainerID, c.id, logkey.Err, err)
		}
		if task != nil {
			if err := r.destroyTask(ctx, c.id); err != nil {
				r.log.Warn("Could not delete an ended task", logkey.ContainerID, c.id, logkey.Err, err)
			}
		}
	case wasStarted && task != nil && task.Status == tasktypes.Status_CREATED, !wasStarted && task != nil:
		// Killed between creating the task and starting it: the caller never heard of it. Back to created.
		if err := r.destroyTask(ctx, c.id); err != nil {
			r.log.Warn("Could not undo a start", logkey.ContainerID, c.id, logkey.Err, err)
		}
		if err := r.pump.Remove(ctx, c.id); err != nil {
			r.log.Warn("Could not close a container's output", logkey.ContainerID, c.id, logkey.Err, err)
		}
		os.Remove(filepath.Join(dir, "start.json"))
		c.state, c.started = stateCreated, time.Time{}
	case alive(task):
		c.state, c.pid = stateRunning, task.Pid
		if s := r.store.sandboxes[c.rec.SandboxID]; s != nil {
			c.pidfd = r.openPidfd(s.rec.Handler, task.Pid)
		}
		if c.started.IsZero() {
			c.started = processStart(task.Pid)
		}
		r.readopt(ctx, c)
	case task != nil: // stopped while we were away
		c.state = stateRunning
		r.readopt(ctx, c)
		return func() { r.onContainerExit(c, exitEvent{code: task.ExitStatus, at: task.ExitedAt.AsTime()}) }
	case wasStarted, // and its task is gone: a reboot, or a shim that was killed
		r.sandboxGone(c):
		c.state = stateRunning
		return func() { r.loseContainer(ctx, c) }
	}
	return nil
}

func (r *Runtime) sandboxGone(c *container) bool {
	s := r.store.sandboxes[c.rec.SandboxID]
	return s == nil || s.state != sandboxReady
}

// loseContainer settles a container whose exit nobody saw.
func (r *Runtime) loseContainer(ctx context.Context, c *container) {
	r.settle(ctx, c, exitRecord{
		Version: recordVersion, Code: codeUnknown, Reason: reasonUnknown, Message: "the container's end was not observed", Started: c.started, At: time.Now(),
	}, false)
}

// readopt takes hold of a running container's output again. A logpump that lost its folder makes new FIFOs in vain, but
// then nothing is worse than before.
func (r *Runtime) readopt(ctx context.Context, c *container) {
	config := c.rec.Config.M
	if err := r.pump.Add(ctx, c.id, c.rec.LogPath, config.Stdin, !config.Tty); err != nil {
		r.log.Warn("Could not take over a container's output", logkey.ContainerID, c.id, logkey.Err, err)
		return
	}
	p := logpump.PathsOf(r.cfg.LogpumpDir, c.id)
	io := taskIO{stdout: p.Stdout}
	if !config.Tty {
		io.stderr = p.Stderr
	}
	if config.Stdin {
		io.stdin = p.Stdin
	}
	if err := r.hold(c, io); err != nil {
		r.log.Warn("Could not hold a container's output", logkey.ContainerID, c.id, logkey.Err, err)
	}
}

// sweep removes folders, snapshots, logpump entries and exec leftovers that belong to no record.
func (r *Runtime) sweep(ctx context.Context) {
	for _, kind := range []string{"sandboxes", "containers"} {
		entries, _ := os.ReadDir(filepath.Join(r.cfg.StateDir, kind))
		for _, e := range entries {
			if r.store.sandboxes[e.Name()] != nil || r.store.containers[e.Name()] != nil {
				continue
			}
			dir := filepath.Join(r.cfg.StateDir, kind, e.Name())
			if err := errors.Join(unmount(filepath.Join(dir, "shm")), os.RemoveAll(dir)); err != nil {
				r.log.Warn("Could not remove a leftover folder", logkey.Path, dir, logkey.Err, err)
			}
		}
	}
	os.RemoveAll(filepath.Join(r.cfg.StateDir, "exec"))
	os.MkdirAll(filepath.Join(r.cfg.StateDir, "exec"), 0o711)
	var orphans []string
	err := r.snaps.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		if r.store.sandboxes[info.Labels[labelSnapshot]] == nil && r.store.containers[info.Labels[labelSnapshot]] == nil {
			orphans = append(orphans, info.Name)
		}
		return nil
	}, "labels."+labelSnapshot)
	if err != nil {
		r.log.Warn("Could not look for leftover snapshots", logkey.Err, err)
	}
	for _, key := range orphans {
		if err := r.removeSnapshot(ctx, key); err != nil {
			r.log.Warn("Could not remove a leftover snapshot", "snapshot", key, logkey.Err, err)
		}
	}
	ids, err := r.pump.List(ctx)
	if err != nil {
		r.log.Warn("Could not ask logpump for its containers", logkey.Err, err)
	}
	for _, id := range ids {
		if c := r.store.containers[id]; c == nil || c.state == stateCreated {
			if err := r.pump.Remove(ctx, id); err != nil {
				r.log.Warn("Could not remove a leftover log stream", logkey.ContainerID, id, logkey.Err, err)
			}
		}
	}
}

// resync compares the store with containerd's tasks and settles the exits that no event told of.
func (r *Runtime) resync(ctx context.Context) error {
	running, err := r.listTasks(ctx)
	if err != nil {
		return err
	}
	r.store.mu.RLock()
	var sandboxes []*sandbox
	var conts []*container
	for _, s := range r.store.sandboxes {
		if s.state == sandboxReady && !alive(running[s.id]) {
			sandboxes = append(sandboxes, s)
		}
	}
	for _, c := range r.store.containers {
		if c.state == stateRunning && !alive(running[c.id]) {
			conts = append(conts, c)
		}
	}
	r.store.mu.RUnlock()
	for _, s := range sandboxes {
		r.onSandboxExit(s)
	}
	for _, c := range conts {
		r.settleMissed(ctx, c, running[c.id])
	}
	return nil
}

// resyncContainer asks for one container's task and settles it if it has ended.
func (r *Runtime) resyncContainer(ctx context.Context, c *container) error {
	p, err := r.getTask(ctx, c.id)
	if err != nil {
		return err
	}
	if !alive(p) {
		r.settleMissed(ctx, c, p)
	}
	return nil
}

func (r *Runtime) settleMissed(ctx context.Context, c *container, p *tasktypes.Process) {
	if p != nil {
		r.onContainerExit(c, exitEvent{code: p.ExitStatus, at: p.ExitedAt.AsTime()})
		return
	}
	r.store.mu.Lock()
	lost := c.state == stateRunning && !c.settling
	c.settling = c.settling || lost
	r.store.mu.Unlock()
	if lost {
		r.loseContainer(ctx, c)
	}
}

// collectNetworks lets the network remove what no sandbox has.
func (r *Runtime) collectNetworks(ctx context.Context) error {
	r.store.mu.RLock()
	keep := make([]string, 0, len(r.store.sandboxes))
	for id, s := range r.store.sandboxes {
		if !s.torn {
			keep = append(keep, id)
		}
	}
	r.store.mu.RUnlock()
	return r.cfg.Network.GC(ctx, keep)
}

// processStart reads when a process began, to a hundredth of a second; the zero time when it cannot.
func processStart(pid uint32) time.Time {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(int(pid)) + "/stat")
	if err != nil {
		return time.Time{}
	}
	i := strings.LastIndexByte(string(stat), ')')
	f := strings.Fields(string(stat[i+1:]))
	up, err := os.ReadFile("/proc/uptime")
	if err != nil || len(f) < 20 {
		return time.Time{}
	}
	ticks, err1 := strconv.ParseFloat(f[19], 64)
	seconds, err2 := strconv.ParseFloat(strings.Fields(string(up))[0], 64)
	if err1 != nil || err2 != nil {
		return time.Time{}
	}
	const hertz = 100 // USER_HZ on every architecture that Go runs on
	return time.Now().Add(-time.Duration((seconds - ticks/hertz) * float64(time.Second)))
}

// syncFile brings a file to disk.
func syncFile(path string) {
	if f, err := os.OpenFile(path, os.O_RDWR, 0); err == nil {
		f.Sync()
		f.Close()
	}
}
