package native

import (
	"context"
	"fmt"
	"maps"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/reevehq/reeve/internal/logkey"
)

// A pod whose shim is stopped or hangs goes on running, and nothing tells that it can no longer be stopped, entered or
// seen to end. So the shims' processes are looked at now and then, two files of /proc each, and one that was once found
// wanting is asked until it answers again.

const shimSilent = "the sandbox's shim does not answer: the pod cannot be stopped, entered or seen to end until it does"

// Troubles says what is wrong with ready sandboxes, by ID: those whose shim does not work. Nil when all is well.
func (r *Runtime) Troubles() map[string]string {
	r.store.mu.RLock()
	defer r.store.mu.RUnlock()
	return maps.Clone(r.troubles)
}

// watchShims looks at the shims until ctx ends.
func (r *Runtime) watchShims(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(shimLookEvery):
		}
		r.lookAtShims(ctx)
	}
}

// lookAtShims looks once.
func (r *Runtime) lookAtShims(ctx context.Context) {
	type look struct {
		s    *sandbox
		pid  uint32 // of one of the shim's processes
		task string // its container
		was  string
	}
	var looks []look
	r.store.mu.Lock()
	for id := range r.troubles {
		if s := r.store.sandboxes[id]; s == nil || s.torn {
			delete(r.troubles, id)
		}
	}
	for _, s := range r.store.sandboxes {
		if s.torn || r.cfg.Handlers[s.rec.Handler].Type != runcType {
			continue
		}
		l := look{s: s, pid: s.pid, task: s.id, was: r.troubles[s.id]}
		for _, c := range r.store.containersOfLocked(s.id) {
			if l.pid == 0 && c.state == stateRunning {
				l.pid, l.task = c.pid, c.id
			}
		}
		if l.pid != 0 {
			looks = append(looks, l)
		}
	}
	r.store.mu.Unlock()
	for _, l := range looks {
		now := shimTrouble(l.pid)
		if now == "" && l.was != "" && r.viewTask(ctx, l.task).unknown {
			now = shimSilent
		}
		r.setTrouble(l.s.id, now)
	}
}

// setTrouble notes what is wrong with a sandbox; "" is nothing.
func (r *Runtime) setTrouble(id, what string) {
	r.store.mu.Lock()
	was := r.troubles[id]
	switch {
	case what == "":
		delete(r.troubles, id)
	case r.store.sandboxes[id] != nil:
		r.troubles[id] = what
	}
	r.store.mu.Unlock()
	switch {
	case what != "" && was == "":
		r.log.Warn("A pod's shim is in trouble", logkey.SandboxID, id, "trouble", what)
	case what == "" && was != "":
		r.log.Info("A pod's shim works again", logkey.SandboxID, id)
	}
}

// shimTrouble says what the kernel knows to be wrong with the shim of a container's process, its parent.
func shimTrouble(pid uint32) string {
	parent, _ := processStat(int(pid))
	if parent <= 1 {
		return "" // the process has ended, or outlived its shim: events tell
	}
	_, state := processStat(parent)
	if state != "T" && state != "t" {
		return ""
	}
	return fmt.Sprintf("the sandbox's shim, process %d, was stopped by a signal: the pod runs, but cannot be stopped, entered or seen to end until the shim goes on (kill -CONT %[1]d)", parent)
}

// processStat reads a process's parent and state; zero values when there is none.
func processStat(pid int) (parent int, state string) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, ""
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(f) < 2 {
		return 0, ""
	}
	parent, _ = strconv.Atoi(f[1])
	return parent, f[0]
}
