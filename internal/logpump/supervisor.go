package logpump

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	startTimeout = 5 * time.Second // from fork to the first answer; it takes a few milliseconds
	startPoll    = 2 * time.Millisecond
	retryMin     = 20 * time.Millisecond // a dead logpump is replaced at once, a crashing one ever more slowly
	retryMax     = 5 * time.Second

	keeperHeadroom = 200 * time.Millisecond // for the keeper to start a pump itself, which takes it some 10 ms
)

// Supervisor keeps one logpump running for a folder. Dir and Binary must be set.
type Supervisor struct {
	Dir    string // state folder, created with mode 0700; its socket path must fit in MaxSocketPath bytes
	Binary string // the cmd/logpump program
	// Detach, if set, is called with the pid of a fresh logpump, to move it out of the caller's cgroup. Its error is
	// logged, not fatal: on a host without systemd nothing kills by cgroup.
	Detach func(pid int) error
	// Wrap, if set, gives the command that starts the program, for hosts where an init system must do it.
	Wrap   func(name string, args ...string) *exec.Cmd
	Logger *slog.Logger
}

// Ensure returns once a logpump answers, starting one if there is none.
func (s *Supervisor) Ensure(ctx context.Context) error {
	_, err := s.ensure(ctx)
	return err
}

// ensure is Ensure, and tells whether it had to start one.
func (s *Supervisor) ensure(ctx context.Context) (started bool, err error) {
	if n := len(SocketPath(s.Dir)); n > MaxSocketPath {
		return false, fmt.Errorf("logpump folder %q: its socket path has %d bytes, the kernel takes %d: choose a shorter data directory", s.Dir, n, MaxSocketPath)
	}
	c := Client{Dir: s.Dir}
	if _, _, err := c.Ping(ctx); err == nil {
		return false, nil
	}
	if err := os.MkdirAll(filepath.Join(s.Dir, "c"), 0o700); err != nil {
		return false, fmt.Errorf("make logpump folder: %w", err)
	}
	logFile, err := os.OpenFile(filepath.Join(s.Dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return false, fmt.Errorf("open logpump's own log: %w", err)
	}
	defer logFile.Close()
	if st, err := logFile.Stat(); err == nil && st.Size() > 1<<20 {
		logFile.Truncate(0)
	}
	wrap := s.Wrap
	if wrap == nil {
		wrap = func(name string, args ...string) *exec.Cmd { return exec.Command(name, args...) }
	}
	cmd := wrap(s.Binary, "--dir", s.Dir)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = nil, logFile, logFile
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	if v, ok := os.LookupEnv("GORACE"); ok {
		cmd.Env = append(cmd.Env, "GORACE="+v)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return false, fmt.Errorf("start logpump %q: %w", s.Binary, err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }() // ends with the process, which outlives Ensure; it only reaps
	// What was started is waited for even when the caller gives up: Stop would not find a pump that is on its way.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), startTimeout)
	defer cancel()
	for {
		if pid, keeper, err := c.PIDs(ctx); err == nil {
			s.detach(pid)
			s.detach(keeper)
			s.Logger.Info("Started logpump", "pid", pid, "path", s.Dir)
			return true, nil
		}
		select {
		case <-ctx.Done():
			return false, fmt.Errorf("logpump %q did not answer within %s, see %s", s.Binary, startTimeout, filepath.Join(s.Dir, "log"))
		case err := <-exited:
			if err == nil { // another one holds the lock, or a wrapper handed over: keep asking
				exited = nil
				continue
			}
			return false, fmt.Errorf("logpump %q ended at start: %w, see %s", s.Binary, err, filepath.Join(s.Dir, "log"))
		case <-time.After(startPoll):
		}
	}
}

func (s *Supervisor) detach(pid int) {
	if s.Detach == nil || pid == 0 {
		return
	}
	if err := s.Detach(pid); err != nil {
		s.Logger.Warn("Could not move logpump to its own cgroup", "pid", pid, "err", err)
	}
}

// Run watches the logpump and starts it again whenever it dies and its keeper does not, until ctx ends. restarted, if not
// nil, is called whenever another one serves.
func (s *Supervisor) Run(ctx context.Context, restarted func()) error {
	delay := retryMin
	for ctx.Err() == nil {
		started, err := s.ensure(ctx)
		if err != nil {
			if ctx.Err() != nil {
				break
			}
			s.Logger.Error("Could not start logpump", "err", err)
			if !sleep(ctx, delay) {
				break
			}
			delay = min(delay*2, retryMax)
			continue
		}
		if started && restarted != nil {
			restarted()
		}
		began := time.Now()
		s.watch(ctx)
		if time.Since(began) > retryMax {
			delay = retryMin
		}
		if s.restartedByKeeper(ctx) && restarted != nil {
			restarted()
		}
	}
	return ctx.Err()
}

// restartedByKeeper waits a moment for the pump that the keeper starts in place of a dead one.
func (s *Supervisor) restartedByKeeper(ctx context.Context) bool {
	for end := time.Now().Add(keeperHeadroom); time.Now().Before(end); {
		if _, _, err := (Client{Dir: s.Dir}).Ping(ctx); err == nil {
			return true
		}
		if !sleep(ctx, startPoll) {
			return false
		}
	}
	return false
}

// watch returns when the logpump's end closes an idle connection, or ctx ends.
func (s *Supervisor) watch(ctx context.Context) {
	conn, err := Client{Dir: s.Dir}.dial(ctx)
	if err != nil {
		return
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	io.Copy(io.Discard, conn)
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// Stop ends the logpump of a folder and waits for it; containers that it still knew lose their reader. It is for tests
// and for removing reeve. A folder without a running logpump is fine.
func (s *Supervisor) Stop(ctx context.Context) error {
	c := Client{Dir: s.Dir}
	pump, keeper, err := c.PIDs(ctx)
	if err != nil {
		return nil
	}
	if err := c.Exit(ctx, true); err != nil {
		return err
	}
	for _, pid := range []int{pump, keeper} {
		for !ended(pid) {
			if !sleep(ctx, startPoll) {
				return fmt.Errorf("wait for logpump %d to end: %w", pid, ctx.Err())
			}
		}
	}
	return nil
}

func ended(pid int) bool {
	if pid == 0 {
		return true
	}
	st, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return errors.Is(err, os.ErrNotExist) || strings.Contains(string(st), ") Z ")
}
