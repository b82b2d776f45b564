package native

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"

	"github.com/reevehq/reeve/internal/logkey"
	"github.com/reevehq/reeve/internal/logpump"
)

// Attach answers with a one-time URL.
func (r *Runtime) Attach(_ context.Context, req *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	if _, err := r.running(req.ContainerId); err != nil {
		return nil, err
	}
	return r.stream.Attach(req)
}

// PortForward answers with a one-time URL.
func (r *Runtime) PortForward(_ context.Context, req *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	s, err := r.store.sandbox(req.PodSandboxId)
	if err != nil {
		return nil, err
	}
	r.store.mu.RLock()
	ready := s.state == sandboxReady
	r.store.mu.RUnlock()
	if !ready {
		return nil, status.Errorf(codes.FailedPrecondition, "sandbox %q is not ready", s.id)
	}
	return r.stream.PortForward(req)
}

// streams is what the streaming server asks of us.
type streams struct{ r *Runtime }

// Exec runs a command over a client's streams. A non-zero code is the error that the protocol expects.
func (a streams) Exec(ctx context.Context, id string, cmd []string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	q := execRequest{container: id, cmd: cmd, stdin: in, tty: tty, resize: resize}
	if out != nil { // a nil interface inside a non-nil one would look like a writer
		q.stdout = out
	}
	if errOut != nil {
		q.stderr = errOut
	}
	code, err := a.r.exec(ctx, q)
	if err != nil {
		return err
	}
	if code != 0 {
		return utilexec.CodeExitError{Err: fmt.Errorf("command terminated with exit code %d", code), Code: int(code)}
	}
	return nil
}

// Attach follows a container's output and feeds its stdin, until the container ends or the client leaves.
func (a streams) Attach(ctx context.Context, id string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	r := a.r
	c, err := r.running(id)
	if err != nil {
		return err
	}
	config := c.rec.Config.M
	at, err := r.pump.Attach(ctx, c.id, out != nil, errOut != nil)
	if err != nil {
		return err
	}
	defer at.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	context.AfterFunc(ctx, func() { at.Close() })
	if resize != nil {
		go func() { // ends with ctx or the channel
			for {
				select {
				case <-ctx.Done():
					return
				case size, ok := <-resize:
					if !ok {
						return
					}
					r.tasks.ResizePty(ctx, &tasks.ResizePtyRequest{ContainerID: c.id, Width: uint32(size.Width), Height: uint32(size.Height)})
				}
			}
		}()
	}
	if in != nil && config.Stdin {
		w, err := os.OpenFile(logpump.PathsOf(r.cfg.LogpumpDir, c.id).Stdin, os.O_RDWR|syscall.O_NONBLOCK, 0)
		if err != nil {
			return fmt.Errorf("open stdin of container %q: %w", c.id, err)
		}
		context.AfterFunc(ctx, func() { w.Close() })
		go func() { // ends with its reader or with w
			_, err := io.Copy(w, in)
			w.Close()
			if config.StdinOnce && err == nil {
				if err := r.closeStdin(c); err != nil {
					r.log.Debug("Could not close stdin", logkey.ContainerID, c.id, logkey.Err, err)
				}
			}
			if out == nil && errOut == nil {
				cancel() // nothing else to wait for
			}
		}()
	}
	var stdout, stderr io.Writer
	if out != nil {
		stdout = out
	}
	if errOut != nil {
		stderr = errOut
	}
	if err := at.Copy(stdout, stderr); err != nil && ctx.Err() == nil && !errors.Is(err, logpump.ErrSink) {
		return err
	}
	return nil
}

// closeStdin ends a container's stdin: logpump and the shim each hold its FIFO open until told.
func (r *Runtime) closeStdin(c *container) error {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	if err := r.pump.CloseStdin(ctx, c.id); err != nil {
		return err
	}
	_, err := r.tasks.CloseIO(ctx, &tasks.CloseIORequest{ContainerID: c.id, Stdin: true})
	return err
}
