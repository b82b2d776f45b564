package native

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/reevehq/reeve/internal/logkey"
)

// containerd forgets a shim when it dies, or its caller does, while the shim is making its first task: the shim goes on,
// with what it has made, and nobody will ever ask it for anything. It is found among the processes: one of our containerd
// and namespace, for which no record, no task and no bundle of a known container speaks, twice in a row.

const (
	shimPrefix     = "containerd-shim" // every shim's program, by containerd's convention
	shimDeleteTime = 10 * time.Second  // its "delete", which runs the OCI runtime once
	hidden         = "."               // before a bundle's name while containerd removes it, when it has no container any more
	madeFile       = "runtime"         // in a bundle once its shim has run the OCI runtime; without it "delete" fails
)

// shimProcess is a running shim as its command line tells it.
type shimProcess struct {
	pid                    int
	namespace, id, address string
	exe, bundle            string // bundle may be gone
	sockets                []string
}

// shimLook is what one look found and the next one needs. The zero value is before the first.
type shimLook struct {
	pids    []int    // shims that seemed forgotten
	bundles []string // bundles without a shim
}

// shimHome is what any shim of our containerd tells of all. It is kept in a file: the next runtime may find bundles and no
// shim that lives.
type shimHome struct {
	Dir     string // of the bundles
	Exe     string // the shim's program
	Address string // containerd's
}

func (r *Runtime) shimHomeFile() string { return filepath.Join(r.cfg.StateDir, "shims.json") }

// learnShims notes the home of the shim that runs a task, when none is known.
func (r *Runtime) learnShims(task uint32) {
	if exists(r.shimHomeFile()) {
		return
	}
	parent, _ := processStat(int(task))
	if s, ok := readShim(parent); ok {
		r.keepShimHome(s)
	}
}

func (r *Runtime) keepShimHome(s shimProcess) shimHome {
	home := shimHome{Dir: filepath.Dir(s.bundle), Exe: s.exe, Address: s.address}
	if err := writeJSON(r.shimHomeFile(), home, false); err != nil {
		r.log.Warn("Could not note where shims run", logkey.Err, err)
	}
	return home
}

// none says that nothing is suspected.
func (l shimLook) none() bool { return len(l.pids)+len(l.bundles) == 0 }

// collectShims ends shims that containerd has forgotten, and removes bundles that a killed containerd has left without
// one.
func (r *Runtime) collectShims(ctx context.Context, before shimLook) (now shimLook, err error) {
	var home shimHome
	if _, err := readJSON(r.shimHomeFile(), &home); err != nil {
		r.log.Warn("Could not read where shims run", logkey.Err, err)
	}
	var strange []shimProcess
	served := map[string]bool{}
	for _, s := range shimProcesses() {
		r.store.mu.RLock()
		ours := s.address == strings.TrimPrefix(r.cfg.Address, "unix://") || !r.erased[s.id].at.IsZero() || r.store.sandboxes[s.id] != nil || r.store.containers[s.id] != nil
		r.store.mu.RUnlock()
		if !ours || s.namespace != r.cfg.Namespace {
			continue
		}
		if filepath.Dir(s.bundle) != home.Dir || s.exe != home.Exe || s.address != home.Address {
			home = r.keepShimHome(s)
		}
		served[s.id] = true
		if r.unknown(s.id) {
			strange = append(strange, s)
		}
	}
	var bundles []string
	if home.Dir != "" {
		entries, _ := os.ReadDir(home.Dir)
		for _, e := range entries {
			if id := strings.TrimPrefix(e.Name(), hidden); !served[id] && r.unknown(id) {
				bundles = append(bundles, e.Name())
			}
		}
	}
	if len(strange)+len(bundles) == 0 {
		return now, nil
	}
	records, err := r.conts.List(ctx)
	if err != nil {
		return now, fmt.Errorf("list containerd's containers: %w", err)
	}
	running, err := r.listTasks(ctx)
	if err != nil {
		return now, err
	}
	known := map[string]bool{}
	for _, rec := range records {
		known[rec.ID] = true
	}
	for id := range running {
		known[id] = true
	}
	var forgotten []shimProcess
	for _, s := range strange {
		if known[s.id] || s.serves(known) {
			continue
		}
		now.pids = append(now.pids, s.pid)
		if slices.Contains(before.pids, s.pid) {
			forgotten = append(forgotten, s)
		}
	}
	for _, name := range bundles {
		id := strings.TrimPrefix(name, hidden)
		if known[id] {
			continue
		}
		now.bundles = append(now.bundles, name)
		if slices.Contains(before.bundles, name) {
			forgotten = append(forgotten, shimProcess{namespace: r.cfg.Namespace, id: id, address: home.Address, exe: home.Exe, bundle: filepath.Join(home.Dir, name)})
		}
	}
	return now, each(r, ctx, forgotten, nil, func(ctx context.Context, s shimProcess) error {
		r.log.Info("Removing a shim that containerd has forgotten", "id", s.id, "pid", s.pid)
		return s.end(ctx)
	})
}

// shimProcesses finds all shims.
func shimProcesses() []shimProcess {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	var out []shimProcess
	for _, file := range files {
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if s, ok := readShim(pid); ok {
			out = append(out, s)
		}
	}
	return out
}

// readShim reads what a process tells of itself, if it is a shim.
func readShim(pid int) (s shimProcess, ok bool) {
	proc := "/proc/" + strconv.Itoa(pid)
	b, err := os.ReadFile(proc + "/cmdline")
	args := strings.Split(string(b), "\x00")
	if err != nil || pid <= 1 || !strings.HasPrefix(filepath.Base(args[0]), shimPrefix) {
		return s, false
	}
	s.pid = pid
	for i := 1; i+1 < len(args); i++ {
		switch args[i] {
		case "-namespace":
			s.namespace = args[i+1]
		case "-id":
			s.id = args[i+1]
		case "-address":
			s.address = args[i+1]
		}
	}
	s.exe, _ = os.Readlink(proc + "/exe")
	s.bundle, _ = os.Readlink(proc + "/cwd")
	s.bundle = strings.TrimSuffix(s.bundle, " (deleted)")
	if dir, name := filepath.Split(s.bundle); name == hidden+s.id {
		s.bundle = dir + s.id
	}
	return s, s.id != "" && filepath.Base(s.bundle) == s.id
}

// serves says whether a known container's bundle names this shim's socket: a shim carries the ID of its first container
// and serves the pod's others when that one is gone.
func (s *shimProcess) serves(known map[string]bool) bool {
	s.sockets = listening(s.pid)
	files, _ := filepath.Glob(filepath.Join(filepath.Dir(s.bundle), "*", "address"))
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err == nil && known[filepath.Base(filepath.Dir(file))] && slices.Contains(s.sockets, strings.TrimPrefix(strings.TrimSpace(string(b)), "unix://")) {
			return true
		}
	}
	return len(s.sockets) == 0 // not understood: leave it alone
}

// listening returns the unix sockets with a path that a process holds.
func listening(pid int) []string {
	proc := "/proc/" + strconv.Itoa(pid)
	fds, _ := os.ReadDir(proc + "/fd")
	inodes := map[string]bool{}
	for _, fd := range fds {
		link, _ := os.Readlink(proc + "/fd/" + fd.Name())
		if ino, ok := strings.CutPrefix(link, "socket:["); ok {
			inodes[strings.TrimSuffix(ino, "]")] = true
		}
	}
	b, _ := os.ReadFile(proc + "/net/unix")
	var out []string
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line) // Num RefCount Protocol Flags Type St Inode Path
		const acceptCon = "00010000"
		if len(f) == 8 && f[3] == acceptCon && inodes[f[6]] {
			out = append(out, f[7])
		}
	}
	return out
}

// end kills the shim and what it runs, and does what containerd does after a dead shim: the shim program's delete, which
// removes the OCI runtime's state and the cgroup, and then the bundle.
func (s *shimProcess) end(ctx context.Context) error {
	if s.pid > 1 {
		for _, pid := range append([]int{s.pid}, descendants(s.pid)...) {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
	for _, path := range s.sockets {
		_ = os.Remove(path)
	}
	if !exists(s.bundle) {
		return nil
	}
	if exists(filepath.Join(s.bundle, madeFile)) && !strings.HasPrefix(filepath.Base(s.bundle), hidden) {
		ctx, cancel := context.WithTimeout(ctx, shimDeleteTime)
		defer cancel()
		cmd := exec.CommandContext(ctx, s.exe, "-namespace", s.namespace, "-address", s.address, "-id", s.id, "-bundle", s.bundle, "delete")
		cmd.Dir = s.bundle
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("clean up after shim %d of %q: %w: %s", s.pid, s.id, err, out)
		}
	}
	if err := unmount(filepath.Join(s.bundle, "rootfs")); err != nil {
		return err
	}
	work, _ := os.Readlink(filepath.Join(s.bundle, "work"))
	if filepath.Base(work) == s.id {
		if err := os.RemoveAll(work); err != nil {
			return err
		}
	}
	return os.RemoveAll(s.bundle)
}

// descendants are the processes below pid.
func descendants(pid int) []int {
	children := map[int][]int{}
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		child, err1 := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if len(f) > 1 && err1 == nil {
			if parent, err := strconv.Atoi(f[1]); err == nil {
				children[parent] = append(children[parent], child)
			}
		}
	}
	var out []int
	for todo := children[pid]; len(todo) > 0; todo = todo[1:] {
		out = append(out, todo[0])
		todo = append(todo, children[todo[0]]...)
	}
	return out
}
