package native

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/reevehq/reeve/internal/logkey"
)

// StopPodSandbox ends the sandbox's containers, and then, side by side, takes down the network and pause. Unknown and
// stopped sandboxes are fine. When something fails, calling again goes on from there.
func (r *Runtime) StopPodSandbox(ctx context.Context, id string) error {
	s, unlock, err := r.lockSandbox(ctx, id)
	if s == nil {
		return err
	}
	defer unlock()
	return toStatus(r.stopSandbox(ctx, s))
}

// lockSandbox finds a sandbox and takes its operation lock; nil, without an error, for one that is unknown.
func (r *Runtime) lockSandbox(ctx context.Context, id string) (s *sandbox, unlock func(), err error) {
	s, err = r.store.sandbox(id)
	if status.Code(err) == codes.NotFound {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	if unlock, err = r.lock(ctx, s.op, "sandbox "+s.id); err != nil {
		return nil, nil, err
	}
	return s, unlock, nil
}

func (r *Runtime) stopSandbox(ctx context.Context, s *sandbox) error {
	r.store.mu.Lock()
	was := s.state
	if s.state == sandboxReady {
		s.state = sandboxNotReady // no container is created in it from here on
	}
	torn := s.torn
	r.store.mu.Unlock()
	if torn {
		return nil
	}
	if err := r.killContainers(ctx, s); err != nil {
		return fmt.Errorf("stop sandbox %q: %w", s.id, err)
	}
	if err := r.tearDown(ctx, s); err != nil {
		return fmt.Errorf("stop sandbox %q: %w", s.id, err)
	}
	if was == sandboxReady {
		r.log.Info("Stopped pod sandbox", logkey.SandboxID, s.id)
		r.publish(runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT, s.id, s.id)
	}
	return nil
}

// killContainers ends all containers of a sandbox at once.
func (r *Runtime) killContainers(ctx context.Context, s *sandbox) error {
	var wg sync.WaitGroup
	list := r.store.containersOf(s.id)
	errs := make([]error, len(list))
	for i, c := range list {
		wg.Go(func() { errs[i] = r.stopContainer(ctx, c, 0) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// tearDown takes away what a sandbox has of the host: network, pause, namespace, mounts. It may be called for a sandbox
// that has only some of them, and again.
func (r *Runtime) tearDown(ctx context.Context, s *sandbox) error {
	var both sync.WaitGroup
	var netErr error
	if s.rec.NetNS != "" {
		both.Go(func() {
			nctx, cancel := context.WithTimeout(ctx, networkTimeout)
			defer cancel()
			if netErr = r.cfg.Network.Del(nctx, networkRequest(s)); netErr != nil {
				netErr = fmt.Errorf("take down network: %w", netErr)
			}
		})
	}
	taskErr := r.endPause(ctx, s)
	both.Wait()
	if err := errors.Join(netErr, taskErr); err != nil {
		return err
	}
	if s.rec.NetNS != "" {
		nctx, cancel := context.WithTimeout(ctx, networkTimeout)
		defer cancel()
		if err := r.cfg.Network.RemoveNamespace(nctx, s.rec.NetNS); err != nil {
			return fmt.Errorf("remove network namespace: %w", err)
		}
	}
	if err := errors.Join(r.unpin(s.id), unmount(filepath.Join(r.sandboxDir(s.id), "shm"))); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(r.sandboxDir(s.id), "torn"), nil, 0o600); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	r.store.mu.Lock()
	defer r.store.mu.Unlock()
	s.torn, s.pid = true, 0
	s.pidfd.close()
	return nil
}

// endPause kills the pause process and deletes its task.
func (r *Runtime) endPause(ctx context.Context, s *sandbox) error {
	if err := r.stopPauser(ctx, s); err != nil {
		return err
	}
	r.store.mu.RLock()
	sent, taskless := s.pidfd.signal(syscall.SIGKILL), s.taskless
	r.store.mu.RUnlock()
	if taskless {
		return nil
	}
	if sent {
		t := time.NewTimer(pauseEnd)
		defer t.Stop()
		select {
		case <-s.exited:
			if r.deleteTask(ctx, s.id) == nil {
				return nil
			}
		case <-t.C: // no event: find out the long way
		case <-ctx.Done():
		}
	}
	return r.destroyTask(ctx, s.id)
}

// unmount lazily unmounts a path; not mounted and not there are fine.
func unmount(path string) error {
	err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.ENOENT) {
		return fmt.Errorf("unmount %q: %w", path, err)
	}
	return nil
}

// RemovePodSandbox stops and forgets the sandbox and its containers. Unknown sandboxes are fine.
func (r *Runtime) RemovePodSandbox(ctx context.Context, id string) error {
	s, unlock, err := r.lockSandbox(ctx, id)
	if s == nil {
		return err
	}
	defer unlock()
	if err := r.stopSandbox(ctx, s); err != nil {
		return toStatus(err)
	}
	list := r.store.containersOf(s.id)
	errs := make([]error, len(list))
	var wg sync.WaitGroup
	for i, c := range list {
		wg.Go(func() { errs[i] = r.RemoveContainer(ctx, c.id) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return toStatus(err)
	}
	if err := r.eraseSandbox(ctx, s); err != nil {
		return toStatus(fmt.Errorf("remove sandbox %q: %w", s.id, err))
	}
	r.store.mu.Lock()
	_, had := r.store.sandboxes[s.id]
	ev := r.eventLocked(runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT, s.id, s.id)
	delete(r.store.sandboxes, s.id)
	r.store.mu.Unlock()
	r.store.release(sandboxName(s.rec.Config.M.Metadata), s.id)
	if had {
		r.log.Info("Removed pod sandbox", logkey.SandboxID, s.id)
		r.events.send(ev)
	}
	return nil
}

// eraseSandbox removes every trace of a sandbox, finished or half made, that has no containers.
func (r *Runtime) eraseSandbox(ctx context.Context, s *sandbox) error {
	r.store.mu.RLock()
	torn := s.torn
	r.store.mu.RUnlock()
	if !torn {
		if err := r.tearDown(ctx, s); err != nil {
			return err
		}
	}
	r.noteErased(s.id, s.rec.Cgroup)
	if err := errors.Join(r.deleteRecord(ctx, s.id), r.removeSnapshot(ctx, s.id)); err != nil {
		return err
	}
	return os.RemoveAll(r.sandboxDir(s.id))
}
