package containerd

import (
	"context"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// waitPID returns true when process pid, which need not be a child, has ended, and false when ctx ended first. A pidfd
// becomes readable at the end, so nothing is polled but ctx, through a pipe.
func waitPID(ctx context.Context, pid int) bool {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return err == unix.ESRCH || gone(pid) || poll(ctx, pid)
	}
	defer unix.Close(fd)
	var wake [2]int
	if err := unix.Pipe2(wake[:], unix.O_CLOEXEC); err != nil {
		return poll(ctx, pid)
	}
	defer unix.Close(wake[0])
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { unix.Close(wake[1]); close(stopped) })
	defer func() {
		if stop() {
			unix.Close(wake[1])
		} else {
			<-stopped
		}
	}()
	for {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(wake[0])}}
		if _, err := unix.Poll(fds, -1); err == unix.EINTR {
			continue
		}
		return fds[0].Revents != 0
	}
}

// poll is for kernels and sandboxes without pidfds.
func poll(ctx context.Context, pid int) bool {
	t := time.NewTicker(watchEvery)
	defer t.Stop()
	for !gone(pid) {
		select {
		case <-ctx.Done():
			return false
		case <-t.C:
		}
	}
	return true
}

func gone(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err != nil || strings.Contains(string(b), ") Z ")
}
