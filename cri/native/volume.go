package native

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/continuity/fs"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	crierrors "k8s.io/cri-api/pkg/errors"

	"github.com/reevehq/reeve/cri/native/spec"
)

// makeVolumes gives each volume that the image declares, and that the configuration mounts nothing on, a folder of the
// container's own with what the image has there: what is written to it stays out of the writable layer. It goes with the
// container.
func (r *Runtime) makeVolumes(ctx context.Context, id string, root []mount.Mount, declared []string, own []*runtimeapi.Mount) ([]spec.Mount, error) {
	var out []spec.Mount
	for _, p := range declared {
		p = path.Clean("/" + p)
		taken := slices.ContainsFunc(own, func(m *runtimeapi.Mount) bool { return path.Clean("/"+m.ContainerPath) == p })
		if p == "/" || taken || slices.ContainsFunc(out, func(m spec.Mount) bool { return m.ContainerPath == p }) {
			continue
		}
		dir := filepath.Join(r.containerDir(id), "volumes", strconv.Itoa(len(out)))
		out = append(out, spec.Mount{HostPath: dir, ContainerPath: p})
	}
	if len(out) == 0 {
		return nil, nil
	}
	err := mount.WithReadonlyTempMount(ctx, root, func(dir string) error {
		for _, v := range out {
			if err := os.MkdirAll(v.HostPath, 0o755); err != nil {
				return err
			}
			src, err := fs.RootPath(dir, v.ContainerPath) // never outside the image, whatever its links say
			if err != nil {
				return err
			}
			if st, err := os.Lstat(src); err != nil || !st.IsDir() {
				continue // the mount makes the path
			}
			if err := fs.CopyDir(v.HostPath, src); err != nil {
				return fmt.Errorf("copy what the image has at %q: %w", v.ContainerPath, err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("make the image's volumes: %w", err)
	}
	return out, nil
}

// mountImages mounts the images that the configuration mounts into the container, read-only.
func (r *Runtime) mountImages(ctx context.Context, id string, config *runtimeapi.ContainerConfig) ([]spec.Mount, error) {
	var out []spec.Mount
	for _, m := range config.Mounts {
		ref := m.GetImage().GetImage()
		if ref == "" {
			continue
		}
		fail := func(code codes.Code, format string, args ...any) error {
			return status.Errorf(code, "%v: mount %q of image %q: %s", crierrors.ErrImageVolumeMountFailed, m.ContainerPath, ref, fmt.Sprintf(format, args...))
		}
		switch {
		case m.HostPath != "":
			return nil, fail(codes.InvalidArgument, "hostPath %q cannot be given too", m.HostPath)
		case m.ContainerPath == "":
			return nil, fail(codes.InvalidArgument, "a container path is needed")
		case path.IsAbs(m.ImageSubPath) || slices.Contains(strings.Split(m.ImageSubPath, "/"), ".."):
			return nil, fail(codes.InvalidArgument, "imageSubPath %q must be relative and without \"..\"", m.ImageSubPath)
		}
		img := r.images.lookup(ref)
		if img == nil {
			return nil, fail(codes.NotFound, "it is not on this node")
		}
		dir, err := r.mountImage(ctx, id, len(out), img)
		if err != nil {
			return nil, toStatus(fmt.Errorf("%v: mount %q of image %q: %w", crierrors.ErrImageVolumeMountFailed, m.ContainerPath, ref, err))
		}
		if m.ImageSubPath != "" {
			root := dir
			if dir, err = fs.RootPath(root, m.ImageSubPath); err != nil {
				return nil, fail(codes.InvalidArgument, "imageSubPath %q: %v", m.ImageSubPath, err)
			}
			if _, err := os.Stat(dir); err != nil {
				return nil, fail(codes.InvalidArgument, "imageSubPath %q is not in it", m.ImageSubPath)
			}
		}
		out = append(out, spec.Mount{HostPath: dir, ContainerPath: m.ContainerPath, ReadOnly: true})
	}
	return out, nil
}

func (r *Runtime) imageMountsDir(id string) string {
	return filepath.Join(r.containerDir(id), "images")
}

func imageMountKey(id string, n int) string { return id + "-image-" + strconv.Itoa(n) }

func (r *Runtime) mountImage(ctx context.Context, id string, n int, img *image) (dir string, err error) {
	ic, err := r.images.config(ctx, img)
	if err != nil {
		return "", err
	}
	cctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	view := func() ([]mount.Mount, error) {
		return r.snaps.View(cctx, imageMountKey(id, n), ic.chainID, snapshots.WithLabels(map[string]string{
			labelRoot: time.Now().UTC().Format(time.RFC3339), labelSnapshot: id,
		}))
	}
	ms, err := view()
	if errdefs.IsNotFound(err) { // imported by someone who did not unpack it
		if err = r.images.unpack(ctx, img); err == nil {
			ms, err = view()
		}
	}
	if err != nil {
		return "", err
	}
	dir = filepath.Join(r.imageMountsDir(id), strconv.Itoa(n))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	return dir, mount.All(ms, dir)
}

// unmountImages undoes the mounts of mountImages; none is fine.
func (r *Runtime) unmountImages(id string) error {
	entries, err := os.ReadDir(r.imageMountsDir(id))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, mount.UnmountAll(filepath.Join(r.imageMountsDir(id), e.Name()), unix.MNT_DETACH))
	}
	return errors.Join(errs...)
}

// dropImages undoes mountImages.
func (r *Runtime) dropImages(ctx context.Context, id string) error {
	entries, _ := os.ReadDir(r.imageMountsDir(id))
	if err := r.unmountImages(id); err != nil {
		return fmt.Errorf("unmount the images of container %q: %w", id, err)
	}
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil {
			if err := r.removeSnapshot(ctx, imageMountKey(id, n)); err != nil {
				return err
			}
		}
	}
	return nil
}
