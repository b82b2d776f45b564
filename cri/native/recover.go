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
	"syscall"
	"time"

	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/containers"

	"github.com/reevehq/reeve/internal/logkey"
	"github.com/reevehq/reeve/internal/logpump"
)

// recover rebuilds the store from containerd's records, its tasks and our files. It runs before any call is served, and
// waits for no shim and no plugin: what they must do, undoing what was half made, happens afterwards in the background,
// under the lock of the sandbox or container that it concerns. run ends with the runtime.
func (r *Runtime) recover(ctx, run context.Context) error {
	records, err := r.conts.List(ctx, "labels."+labelKind)
	if err != nil {
		return fmt.Errorf("list containerd's containers: %w", err)
	}
	views := r.viewTasks(ctx, records)
	var half []*sandbox
	var after []func() // once every object has its state: an event carries those of its whole pod
	for _, rec := range records {
		switch rec.Labels[labelKind] {
		case kindSandbox:
			s, made, err := r.loadSandbox(rec, views[rec.ID])
			if err != nil {
				return fmt.Errorf("sandbox %q: %w", rec.ID, err)
			}
			r.store.sandboxes[s.id] = s
			if made {
				r.store.names[sandboxName(s.rec.Config.M.Metadata)] = s.id
			} else {
				half = append(half, s)
			}
			if s.pausePending() {
				after = append(after, func() { r.pauseSoon(s, true) })
			} else if s.state == sandboxReady && views[s.id].unknown {
				after = append(after, func() { r.verifySandbox(run, s) })
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
		after = append(after, r.undoSandbox(run, s))
	}
	for _, c := range r.store.containers {
		if then := r.adoptContainer(ctx, run, c, views[c.id]); then != nil {
			after = append(after, then)
		}
	}
	r.sweepFolders()
	if err := errors.Join(r.collectSnapshots(ctx), r.collectStreams(ctx)); err != nil {
		r.log.Warn("Could not remove everything that is left over", logkey.Err, err)
	}
	r.log.Info("Recovered", "sandboxes", len(r.store.sandboxes), "containers", len(r.store.containers), "halfMade", len(half))
	for _, then := range after {
		then()
	}
	return nil
}

// background does f, which waits for a shim or a plugin, under an object's lock, again and again until it succeeds or run
// ends. The lock is taken at once, the work begins when begin is called.
func (r *Runtime) background(run context.Context, op opLock, what, key, id string, f func(context.Context) error) (begin func()) {
	op <- struct{}{} // nobody is served yet
	return func() {
		r.wg.Go(func() {
			for wait := undoRetryMin; ; wait = min(2*wait, undoRetryMax) {
				ctx, cancel := context.WithTimeout(run, cleanupTimeout)
				err := f(ctx)
				cancel()
				<-op
				if err == nil || run.Err() != nil {
					return
				}
				r.log.Warn("Could not "+what+", trying again", key, id, logkey.Duration, wait, logkey.Err, err)
				select {
				case <-run.Done():
					return
				case <-time.After(wait):
				}
				select {
				case <-run.Done():
					return
				case op <- struct{}{}:
				}
			}
		})
	}
}

// undoSandbox removes what a killed RunPodSandbox left. Until that has succeeded it is listed as not ready, its name free.
func (r *Runtime) undoSandbox(run context.Context, s *sandbox) (begin func()) {
	return r.background(run, s.op, "remove a half-made sandbox", logkey.SandboxID, s.id, func(ctx context.Context) error {
		r.store.mu.RLock()
		gone := r.store.sandboxes[s.id] != s
		r.store.mu.RUnlock()
		if gone || len(r.store.containersOf(s.id)) > 0 { // with containers it is not half made: a power loss took our note
			return nil
		}
		if err := r.eraseSandbox(ctx, s); err != nil {
			return err
		}
		r.store.mu.Lock()
		delete(r.store.sandboxes, s.id)
		r.store.mu.Unlock()
		r.store.release(sandboxName(s.rec.Config.M.Metadata), s.id)
		r.log.Info("Removed a half-made sandbox", logkey.SandboxID, s.id)
		return nil
	})
}

func (r *Runtime) loadSandbox(rec containers.Container, view taskView) (s *sandbox, made bool, err error) {
	s = newSandbox(rec.ID)
	s.state = sandboxNotReady
	if err := decodeRecord(rec, &s.rec, &s.rec.Version); err != nil {
		return nil, false, err
	}
	s.created, s.oomKills = s.rec.Made, s.rec.OOMKills
	var net networkRecord
	if made, err = readJSON(filepath.Join(r.sandboxDir(s.id), "network.json"), &net); err != nil {
		return nil, false, err
	}
	s.net.Raw, s.boot = net.Raw, net.Boot
	for _, ip := range net.IPs {
		if a, err := netip.ParseAddr(ip); err == nil {
			s.net.IPs = append(s.net.IPs, a)
		}
	}
	s.torn = exists(filepath.Join(r.sandboxDir(s.id), "torn"))
	switch {
	case !made, s.torn, s.rec.Pinned && !r.pinsStand(s, net.Boot):
		close(s.exited)
	case s.rec.Pinned && net.PID == 0 && (view.task == nil || view.task.Status == tasktypes.Status_CREATED):
		s.state = sandboxReady // pause has yet to be started
	case alive(view.task), view.unknown && processAlive(net.PID):
		s.pid, s.state = net.PID, sandboxReady
		if view.task != nil && view.task.Pid != 0 {
			s.pid = view.task.Pid
		}
		s.pidfd = r.openPidfd(s.rec.Handler, s.pid)
	default:
		close(s.exited)
	}
	return s, made, nil
}

func (r *Runtime) loadContainer(rec containers.Container) (*container, error) {
	c := &container{id: rec.ID, op: newOpLock(), exited: make(chan struct{})}
	if err := decodeRecord(rec, &c.rec, &c.rec.Version); err != nil {
		return nil, err
	}
	c.created = c.rec.Made
	return c, nil
}

// adoptContainer puts a loaded container into the state that its task and files tell. What must follow from that, it
// returns, to be called when all containers are adopted.
func (r *Runtime) adoptContainer(ctx, run context.Context, c *container, view taskView) (then func()) {
	dir := r.containerDir(c.id)
	var start startRecord
	var exit exitRecord
	wasStarted, _ := readJSON(filepath.Join(dir, "start.json"), &start)
	hasExit, _ := readJSON(filepath.Join(dir, "exit.json"), &exit)
	c.started = start.At
	task := view.task
	switch {
	case hasExit:
		c.state, c.exit = stateExited, exit
		close(c.exited)
		if s := r.store.sandboxes[c.rec.SandboxID]; s != nil {
			s.oomKills = max(s.oomKills, exit.PodOOMKills)
		}
		return r.background(run, c.op, "clear an ended container's task", logkey.ContainerID, c.id, func(ctx context.Context) error {
			_, err := r.pump.Finish(ctx, c.id, 0)
			if task != nil || view.unknown {
				err = errors.Join(err, r.destroyTask(ctx, c.id))
			}
			return err
		})
	case wasStarted && view.unknown && processAlive(start.PID):
		c.state, c.pid = stateRunning, start.PID
		r.holdProcess(c)
		r.readopt(ctx, c)
		return func() { r.verifyContainer(run, c) }
	case wasStarted && view.unknown: // ended or not, only its shim knows; a stop will find out
		c.state = stateRunning
		r.readopt(ctx, c)
		return func() { r.verifyContainer(run, c) }
	case wasStarted && task != nil && task.Status == tasktypes.Status_CREATED, !wasStarted && (task != nil || view.unknown):
		// Killed between creating the task and starting it: the caller never heard of it. Back to created.
		c.state, c.started = stateCreated, time.Time{}
		return r.background(run, c.op, "undo a start", logkey.ContainerID, c.id, func(ctx context.Context) error {
			if err := errors.Join(r.destroyTask(ctx, c.id), r.pump.Remove(ctx, c.id)); err != nil {
				return err
			}
			err := os.Remove(filepath.Join(dir, "start.json"))
			if errors.Is(err, os.ErrNotExist) {
				err = nil
			}
			return err
		})
	case alive(task):
		c.state, c.pid = stateRunning, task.Pid
		r.holdProcess(c)
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
		return func() { r.loseContainer(c) }
	}
	return nil
}

// holdProcess opens a handle on a container's process; see pidfd.
func (r *Runtime) holdProcess(c *container) {
	if s := r.store.sandboxes[c.rec.SandboxID]; s != nil {
		c.pidfd = r.openPidfd(s.rec.Handler, c.pid)
	}
}

// processAlive says whether a process of that number runs. It is asked of notes made in this very boot or not at all.
func processAlive(pid uint32) bool { return pid > 0 && syscall.Kill(int(pid), 0) == nil }

func (r *Runtime) sandboxGone(c *container) bool {
	s := r.store.sandboxes[c.rec.SandboxID]
	return s == nil || s.state != sandboxReady
}

// loseContainer settles a container whose exit nobody saw. It does not wait.
func (r *Runtime) loseContainer(c *container) {
	r.store.mu.Lock()
	lost := c.state == stateRunning && !c.settling
	c.settling = c.settling || lost
	started := c.started
	r.store.mu.Unlock()
	if !lost {
		return
	}
	r.wg.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
		defer cancel()
		r.settle(ctx, c, exitRecord{
			Version: recordVersion, Code: codeUnknown, Reason: reasonUnknown, Message: "the container's end was not observed", Started: started, At: time.Now(),
		}, false)
	})
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
