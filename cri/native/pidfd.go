package native

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// pidfd refers to a container's first process without the danger that a number has: it never means another process. A
// signal through it costs one system call; through containerd and the shim it costs a run of the OCI runtime, 8 ms and
// as much CPU. Zero is none: a runtime whose processes are not the host's, or a kernel without pidfds.
type pidfd int

// openPidfd must be called while the process is known to live, or to be unreaped: right after the task is made.
func (r *Runtime) openPidfd(handler string, pid uint32) pidfd {
	if pid == 0 || r.cfg.Handlers[handler].Type != runcType {
		return 0
	}
	fd, err := unix.PidfdOpen(int(pid), 0)
	if err != nil {
		return 0
	}
	return pidfd(fd)
}

// signal sends sig; ok is false when that must be done the long way. A process that has ended is fine. The caller holds
// the store's lock, so that nobody closes the descriptor meanwhile.
func (p pidfd) signal(sig syscall.Signal) (ok bool) {
	if p == 0 {
		return false
	}
	err := unix.PidfdSendSignal(int(p), sig, nil, 0)
	return err == nil || err == unix.ESRCH
}

// close gives the descriptor back. The caller holds the store's lock for writing.
func (p *pidfd) close() {
	if *p != 0 {
		unix.Close(int(*p))
		*p = 0
	}
}
