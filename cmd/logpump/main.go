package main

import (
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/reevehq/reeve/internal/logpump"
)

// lockPatience is less than the time that whoever started us waits for an answer.
const lockPatience = 4 * time.Second

func main() {
	dir := flag.String("dir", "", "state folder: FIFOs, state and the control socket")
	flag.Parse()
	if err := run(*dir); err != nil {
		fmt.Fprintln(os.Stderr, "logpump:", err)
		os.Exit(1)
	}
}

func run(dir string) error {
	if dir == "" {
		return fmt.Errorf("flag --dir is missing: name the state folder")
	}
	runtime.GOMAXPROCS(min(2, runtime.NumCPU()))
	debug.SetGCPercent(50)
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE, syscall.SIGINT)
	if err := os.MkdirAll(filepath.Join(dir, "c"), 0o700); err != nil {
		return err
	}
	lock, err := os.OpenFile(logpump.LockPath(dir), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	// A predecessor that was just killed may still hold the lock for a moment.
	for end := time.Now().Add(lockPatience); ; time.Sleep(time.Millisecond) {
		err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			break
		}
		if time.Now().After(end) {
			fmt.Fprintf(os.Stderr, "logpump: another one serves %s\n", dir)
			return nil
		}
	}
	return newPump(dir).serve()
}
