package native

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	crierrors "k8s.io/cri-api/pkg/errors"

	"github.com/reevehq/reeve/cri/native/spec"
	"github.com/reevehq/reeve/internal/logkey"
)

// CreateContainer makes the container's root, spec and record. Its task is made by StartContainer.
func (r *Runtime) CreateContainer(ctx context.Context, sandboxID string, config *runtimeapi.ContainerConfig, sandboxConfig *runtimeapi.PodSandboxConfig) (string, error) {
	m := config.GetMetadata()
	if err := checkContainer(config); err != nil {
		return "", status.Errorf(codes.InvalidArgument, "container config: %v", err)
	}
	s, err := r.store.sandbox(sandboxID)
	if err != nil {
		return "", err
	}
	s.busy.Add(1)
	defer s.busy.Add(-1)
	c := &container{id: newID(), created: time.Now(), op: newOpLock(), exited: make(chan struct{})}
	name := containerName(s.id, m)
	r.store.mu.Lock()
	if s.state != sandboxReady {
		r.store.mu.Unlock()
		return "", status.Errorf(codes.FailedPrecondition, "sandbox %q is not ready", s.id)
	}
	pid := s.pid
	r.store.mu.Unlock()
	if err := r.store.reserve(name, c.id); err != nil {
		return "", err
	}
	if err := r.makeContainer(ctx, s, c, pid, config); err != nil {
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
		defer cancel()
		if uerr := r.eraseContainer(cctx, c); uerr != nil {
			r.log.Error("Could not undo a failed container", logkey.ContainerID, c.id, logkey.Err, uerr)
		}
		r.store.release(name, c.id)
		return "", toStatus(fmt.Errorf("create container %q: %w", m.Name, err))
	}
	r.store.mu.Lock()
	if s.state != sandboxReady { // stopped meanwhile: its stop has not seen us
		r.store.mu.Unlock()
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
		defer cancel()
		err := r.eraseContainer(cctx, c)
		r.store.release(name, c.id)
		return "", toStatus(errors.Join(status.Errorf(codes.FailedPrecondition, "sandbox %q was stopped", s.id), err))
	}
	r.store.containers[c.id] = c
	r.store.mu.Unlock()
	r.log.Debug("Created container", logkey.ContainerName, m.Name, logkey.ContainerID, c.id, logkey.SandboxID, s.id)
	r.publish(runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT, c.id, s.id)
	return c.id, nil
}

func (r *Runtime) makeContainer(ctx context.Context, s *sandbox, c *container, sandboxPID uint32, config *runtimeapi.ContainerConfig) error {
	config = proto.Clone(config).(*runtimeapi.ContainerConfig)
	sandboxConfig := s.rec.Config.M
	logPath, err := logPathOf(sandboxConfig.LogDirectory, config.LogPath)
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	img, err := r.images.resolve(config.GetImage().GetImage())
	if err != nil {
		return err
	}
	ic, err := r.images.config(ctx, img)
	if err != nil {
		return err
	}
	targetPID, err := r.targetPID(config)
	if err != nil {
		return err
	}
	ms, err := r.settleMounts(ctx, s.rec.Handler, config)
	if err != nil {
		return err
	}
	rootfs, raw, err := r.prepareSnapshot(ctx, c.id, ic.chainID)
	if errdefs.IsNotFound(err) { // imported by someone who did not unpack it
		if err = r.images.unpack(ctx, img); err == nil {
			rootfs, raw, err = r.prepareSnapshot(ctx, c.id, ic.chainID)
		}
	}
	if err != nil {
		return err
	}
	c.mounts = rootfs
	if err := os.MkdirAll(r.containerDir(c.id), 0o711); err != nil {
		return fmt.Errorf("make container folder: %w", err)
	}
	images, err := r.mountImages(ctx, c.id, config)
	if err != nil {
		return err
	}
	volumes, err := r.makeVolumes(ctx, c.id, raw, ic.volumes, config.Mounts)
	if err != nil {
		return err
	}
	ms = slices.Concat(volumes, ms, images)
	user, err := lookupUser(raw, userWish{
		uid: config.GetLinux().GetSecurityContext().GetRunAsUser(), gid: config.GetLinux().GetSecurityContext().GetRunAsGroup(),
		name: config.GetLinux().GetSecurityContext().GetRunAsUsername(), image: ic.user,
		groups: config.GetLinux().GetSecurityContext().GetSupplementalGroups(),
		strict: config.GetLinux().GetSecurityContext().GetSupplementalGroupsPolicy() == runtimeapi.SupplementalGroupsPolicy_Strict,
	})
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	sp, err := spec.Container(spec.ContainerInput{
		Host: r.host, ID: c.id, Config: config, SandboxID: s.id, SandboxConfig: sandboxConfig, Namespaces: r.namespacesOf(s, sandboxPID), TargetPID: targetPID,
		Hostname: s.hostname(), User: user, Mounts: ms, Extra: r.extraMounts(s, config),
		Image: spec.Image{Ref: config.GetImage().GetImage(), Entrypoint: ic.entrypoint, Cmd: ic.cmd, Env: ic.env, WorkingDir: ic.workingDir},
	})
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	if err := r.injectDevices(ctx, sp, config); err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	stop := ic.stopSignal
	if sig := config.StopSignal; sig != runtimeapi.Signal_RUNTIME_DEFAULT {
		stop = sig.String()
	}
	c.rec = containerRecord{
		Version: recordVersion, Config: protoJSON[*runtimeapi.ContainerConfig]{config}, SandboxID: s.id, ImageID: img.id, ImageRef: r.images.ref(img),
		LogPath: logPath, Cgroup: sp.Linux.CgroupsPath, StopSignal: stop, Made: c.created,
		UID: int64(user.UID), GID: int64(user.GID),
	}
	for _, g := range user.Additional {
		c.rec.Groups = append(c.rec.Groups, int64(g))
	}
	labels := map[string]string{labelKind: kindContainer, labelSandbox: s.id}
	return r.createRecord(ctx, c.id, s.rec.Handler, sp, labels, c.rec, c.id, r.images.firstName(img))
}

// targetPID finds the process whose PID namespace an ephemeral container joins.
func (r *Runtime) targetPID(config *runtimeapi.ContainerConfig) (uint32, error) {
	ns := config.GetLinux().GetSecurityContext().GetNamespaceOptions()
	if ns.GetPid() != runtimeapi.NamespaceMode_TARGET {
		return 0, nil
	}
	t, err := r.store.container(ns.TargetId)
	if err != nil {
		return 0, err
	}
	r.store.mu.RLock()
	defer r.store.mu.RUnlock()
	if t.state != stateRunning {
		return 0, status.Errorf(codes.FailedPrecondition, "target container %q of the PID namespace is not running", ns.TargetId)
	}
	return t.pid, nil
}

// settleMounts checks the host side of the mounts. A missing host path becomes a folder, as Docker and containerd do.
func (r *Runtime) settleMounts(ctx context.Context, handler string, config *runtimeapi.ContainerConfig) ([]spec.Mount, error) {
	var out []spec.Mount
	for _, m := range config.Mounts {
		if m.GetImage().GetImage() != "" {
			continue // mountImages
		}
		if len(m.UidMappings)+len(m.GidMappings) > 0 {
			return nil, status.Errorf(codes.FailedPrecondition, "mount %q: uidMappings and gidMappings need user namespaces, which this runtime has not", m.ContainerPath)
		}
		if m.RecursiveReadOnly && m.Readonly && !r.recursiveReadOnly(ctx, handler) {
			return nil, status.Errorf(codes.FailedPrecondition, "%v: mount %q: recursiveReadOnly needs Linux 5.12 and runc 1.1", crierrors.ErrRROUnsupported, m.ContainerPath)
		}
		if m.ContainerPath == "" || !filepath.IsAbs(m.HostPath) {
			return nil, status.Errorf(codes.InvalidArgument, "mount of %q at %q: an absolute host path and a container path are needed", m.HostPath, m.ContainerPath)
		}
		src, err := filepath.EvalSymlinks(m.HostPath)
		if errors.Is(err, os.ErrNotExist) {
			if err := os.MkdirAll(m.HostPath, 0o755); err != nil {
				return nil, fmt.Errorf("make host path %q of mount %q: %w", m.HostPath, m.ContainerPath, err)
			}
			src, err = filepath.EvalSymlinks(m.HostPath)
		}
		if err != nil {
			return nil, fmt.Errorf("host path of mount %q: %w", m.ContainerPath, err)
		}
		sm := spec.Mount{
			HostPath: src, ContainerPath: m.ContainerPath, ReadOnly: m.Readonly, Recursive: m.RecursiveReadOnly, Propagation: m.Propagation,
		}
		if m.Propagation != runtimeapi.MountPropagation_PROPAGATION_PRIVATE {
			if sm.SharedHost, sm.SlaveHost, err = propagationOf(src); err != nil {
				return nil, err
			}
		}
		out = append(out, sm)
	}
	return out, nil
}

// propagationOf says how the mount that path lies on propagates.
func propagationOf(path string) (shared, slave bool, err error) {
	list, err := mountinfo.GetMounts(mountinfo.ParentsFilter(path))
	if err != nil {
		return false, false, fmt.Errorf("read mounts: %w", err)
	}
	best := -1
	for i, m := range list {
		if best < 0 || len(m.Mountpoint) >= len(list[best].Mountpoint) {
			best = i
		}
	}
	if best < 0 {
		return false, false, nil
	}
	for _, o := range strings.Fields(list[best].Optional) {
		shared = shared || strings.HasPrefix(o, "shared:")
		slave = slave || strings.HasPrefix(o, "master:")
	}
	return shared, slave, nil
}

// extraMounts are the pod's own files, each only where the configuration mounts nothing.
func (r *Runtime) extraMounts(s *sandbox, config *runtimeapi.ContainerConfig) []spec.Mount {
	dir := r.sandboxDir(s.id)
	ro := config.GetLinux().GetSecurityContext().GetReadonlyRootfs()
	out := []spec.Mount{
		{HostPath: filepath.Join(dir, "hosts"), ContainerPath: "/etc/hosts", ReadOnly: ro},
		{HostPath: filepath.Join(dir, "resolv.conf"), ContainerPath: "/etc/resolv.conf", ReadOnly: ro},
		{HostPath: filepath.Join(dir, "hostname"), ContainerPath: "/etc/hostname", ReadOnly: ro},
	}
	shm := s.rec.Shm
	if shm == "" {
		shm = "/dev/shm"
	}
	return append(out, spec.Mount{HostPath: shm, ContainerPath: "/dev/shm"})
}

// eraseContainer removes every trace of a container, finished or half made, that has no running task.
func (r *Runtime) eraseContainer(ctx context.Context, c *container) error {
	if err := r.pump.Remove(ctx, c.id); err != nil {
		return err
	}
	r.store.mu.Lock()
	holds := c.holds
	c.holds = nil
	r.store.mu.Unlock()
	for _, f := range holds {
		f.Close()
	}
	r.noteErased(c.id, c.rec.Cgroup)
	if err := r.deleteRecord(ctx, c.id); err != nil {
		return err
	}
	if err := r.dropImages(ctx, c.id); err != nil {
		return err
	}
	if err := r.removeSnapshot(ctx, c.id); err != nil {
		return err
	}
	return os.RemoveAll(r.containerDir(c.id))
}
