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

// exec runs a process in a running container and returns its exit code when it has ended and its output is through. When
// ctx or the process's own time (cri.ErrExecTimedOut) ends first, the process and its descendants are killed.
func (r *Runtime) exec(ctx context.Context, q execRequest) (code uint32, err error) {
	c, err := r.store.container(q.container)
	if err != nil {
		return 0, err
	}
	if len(q.cmd) == 0 {
		return 0, status.Error(codes.InvalidArgument, "exec: the command is empty")
	}
	r.store.mu.RLock()
	state := c.state
	r.store.mu.RUnlock()
	if state != stateRunning {
		return 0, status.Errorf(codes.FailedPrecondition, "container %q is not running", c.id)
	}
	proc, err := r.processSpec(ctx, c.id)
	if err != nil {
		return 0, err
	}
	proc.Args, proc.Terminal = q.cmd, q.tty
	if q.tty {
		proc.Env = withTerm(proc.Env)
	}
	anyProc, err := typeurl.MarshalAny(proc)
	if err != nil {
		return 0, err
	}
	execID := newID()
	f, err := newExecIO(filepath.Join(r.cfg.StateDir, "exec", execID[:16]), q)
	if err != nil {
		return 0, err
	}
	defer f.remove()
	req := &tasks.ExecProcessRequest{
		ContainerID: c.id, ExecID: execID, Terminal: q.tty, Spec: typeurl.MarshalProto(anyProc),
		Stdin: f.path(f.stdin, "stdin"), Stdout: f.path(f.stdout, "stdout"), Stderr: f.path(f.stderr, "stderr"),
	}
	cctx, cancel := context.WithTimeout(ctx, createTimeout)
	_, err = r.tasks.Exec(cctx, req)
	cancel()
	if err != nil {
		return 0, errgrpc.ToNative(err)
	}
	defer func() {
		dctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
		defer cancel()
		if _, derr := r.tasks.DeleteProcess(dctx, &tasks.DeleteProcessRequest{ContainerID: c.id, ExecID: execID}); derr != nil && !errdefs.IsNotFound(errgrpc.ToNative(derr)) {
			r.log.Debug("Could not delete an exec", logkey.ContainerID, c.id, logkey.Err, derr)
		}
	}()
	waitCtx, stopWait := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWait()
	pid, err := r.startExec(ctx, c.id, execID)
	if err != nil {
		return 0, err
	}
	ended := make(chan exitResult, 1)
	go func() {
		resp, err := r.tasks.Wait(waitCtx, &tasks.WaitRequest{ContainerID: c.id, ExecID: execID})
		if err != nil {
			ended <- exitResult{err: errgrpc.ToNative(err)}
			return
		}
		ended <- exitResult{code: resp.ExitStatus}
	}()
	copied := f.copy(q)
	closeStdin := func() {
		sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
		defer cancel()
		r.tasks.CloseIO(sctx, &tasks.CloseIORequest{ContainerID: c.id, ExecID: execID, Stdin: true})
	}
	if q.stdin != nil {
		go func() { // ends with its reader, which whoever made the streams closes after us
			io.Copy(f.in, q.stdin)
			f.in.Close()
			closeStdin()
		}()
	}
	if q.resize != nil {
		go func() { // ends with waitCtx or the channel
			for {
				select {
				case <-waitCtx.Done():
					return
				case size, ok := <-q.resize:
					if !ok {
						return
					}
					r.tasks.ResizePty(waitCtx, &tasks.ResizePtyRequest{ContainerID: c.id, ExecID: execID, Width: uint32(size.Width), Height: uint32(size.Height)})
				}
			}
		}()
	}
	running := ctx
	if q.timeout > 0 {
		var cancel context.CancelFunc
		running, cancel = context.WithTimeoutCause(ctx, q.timeout, cri.ErrExecTimedOut)
		defer cancel()
	}
	var res exitResult
	select {
	case res = <-ended:
	case <-running.Done():
		killTree(int(pid))
		kctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
		r.killTask(kctx, c.id, execID, syscall.SIGKILL, false)
		cancel()
		select {
		case <-ended:
		case <-time.After(execKillWait):
			r.log.Warn("A killed exec did not end", logkey.ContainerID, c.id)
		}
		f.cancel()
		<-copied
		return 0, context.Cause(running)
	}
	if res.err != nil {
		f.cancel()
		<-copied
		return 0, fmt.Errorf("wait for exec: %w", res.err)
	}
	select {
	case <-copied:
	case <-time.After(execDrain):
		f.cancel()
		<-copied
	}
	return res.code, nil
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
	if err := r.mustRun(req.ContainerId); err != nil {
		return nil, err
	}
	return r.stream.Exec(req)
}

func (r *Runtime) mustRun(id string) error {
	c, err := r.store.container(id)
	if err != nil {
		return err
	}
	r.store.mu.RLock()
	defer r.store.mu.RUnlock()
	if c.state != stateRunning {
		return status.Errorf(codes.FailedPrecondition, "container %q is not running", c.id)
	}
	return nil
}
