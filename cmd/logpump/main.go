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
	keep := flag.Bool("keep", false, "be the keeper, which only holds the FIFOs open and restarts the pump; the pump starts it")
	flag.Parse()
	role := run
	if *keep {
		role = runKeeper
	}
	if err := role(*dir); err != nil {
		fmt.Fprintln(os.Stderr, "logpump:", err)
		os.Exit(1)
	}
}

// prepare is what both roles begin with. The lock is held until the process ends; nil says that another one has it.
func prepare(dir, lockPath string) (*os.File, error) {
	if dir == "" {
		return nil, fmt.Errorf("flag --dir is missing: name the state folder")
	}
	debug.SetGCPercent(50)
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE, syscall.SIGINT)
	if err := os.MkdirAll(filepath.Join(dir, "c"), 0o700); err != nil {
		return nil, err
	}
	lock, err := lockFile(lockPath)
	if err == nil && lock == nil {
		fmt.Fprintf(os.Stderr, "logpump: another one serves %s\n", dir)
	}
	return lock, err
}

func run(dir string) error {
	lock, err := prepare(dir, logpump.LockPath(dir))
	if lock == nil {
		return err
	}
	defer lock.Close() // also keeps the collector from closing it
	runtime.GOMAXPROCS(min(2, runtime.NumCPU()))
	return newPump(dir).serve()
}

// lockFile takes a lock that ends with the process. A predecessor that was just killed may still hold it for a moment;
// nil says that another one holds it for good.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	for end, wait := time.Now().Add(lockPatience), time.Millisecond; ; wait = min(2*wait, 20*time.Millisecond) {
		if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			return f, nil
		}
		if time.Now().After(end) {
			f.Close()
			return nil, nil
		}
		time.Sleep(wait)
	}
}
