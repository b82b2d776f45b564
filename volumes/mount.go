package volumes

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// mounter is the edge to the kernel's mount table.
type mounter interface {
	// Mount mounts as mount(2) does.
	Mount(source, target, fstype string, flags uintptr, data string) error
	// Unmount unmounts; lazy detaches at once and lets the kernel finish. What is not mounted is no error.
	Unmount(target string, lazy bool) error
	// IsMountPoint says whether path itself is mounted on. A path that does not exist is not.
	IsMountPoint(path string) (bool, error)
	// Below lists the mount points that are root or lie below it, in mount order.
	Below(root string) ([]string, error)
}

type kernelMounter struct{}

func (kernelMounter) Mount(source, target, fstype string, flags uintptr, data string) error {
	if err := unix.Mount(source, target, fstype, flags, data); err != nil {
		return fmt.Errorf("mount %s on %q (%s): %w", fstype, target, data, err)
	}
	return nil
}

func (kernelMounter) Unmount(target string, lazy bool) error {
	flags := unix.UMOUNT_NOFOLLOW
	if lazy {
		flags |= unix.MNT_DETACH
	}
	err := unix.Unmount(target, flags)
	if err == nil || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return fmt.Errorf("unmount %q: %w", target, err)
}

func (k kernelMounter) IsMountPoint(path string) (bool, error) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, 0, &st)
	switch {
	case errors.Is(err, unix.ENOENT):
		return false, nil
	case err == nil && st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0: // Linux 5.8
		return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
	case err != nil && !errors.Is(err, unix.ENOSYS):
		return false, fmt.Errorf("stat %q: %w", path, err)
	}
	all, err := k.Below(path)
	if err != nil {
		return false, err
	}
	for _, p := range all {
		if p == path {
			return true, nil
		}
	}
	return false, nil
}

func (kernelMounter) Below(root string) ([]string, error) {
	real, err := filepath.EvalSymlinks(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("resolve %q: %w", root, err)
	}
	infos, err := mountinfo.GetMounts(mountinfo.PrefixFilter(real))
	if err != nil {
		return nil, fmt.Errorf("read mountinfo: %w", err)
	}
	out := make([]string, 0, len(infos))
	for _, i := range infos {
		// The caller's spelling of root, should RootDir be reached through a link.
		out = append(out, root+strings.TrimPrefix(i.Mountpoint, real))
	}
	return out, nil
}

// removeTree removes dir and all below it, and refuses when anything is mounted there: a removal must never reach into
// somebody's data through a mount.
func removeTree(m mounter, dir string) error {
	mounts, err := m.Below(dir)
	if err != nil {
		return fmt.Errorf("remove %q: %w", dir, err)
	}
	if len(mounts) > 0 {
		return fmt.Errorf("remove %q: %q is still mounted", dir, mounts[len(mounts)-1])
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove %q: %w", dir, err)
	}
	return nil
}

// makeDir makes dir and its parents with the mode given for dir itself, whatever the umask says.
func makeDir(dir string, mode os.FileMode) (created bool, err error) {
	if err := os.MkdirAll(filepath.Dir(dir), 0o750); err != nil {
		return false, fmt.Errorf("make folder %q: %w", filepath.Dir(dir), err)
	}
	err = os.Mkdir(dir, mode)
	if errors.Is(err, fs.ErrExist) {
		fi, serr := os.Lstat(dir)
		if serr != nil {
			return false, fmt.Errorf("make folder %q: %w", dir, serr)
		}
		if !fi.IsDir() {
			return false, fmt.Errorf("make folder %q: something else is there", dir)
		}
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("make folder %q: %w", dir, err)
	}
	if err := os.Chmod(dir, mode); err != nil {
		return true, fmt.Errorf("make folder %q: %w", dir, err)
	}
	return true, nil
}
