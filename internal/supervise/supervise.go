package supervise

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/reevehq/reeve/internal/logkey"
)

// Back-off between a child's end and its next start: doubled from backoffMin to backoffMax, and forgotten once the
// child has run for backoffReset.
const (
	backoffMin   = 100 * time.Millisecond
	backoffMax   = 10 * time.Second
	backoffReset = 30 * time.Second
)

// StopTimeout is how long a child has after SIGTERM before it is killed.
const StopTimeout = 20 * time.Second

// Child is one process to keep running.
type Child struct {
	// Name is what logs call it.
	Name string
	// Path and Args start it; Args excludes the program's name. Env is added to the supervisor's own.
	Path string
	Args []string
	Env  []string
	// Fatal reports that an exit code means "do not start again" (bad flags, a port in use). Nil means none is.
	Fatal func(exitCode int) bool
	// Started, when set, is called with the process id after each start; Ready after each time that the child called
	// NotifyReady.
	Started func(pid int)
	Ready   func()
}

// ErrFatal is wrapped by the error of Run when a child said that starting it again is pointless.
var ErrFatal = errors.New("child cannot run")

// Run keeps all children running until ctx ends, then stops them in the reverse of their order, each with SIGTERM and,
// after StopTimeout, SIGKILL. It returns nil then, or an error that wraps ErrFatal as soon as one child ends with a
// fatal exit code (after stopping the others).
func Run(ctx context.Context, log *slog.Logger, children ...Child) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	type running struct {
		stop context.CancelFunc
		done chan struct{}
	}
	var all []running
	for _, c := range children {
		// Children stop one after the other, so each has a context of its own that outlives ctx.
		childCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
		done := make(chan struct{})
		all = append(all, running{stop, done})
		go func() {
			defer close(done)
			if err := keep(childCtx, log.With("child", c.Name), c); err != nil {
				cancel(err)
			}
		}()
	}
	<-ctx.Done()
	for i := len(all) - 1; i >= 0; i-- {
		all[i].stop()
		<-all[i].done
	}
	if err := context.Cause(ctx); errors.Is(err, ErrFatal) {
		return err
	}
	return nil
}

// keep starts the child again and again until ctx ends.
func keep(ctx context.Context, log *slog.Logger, c Child) error {
	delay := backoffMin
	for {
		began := time.Now()
		code, err := runOnce(ctx, log, c)
		if ctx.Err() != nil {
			return nil
		}
		if err == nil && c.Fatal != nil && c.Fatal(code) {
			return fmt.Errorf("%s ended with exit code %d: %w", c.Name, code, ErrFatal)
		}
		if time.Since(began) > backoffReset {
			delay = backoffMin
		}
		log.Warn("Child ended", "exitCode", code, logkey.Err, err, "restartIn", delay)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(delay):
		}
		delay = min(2*delay, backoffMax)
	}
}

// runOnce starts the child and waits for its end. When ctx ends it is stopped.
func runOnce(ctx context.Context, log *slog.Logger, c Child) (exitCode int, err error) {
	read, write, err := os.Pipe()
	if err != nil {
		return -1, fmt.Errorf("make the life line of %q: %w", c.Name, err)
	}
	defer write.Close()
	readyRead, readyWrite, err := os.Pipe()
	if err != nil {
		read.Close()
		return -1, fmt.Errorf("make the readiness pipe of %q: %w", c.Name, err)
	}
	defer readyRead.Close()
	cmd := exec.Command(c.Path, c.Args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{read, readyWrite} // descriptors 3 and 4 of the child
	cmd.Env = append(append(environment(), c.Env...), lifelineEnv+"=3", readyEnv+"=4")
	// A group of its own, so that a terminal's Ctrl-C reaches the supervisor alone and it decides the order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = cmd.Start()
	read.Close()
	readyWrite.Close()
	if err != nil {
		return -1, fmt.Errorf("start %q: %w", c.Name, err)
	}
	log.Info("Started child", "pid", cmd.Process.Pid)
	if c.Started != nil {
		c.Started(cmd.Process.Pid)
	}
	var wg sync.WaitGroup
	ended := make(chan struct{})
	wg.Go(func() {
		// Ends with the child, which holds the only write end.
		for b := []byte{0}; ; {
			if _, err := readyRead.Read(b); err != nil {
				return
			}
			if c.Ready != nil {
				c.Ready()
			}
		}
	})
	wg.Go(func() {
		select {
		case <-ended:
			return
		case <-ctx.Done():
		}
		cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(StopTimeout):
			log.Warn("Killed child that did not stop in time", "timeout", StopTimeout)
			cmd.Process.Kill()
		}
	})
	err = cmd.Wait()
	close(ended)
	// A grandchild that inherited the pipe must not hold us.
	readyRead.SetReadDeadline(time.Now())
	wg.Wait()
	var exit *exec.ExitError
	if err == nil || errors.As(err, &exit) {
		if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			return 128 + int(status.Signal()), fmt.Errorf("ended by signal: %s", strings.ToLower(status.Signal().String()))
		}
		return cmd.ProcessState.ExitCode(), nil
	}
	return -1, err
}

// environment is the supervisor's without the service manager's socket: the supervisor alone says when the service is
// ready, and libraries in a child (the API server's) would say it for a part.
func environment() []string {
	return slices.DeleteFunc(os.Environ(), func(kv string) bool {
		return strings.HasPrefix(kv, "NOTIFY_SOCKET=") || strings.HasPrefix(kv, "WATCHDOG_")
	})
}
