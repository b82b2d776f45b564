package supervise

import (
	"context"
	"os"
	"strconv"
	"syscall"
)

// lifelineEnv tells a child which file descriptor is its life line.
const lifelineEnv = "REEVE_LIFELINE_FD"

// WithLifeline returns a context that ends when the supervisor that started this process is gone. Without a supervisor
// it is ctx itself. It must be called once, early in main: it takes the descriptor, and hides it from grandchildren.
func WithLifeline(ctx context.Context) (context.Context, context.CancelFunc) {
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
