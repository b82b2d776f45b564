package native

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"

	"github.com/reevehq/reeve/cri"
	"github.com/reevehq/reeve/internal/logkey"
)

const (
	// execOutputLimit is where ExecSync stops keeping a stream, as CRI asks; the command goes on.
	execOutputLimit = 16 << 20
	// execDrain is how long an ended exec's output may be held open by processes that it left behind.
	execDrain = 2 * time.Second
	// execKillWait is how long a killed exec may take to be reported as ended.
	execKillWait = 10 * time.Second
)

// ExecSync runs a command and returns its output and, for a non-zero code, an exec.CodeExitError. A command that takes
// longer than timeout (0: none) is killed with everything that it started, and the error is cri.ErrExecTimedOut. Its time
// begins when it has been started: a containerd or a shim that is slow or stands still says nothing about the command, and
// is bounded by ctx.
func (r *Runtime) ExecSync(ctx context.Context, id string, cmd []string, timeout time.Duration) (stdout, stderr []byte, err error) {
	var out, errOut capped
	code, err := r.exec(ctx, execRequest{container: id, cmd: cmd, stdout: &out, stderr: &errOut, timeout: timeout})
	if errors.Is(err, cri.ErrExecTimedOut) {
		return nil, nil, cri.ExecTimeout(cmd, timeout)
	}
	if err != nil {
		return nil, nil, toStatus(err)
	}
	if code != 0 {
		err = utilexec.CodeExitError{Err: fmt.Errorf("command %q exited with %d: %s", strings.Join(cmd, " "), code, errOut.buf), Code: int(code)}
	}
	return out.buf, errOut.buf, err
}

type execRequest struct {
	container      string
	cmd            []string
	stdin          io.Reader
	stdout, stderr io.Writer
	tty            bool
	resize         <-chan remotecommand.TerminalSize
	timeout        time.Duration // from the process's start; 0: none
}

// execution is one exec: a process that containerd knows, in a running container, and the FIFOs to it.
type execution struct {
	*Runtime
	execRequest
	id string // of the process
	io *execIO
}

// exec runs a process in a running container and returns its exit code when it has ended and its output is through. When
// ctx or the process's own time (cri.ErrExecTimedOut) ends first, the process and its descendants are killed.
func (r *Runtime) exec(ctx context.Context, q execRequest) (code uint32, err error) {
	x, err := r.newExecution(ctx, q)
	if err != nil {
		return 0, err
	}
	defer x.remove(ctx)
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	pid, err := r.startExec(ctx, x.container, x.id)
	if err != nil {
		return 0, err
	}
	ended, copied := x.wait(life), x.io.copy(q)
	if q.stdin != nil {
		go x.feed(life)
	}
	if q.resize != nil {
		go x.followSize(life)
	}
	return x.result(ctx, pid, ended, copied)
}

// newExecution makes the FIFOs and tells containerd of the process, which does not run yet.
func (r *Runtime) newExecution(ctx context.Context, q execRequest) (*execution, error) {
	c, err := r.running(q.container)
	if err != nil {
		return nil, err
	}
	if len(q.cmd) == 0 {
		return nil, status.Error(codes.InvalidArgument, "exec: the command is empty")
	}
	q.container = c.id
	proc, err := r.processSpec(ctx, c.id)
	if err != nil {
		return nil, err
	}
	proc.Args, proc.Terminal = q.cmd, q.tty
	if q.tty {
		proc.Env = withTerm(proc.Env)
	}
	anyProc, err := typeurl.MarshalAny(proc)
	if err != nil {
		return nil, err
	}
	x := &execution{Runtime: r, execRequest: q, id: newID()}
	if x.io, err = newExecIO(filepath.Join(r.cfg.StateDir, "exec", x.id[:16]), q); err != nil {
		return nil, err
	}
	f := x.io
	cctx, cancel := context.WithTimeout(ctx, createTimeout)
	defer cancel()
	_, err = r.tasks.Exec(cctx, &tasks.ExecProcessRequest{
		ContainerID: c.id, ExecID: x.id, Terminal: q.tty, Spec: typeurl.MarshalProto(anyProc),
		Stdin: f.path(f.stdin, "stdin"), Stdout: f.path(f.stdout, "stdout"), Stderr: f.path(f.stderr, "stderr"),
	})
	if err != nil {
		f.remove()
		return nil, errgrpc.ToNative(err)
	}
	return x, nil
}

// remove lets containerd forget the process, which has ended or never ran, and removes the FIFOs.
func (x *execution) remove(ctx context.Context) {
	defer x.io.remove()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	_, err := x.tasks.DeleteProcess(ctx, &tasks.DeleteProcessRequest{ContainerID: x.container, ExecID: x.id})
	if err != nil && !errdefs.IsNotFound(errgrpc.ToNative(err)) {
		x.log.Debug("Could not delete an exec", logkey.ContainerID, x.container, logkey.Err, err)
	}
}

// wait tells how the process ended, once.
func (x *execution) wait(ctx context.Context) <-chan exitResult {
	ended := make(chan exitResult, 1)
	go func() { // ends with the process or ctx
		resp, err := x.tasks.Wait(ctx, &tasks.WaitRequest{ContainerID: x.container, ExecID: x.id})
		if err != nil {
			ended <- exitResult{err: fmt.Errorf("wait for exec: %w", errgrpc.ToNative(err))}
			return
		}
		ended <- exitResult{code: resp.ExitStatus}
	}()
	return ended
}

// feed gives the process its input and closes that. It ends with its reader, which whoever made the streams closes when
// the exec has ended.
func (x *execution) feed(ctx context.Context) {
	io.Copy(x.io.in, x.stdin)
	x.io.in.Close()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	x.tasks.CloseIO(ctx, &tasks.CloseIORequest{ContainerID: x.container, ExecID: x.id, Stdin: true})
}

// followSize keeps the terminal as large as the client's window, until ctx or the channel ends.
func (x *execution) followSize(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case size, ok := <-x.resize:
			if !ok {
				return
			}
			x.tasks.ResizePty(ctx, &tasks.ResizePtyRequest{ContainerID: x.container, ExecID: x.id, Width: uint32(size.Width), Height: uint32(size.Height)})
		}
	}
}

// result waits for the process, whose time begins here, and for its output. What has no time left is killed.
func (x *execution) result(ctx context.Context, pid uint32, ended <-chan exitResult, copied <-chan struct{}) (uint32, error) {
	if x.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, x.timeout, cri.ErrExecTimedOut)
		defer cancel()
	}
	var res exitResult
	select {
	case res = <-ended:
	case <-ctx.Done():
		x.kill(context.WithoutCancel(ctx), pid, ended)
		res.err = context.Cause(ctx)
	}
	if res.err == nil {
		select {
		case <-copied:
			return res.code, nil
		case <-time.After(execDrain):
		}
	}
	x.io.cancel()
	<-copied
	return res.code, res.err
}

// kill ends the process with all that it started, and waits for it as long as a killed one may take.
func (x *execution) kill(ctx context.Context, pid uint32, ended <-chan exitResult) {
	killTree(int(pid))
	kctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	x.killTask(kctx, x.container, x.id, syscall.SIGKILL, false)
	select {
	case <-ended:
	case <-time.After(execKillWait):
		x.log.Warn("A killed exec did not end", logkey.ContainerID, x.container)
	}
}

// startExec starts a process. A shim that is about to start one does so even when nobody waits for it any more, so when
// ctx ends, the process is waited for, to be killed by the caller; and in the background if that takes long.
func (r *Runtime) startExec(ctx context.Context, id, execID string) (pid uint32, err error) {
	type result struct {
		pid uint32
		err error
	}
	started := make(chan result, 1)
	ours := context.WithoutCancel(ctx)
	go func() { // ends with startTask's deadline
		pid, err := r.startTask(ours, id, execID)
		started <- result{pid, err}
	}()
	select {
	case s := <-started:
		return s.pid, s.err
	case <-ctx.Done():
	}
	select {
	case s := <-started:
		return s.pid, s.err
	case <-time.After(execKillWait):
	}
	go func() { // as above, and with two calls' deadlines
		s := <-started
		if s.err != nil {
			return
		}
		killTree(int(s.pid))
		if _, err := r.killTask(ours, id, execID, syscall.SIGKILL, false); err != nil {
			r.log.Warn("Could not kill an exec that started too late", logkey.ContainerID, id, logkey.Err, err)
		}
	}()
	return 0, ctx.Err()
}

type exitResult struct {
	code uint32
	err  error
}

// processSpec is the container's own process, without what only the first one has.
func (r *Runtime) processSpec(ctx context.Context, id string) (*specs.Process, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	rec, err := r.conts.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	var s struct{ Process *specs.Process }
	if err := json.Unmarshal(rec.Spec.GetValue(), &s); err != nil || s.Process == nil {
		return nil, fmt.Errorf("read spec of container %q: %w", id, err)
	}
	return s.Process, nil
}

func withTerm(env []string) []string {
	for _, kv := range env {
		if strings.HasPrefix(kv, "TERM=") {
			return env
		}
	}
	return append(env, "TERM=xterm")
}

// killTree kills a process and all that descend from it. They are stopped first, so that none escapes by forking.
func killTree(pid int) {
	if pid <= 1 {
		return
	}
	seen := map[int]bool{}
	var walk func(int)
	walk = func(p int) {
		if seen[p] {
			return
		}
		seen[p] = true
		syscall.Kill(p, syscall.SIGSTOP)
		threads, _ := filepath.Glob("/proc/" + strconv.Itoa(p) + "/task/*/children")
		for _, t := range threads {
			b, _ := os.ReadFile(t)
			for _, f := range strings.Fields(string(b)) {
				if n, err := strconv.Atoi(f); err == nil {
					walk(n)
				}
			}
		}
	}
	walk(pid)
	for p := range seen {
		syscall.Kill(p, syscall.SIGKILL)
	}
}

// Exec answers with a one-time URL.
func (r *Runtime) Exec(_ context.Context, req *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
	if _, err := r.running(req.ContainerId); err != nil {
		return nil, err
	}
	return r.stream.Exec(req)
}

// running is the container if it runs.
func (r *Runtime) running(id string) (*container, error) {
	c, err := r.store.container(id)
	if err != nil {
		return nil, err
	}
	r.store.mu.RLock()
	defer r.store.mu.RUnlock()
	if c.state != stateRunning {
		return nil, status.Errorf(codes.FailedPrecondition, "container %q is not running", c.id)
	}
	return c, nil
}
