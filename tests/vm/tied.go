package vm

import (
	"os/exec"
	"runtime"
	"syscall"
)

// startTied starts cmd so that it dies with this process, and answers where its end is told. PDEATHSIG is sent when the
// thread that forked ends, so one goroutine keeps that thread until the command has ended.
func startTied(cmd *exec.Cmd) (ended <-chan error, err error) {
	started, done := make(chan error, 1), make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if cmd.SysProcAttr == nil {
			cmd.SysProcAttr = &syscall.SysProcAttr{}
		}
		cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
		err := cmd.Start()
		started <- err
		if err == nil {
			done <- cmd.Wait()
		}
	}()
	return done, <-started
}

func runTied(cmd *exec.Cmd) error {
	ended, err := startTied(cmd)
	if err != nil {
		return err
	}
	return <-ended
}
