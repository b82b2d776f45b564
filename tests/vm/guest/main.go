// The guest program runs inside the virtual machine: it reads requests from the serial port that its argument names, runs
// their commands beside each other, and sends back their output and exit codes.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/reevehq/reeve/tests/vm/wire"
)

func main() {
	port, err := os.OpenFile(os.Args[1], os.O_RDWR, 0)
	if err != nil {
		fmt.Fprintln(os.Stderr, "open the serial port:", err)
		os.Exit(1)
	}
	out := &sender{enc: json.NewEncoder(port)}
	out.send(wire.Reply{})
	in := bufio.NewReader(port)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			// Nobody holds the other end (yet, or any more).
			time.Sleep(100 * time.Millisecond)
			continue
		}
		var r wire.Request
		if err := json.Unmarshal(line, &r); err != nil {
			fmt.Fprintln(os.Stderr, "read a request:", err)
			continue
		}
		go run(r, out)
	}
}

type sender struct {
	mu  sync.Mutex
	enc *json.Encoder
}

func (s *sender) send(r wire.Reply) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.enc.Encode(r); err != nil {
		fmt.Fprintln(os.Stderr, "send a reply:", err)
	}
}

// output sends what a command writes.
type output struct {
	id  int
	out *sender
}

func (o output) Write(b []byte) (int, error) {
	o.out.send(wire.Reply{ID: o.id, Output: b})
	return len(b), nil
}

// waitDelay is how long output may still come from a command's children that outlive it.
const waitDelay = time.Second

func run(r wire.Request, out *sender) {
	cmd := exec.Command(r.Args[0], r.Args[1:]...)
	cmd.Env = append(os.Environ(), r.Env...)
	cmd.Dir = r.Dir
	cmd.Stdout = output{r.ID, out}
	cmd.Stderr = cmd.Stdout
	cmd.WaitDelay = waitDelay
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	done := wire.Reply{ID: r.ID, Done: true}
	err := cmd.Start()
	if err == nil {
		if r.TimeoutSeconds > 0 {
			stop := time.AfterFunc(time.Duration(r.TimeoutSeconds*float64(time.Second)), func() {
				_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			})
			defer stop.Stop()
		}
		err = cmd.Wait()
	}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		done.ExitCode = exit.ExitCode()
	case errors.Is(err, exec.ErrWaitDelay):
	case err != nil:
		done.ExitCode, done.Error = -1, err.Error()
	}
	out.send(done)
}
