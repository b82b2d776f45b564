package supervise

import (
	"context"
	"os"
	"strconv"
	"syscall"
)

// lifelineEnv and readyEnv tell a child which file descriptors are its life line and its readiness pipe.
const (
	lifelineEnv = "REEVE_LIFELINE_FD"
	readyEnv    = "REEVE_READY_FD"
)

// ready is the child's end of the readiness pipe, nil without a supervisor.
var ready *os.File

// WithLifeline returns a context that ends when the supervisor that started this process is gone. Without a supervisor
// it is ctx itself. It must be called once, early in main:
// it takes the descriptors, and hides them from grandchildren.
func WithLifeline(ctx context.Context) (context.Context, context.CancelFunc) {
	if fd, err := strconv.Atoi(os.Getenv(readyEnv)); err == nil && fd >= 3 {
		syscall.CloseOnExec(fd)
		ready = os.NewFile(uintptr(fd), "ready")
	}
	os.Unsetenv(readyEnv)
	fd, err := strconv.Atoi(os.Getenv(lifelineEnv))
	os.Unsetenv(lifelineEnv)
	if err != nil || fd < 3 {
		return context.WithCancel(ctx)
	}
	syscall.CloseOnExec(fd)
	ctx, cancel := context.WithCancel(ctx)
	line := os.NewFile(uintptr(fd), "lifeline")
	// Nothing is ever written: Read returns when the last write end is closed. The goroutine lives as long as the
	// process, which is what it is for.
	go func() {
		defer cancel()
		var b [1]byte
		for {
			if _, err := line.Read(b[:]); err != nil {
				return
			}
		}
	}()
	return ctx, cancel
}

// NotifyReady tells the supervisor that this process does its work now. Without a supervisor it does nothing.
func NotifyReady() {
	if ready != nil {
		// Only a supervisor that is gone makes this fail, and then the life line ends the process.
		ready.Write([]byte{1})
	}
}
