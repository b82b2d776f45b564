package native

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/reevehq/reeve/cri/native/spec"
	"github.com/reevehq/reeve/internal/logkey"
)

// A pause container keeps the pod's namespaces alive, reaps the orphans of a shared PID namespace, and is the sandbox as
// far as users' tools see. Making it is half of what starting a pod costs: a shim, two runs of the OCI runtime, a dozen
// cgroups. But only a shared PID namespace needs it from the beginning. The others are pinned: made by us, and kept by
// bind mounts under <sandbox>/ns (the network's where the Network put it), which containers and pause join by path. So a
// pod's first container is started first, and pause after it.

// pinnable says that the sandbox's containers can do without pause for a while. Other shims than runc's make the pod's
// virtual machine, or whatever they have, together with pause.
func (r *Runtime) pinnable(config *runtimeapi.PodSandboxConfig, handler string) bool {
	return config.GetLinux().GetSecurityContext().GetNamespaceOptions().GetPid() != runtimeapi.NamespaceMode_POD &&
		r.cfg.Handlers[handler].Type == runcType
}

// pauser is the goroutine that starts a sandbox's pause container.
type pauser struct {
	cancel context.CancelFunc
	done   chan struct{}
}

// pauseDelay is how long pause waits for the pod's first container. An agent that has the image asks for it within a few
// milliseconds; pulling takes longer than pause. pausePatience bounds the wait for one that is on its way, on a busy node.
const (
	pauseDelay    = 100 * time.Millisecond
	pausePatience = 5 * time.Second
)

// pauseSoon starts pause once the first container is started, or none has been asked for in pauseDelay. When that fails, or pause ends, the
// sandbox is not ready. leftover says that an earlier runtime may have begun the same.
func (r *Runtime) pauseSoon(s *sandbox, leftover bool) {
	ctx, cancel := context.WithCancel(context.Background()) // ended by stopPauser and Close
	p := &pauser{cancel: cancel, done: make(chan struct{})}
	r.store.mu.Lock()
	s.pauser = p
	r.store.mu.Unlock()
	r.wg.Go(func() {
		defer close(p.done)
		defer cancel()
		t := time.NewTicker(pauseDelay)
		defer t.Stop()
		for end, waiting := time.Now().Add(pausePatience), true; waiting; {
			select {
			case <-ctx.Done():
				return
			case <-s.began:
				waiting = false
			case <-t.C:
				waiting = s.busy.Load() > 0 && time.Now().Before(end)
			}
		}
		if err := r.addPause(ctx, s, leftover); err != nil && ctx.Err() == nil {
			r.log.Error("Could not start a sandbox's pause container", logkey.SandboxID, s.id, logkey.Err, err)
			r.onSandboxExit(s)
		}
	})
}

// addPause gives a ready sandbox its pause container.
func (r *Runtime) addPause(ctx context.Context, s *sandbox, leftover bool) error {
	if leftover {
		cctx, cancel := context.WithTimeout(ctx, cleanupTimeout)
		defer cancel()
		if err := r.destroyTask(cctx, s.id); err != nil {
			return err
		}
	}
	p, err := r.pauseParts(ctx)
	if err != nil {
		return err
	}
	rootfs := p.shared
	if rootfs == nil {
		if rootfs, err = r.snapshotMounts(ctx, s.id); err != nil {
			return err
		}
	}
	pid, fd, err := r.startPause(ctx, s, rootfs)
	r.store.mu.Lock()
	s.pid, s.pidfd = pid, fd
	if err == nil && s.early == pid {
		err = errors.New("it ended at once")
	}
	rec := networkRecord{Version: recordVersion, Raw: s.net.Raw, Boot: s.boot, PID: pid}
	for _, ip := range s.net.IPs {
		rec.IPs = append(rec.IPs, ip.String())
	}
	r.store.mu.Unlock()
	if err != nil {
		return err
	}
	return writeJSON(filepath.Join(r.sandboxDir(s.id), "network.json"), rec, false)
}

// stopPauser returns when no pause is being started any more: it has not begun, or it runs, or it failed.
func (r *Runtime) stopPauser(ctx context.Context, s *sandbox) error {
	r.store.mu.RLock()
	p := s.pauser
	r.store.mu.RUnlock()
	if p == nil {
		return nil
	}
	p.cancel()
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the pause container: %w", ctx.Err())
	}
}

// stopPausers cancels those that wait for their time; the next runtime begins anew.
func (s *store) stopPausers() {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, sb := range s.sandboxes {
		if sb.pauser != nil {
			sb.pauser.cancel()
		}
	}
}

// pinsOf are the pinned namespaces of a sandbox, for pause; nil when pause makes them.
func (r *Runtime) pinsOf(s *sandbox) map[specs.LinuxNamespaceType]string {
	if !s.rec.Pinned {
		return nil
	}
	return r.namespacesOf(s, 0)
}

func (r *Runtime) pinPath(id, kind string) string { return filepath.Join(r.sandboxDir(id), "ns", kind) }

// ownIPC and ownUTS say which namespaces a sandbox has for itself, beside that of the network.
func ownIPC(c *runtimeapi.PodSandboxConfig) bool {
	return c.GetLinux().GetSecurityContext().GetNamespaceOptions().GetIpc() != runtimeapi.NamespaceMode_NODE
}

func ownUTS(c *runtimeapi.PodSandboxConfig) bool { return !hostNetwork(c) }

// pin makes the sandbox's IPC and UTS namespaces, with its hostname and sysctls, and mounts them.
func (r *Runtime) pin(s *sandbox) error {
	config := s.rec.Config.M
	sysctls, err := spec.Sysctls(config)
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	flags, kinds := 0, []string{}
	if ownIPC(config) {
		flags, kinds = flags|unix.CLONE_NEWIPC, append(kinds, "ipc")
	}
	if ownUTS(config) {
		flags, kinds = flags|unix.CLONE_NEWUTS, append(kinds, "uts")
	}
	if err := os.MkdirAll(filepath.Join(r.sandboxDir(s.id), "ns"), 0o711); err != nil {
		return err
	}
	for _, kind := range kinds {
		f, err := os.OpenFile(r.pinPath(s.id, kind), os.O_CREATE|os.O_RDONLY, 0o444)
		if err != nil {
			return err
		}
		f.Close()
	}
	return onThread(func() error {
		if s.rec.NetNS != "" {
			if err := enter(s.rec.NetNS, unix.CLONE_NEWNET); err != nil {
				return err
			}
		}
		if flags != 0 {
			if err := unix.Unshare(flags); err != nil {
				return fmt.Errorf("make namespaces: %w", err)
			}
		}
		if ownUTS(config) && config.Hostname != "" {
			if err := unix.Sethostname([]byte(config.Hostname)); err != nil {
				return fmt.Errorf("set hostname %q: %w", config.Hostname, err)
			}
		}
		for key, value := range sysctls {
			if err := os.WriteFile(path.Join("/proc/sys", strings.ReplaceAll(key, ".", "/")), []byte(value), 0); err != nil {
				return fmt.Errorf("set sysctl %s to %q: %w", key, value, err)
			}
		}
		// The mounts come last: a mounted file is a namespace that is ready.
		for _, kind := range kinds {
			if err := unix.Mount("/proc/thread-self/ns/"+kind, r.pinPath(s.id, kind), "", unix.MS_BIND, ""); err != nil {
				return fmt.Errorf("keep %s namespace: %w", kind, err)
			}
		}
		return nil
	})
}

// unpin lets go of what pin made; what it did not make is fine.
func (r *Runtime) unpin(id string) error {
	return errors.Join(unmount(r.pinPath(id, "ipc")), unmount(r.pinPath(id, "uts")))
}

// pinsStand says whether a pinned sandbox's namespaces are there still. They never outlive the boot in which they were
// made, even where nothing of the sandbox is its own.
func (r *Runtime) pinsStand(s *sandbox, boot string) bool {
	config := s.rec.Config.M
	if boot != bootID() {
		return false
	}
	want := map[string]bool{s.rec.NetNS: s.rec.NetNS != "", r.pinPath(s.id, "ipc"): ownIPC(config), r.pinPath(s.id, "uts"): ownUTS(config)}
	for p, own := range want {
		if own && !isNamespace(p) {
			return false
		}
	}
	return true
}

func isNamespace(p string) bool {
	var st unix.Statfs_t
	return unix.Statfs(p, &st) == nil && (st.Type == unix.NSFS_MAGIC || st.Type == unix.PROC_SUPER_MAGIC)
}

func bootID() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
}

// namespacesOf tells where a container finds the sandbox's namespaces.
func (r *Runtime) namespacesOf(s *sandbox, pausePID uint32) map[specs.LinuxNamespaceType]string {
	if s.rec.Pinned {
		config, out := s.rec.Config.M, map[specs.LinuxNamespaceType]string{}
		if s.rec.NetNS != "" {
			out[specs.NetworkNamespace] = s.rec.NetNS
		}
		if ownUTS(config) {
			out[specs.UTSNamespace] = r.pinPath(s.id, "uts")
		}
		if ownIPC(config) {
			out[specs.IPCNamespace] = r.pinPath(s.id, "ipc")
		}
		return out
	}
	return spec.NamespacesOf(pausePID)
}

func enter(path string, kind int) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		err = unix.Setns(fd, kind)
		unix.Close(fd)
	}
	if err != nil {
		return fmt.Errorf("enter namespace %q: %w", path, err)
	}
	return nil
}

// onThread runs f, which changes its thread's network, IPC and UTS namespaces, and takes the thread back. One that
// cannot go back stays locked and ends with its goroutine. It must come back where it can: were it the process's first,
// which Go cannot end, /proc/net would show the pod's network from then on.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		kinds := map[string]int{"net": unix.CLONE_NEWNET, "ipc": unix.CLONE_NEWIPC, "uts": unix.CLONE_NEWUTS}
		home := map[int]int{}
		defer func() {
			for _, fd := range home {
				unix.Close(fd)
			}
		}()
		for name, kind := range kinds {
			fd, err := unix.Open("/proc/thread-self/ns/"+name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				runtime.UnlockOSThread()
				done <- fmt.Errorf("open own %s namespace: %w", name, err)
				return
			}
			home[kind] = fd
		}
		err := f()
		for kind, fd := range home {
			if back := unix.Setns(fd, kind); back != nil {
				done <- errors.Join(err, fmt.Errorf("return to own namespace: %w", back))
				return
			}
		}
		runtime.UnlockOSThread()
		done <- err
	}()
	return <-done
}
