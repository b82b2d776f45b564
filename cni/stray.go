package cni

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/reevehq/reeve/internal/logkey"
)

// strayPatience is how long a plugin that outlived whoever ran it may still need: killing one halfway is worse than
// waiting for it, but one that hangs must not keep the pod's network from being taken down.
const strayPatience = 5 * time.Second

func (c *Conflist) settle(sandboxID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settled[sandboxID] = true
}

// mayStray says whether a plugin of an ADD could still run: of a runtime that was killed, or one that timed out.
func (c *Conflist) mayStray(sandboxID string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.settled[sandboxID]
}

// endStrays waits until no plugin works for the sandbox any more, and kills those that take too long. A plugin goes on
// when its runtime is killed; a DEL that runs beside it would find nothing, and then its ADD would leave an address and a
// link that nobody knows of.
func endStrays(ctx context.Context, sandboxID string, log *slog.Logger) error {
	mark := []byte("CNI_CONTAINERID=" + sandboxID)
	began := time.Now()
	for {
		pids := withEnvironment(mark)
		if len(pids) == 0 {
			return nil
		}
		if time.Since(began) > strayPatience {
			for _, pid := range pids {
				log.Warn("Killed a CNI plugin that outlived its runtime", logkey.SandboxID, sandboxID, "pid", pid)
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("CNI plugins of an earlier attempt still run: %v: %w", pids, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// withEnvironment finds the processes that have a variable, which a plugin hands on to those that it runs.
func withEnvironment(variable []byte) []int {
	files, _ := filepath.Glob("/proc/[0-9]*/environ")
	var pids []int
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // ended, or a kernel thread
		}
		for _, v := range bytes.Split(b, []byte{0}) {
			if bytes.Equal(v, variable) {
				if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file))); err == nil && pid != os.Getpid() {
					pids = append(pids, pid)
				}
			}
		}
	}
	return pids
}
