package volumes

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"
)

// SubPath makes the path below a mounted volume that a volumeMount's subPath names ready to be bound into a container,
// and answers the path to bind: a mount of our own, made on an open descriptor, so that nothing which the pod does to the
// volume afterwards can turn it into a path outside. container and index (of the mount in the container) name that
// mount; it goes with the pod's volumes.
//
// A subPath that does not exist is made as a folder. One that leads out of the volume, by ".." or by any link, is an
// error. Links that stay inside are followed.
func (m *Manager) SubPath(uid types.UID, volume, volumePath, container string, index int, subPath string) (string, error) {
	fail := func(err error) (string, error) {
		return "", fmt.Errorf("prepare subPath %q of volume %q for container %q: %w", subPath, volume, container, err)
	}
	if filepath.IsAbs(subPath) {
		return fail(errors.New("it must be a relative path"))
	}
	for _, el := range strings.Split(subPath, "/") {
		if el == ".." {
			return fail(errors.New(`it must not contain ".."`))
		}
	}
	fd, src, err := openSubPath(volumePath, filepath.Clean(subPath))
	if err != nil {
		return fail(err)
	}
	defer unix.Close(fd)
	target := filepath.Join(m.subpathsDir(uid), volume, container, strconv.Itoa(index))
	if err := m.bindOn(fd, &src, target); err != nil {
		return fail(err)
	}
	return target, nil
}

// openSubPath opens rel in the volume and says what it is.
func openSubPath(volumePath, rel string) (int, unix.Stat_t, error) {
	type opened struct {
		fd  int
		st  unix.Stat_t
		err error
	}
	o, ok := answers(func() (o opened) {
		root, err := unix.Open(volumePath, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return opened{err: fmt.Errorf("open volume: %w", err)}
		}
		defer unix.Close(root)
		if o.fd, o.err = openOrMakeBeneath(root, rel); o.err != nil {
			return o
		}
		if o.err = unix.Fstat(o.fd, &o.st); o.err != nil {
			unix.Close(o.fd)
		}
		return o
	}, func(o opened) {
		if o.err == nil {
			unix.Close(o.fd)
		}
	})
	if !ok {
		return -1, unix.Stat_t{}, silent
	}
	return o.fd, o.st, o.err
}

// bindOn binds the descriptor's file or folder on target, unless that very one is there already.
func (m *Manager) bindOn(fd int, src *unix.Stat_t, target string) error {
	mounted, err := m.m.IsMountPoint(target)
	if err != nil {
		return err
	}
	for mounted {
		var st unix.Stat_t
		if err := unix.Lstat(target, &st); err == nil && st.Dev == src.Dev && st.Ino == src.Ino {
			return nil
		}
		// What lay under this name when the container last started was replaced since.
		if err := m.m.Unmount(target, true); err != nil {
			return err
		}
		if mounted, err = m.m.IsMountPoint(target); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return err
	}
	if err := os.Remove(target); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if src.Mode&unix.S_IFMT == unix.S_IFDIR {
		err = os.Mkdir(target, 0o750)
	} else {
		var f *os.File
		if f, err = os.OpenFile(target, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o640); err == nil {
			err = f.Close()
		}
	}
	if err != nil {
		return err
	}
	return m.m.Mount("/proc/self/fd/"+strconv.Itoa(fd), target, "", unix.MS_BIND|unix.MS_REC, "")
}

// openOrMakeBeneath opens a relative path below root (O_PATH) and makes what is missing of it as folders with the mode
// and owner that root has. The kernel refuses every step out of root.
func openOrMakeBeneath(root int, rel string) (int, error) {
	fd, err := openBeneath(root, rel)
	if !errors.Is(err, unix.ENOENT) {
		return fd, escape(rel, err)
	}
	var rootStat unix.Stat_t
	if err := unix.Fstat(root, &rootStat); err != nil {
		return -1, err
	}
	if rootStat.Mode&unix.S_IFMT != unix.S_IFDIR {
		return -1, fmt.Errorf("the volume is a file and has no %q", rel)
	}
	cur, err := openBeneath(root, ".")
	if err != nil {
		return -1, err
	}
	elems := strings.Split(rel, "/")
	for i, el := range elems {
		next, err := openBeneath(root, strings.Join(elems[:i+1], "/"))
		if errors.Is(err, unix.ENOENT) {
			err = unix.Mkdirat(cur, el, rootStat.Mode&0o7777)
			if err != nil && !errors.Is(err, unix.EEXIST) {
				unix.Close(cur)
				return -1, fmt.Errorf("make folder %q: %w", el, err)
			}
			made := err == nil
			next, err = openBeneath(root, strings.Join(elems[:i+1], "/"))
			if err == nil && made {
				err = adopt(next, &rootStat)
				if err != nil {
					unix.Close(next)
				}
			}
		}
		unix.Close(cur)
		if err != nil {
			return -1, escape(rel, err)
		}
		cur = next
	}
	return cur, nil
}

// adopt gives a folder that was just made the mode (whatever the umask took) and the group of the volume.
func adopt(fd int, like *unix.Stat_t) error {
	p := "/proc/self/fd/" + strconv.Itoa(fd)
	if err := os.Chown(p, -1, int(like.Gid)); err != nil {
		return err
	}
	return unix.Chmod(p, like.Mode&0o7777)
}

func escape(rel string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EXDEV), errors.Is(err, unix.ELOOP):
		return fmt.Errorf("%q leads out of the volume", rel)
	case errors.Is(err, unix.ENOTDIR):
		return fmt.Errorf("%q: a part of it is not a directory", rel)
	}
	return err
}

// openBeneath opens rel below root as O_PATH: with openat2 where the kernel has it (5.6), else step by step.
func openBeneath(root int, rel string) (int, error) {
	for {
		fd, err := unix.Openat2(root, rel, &unix.OpenHow{
			Flags:   unix.O_PATH | unix.O_CLOEXEC,
			Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS,
		})
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
			continue // a rename somewhere raced with the walk; the kernel asks to try again
		case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EPERM):
			return walkBeneath(root, rel)
		}
		return fd, err
	}
}

// maxLinks followed in one path, as the kernel's own bound.
const maxLinks = 40

// walkBeneath is openBeneath without openat2: it opens element by element, never lets the kernel follow a link, and
// resolves links by itself. dirs is the way from root to where it stands, so that ".." in a link is a step back along it.
func walkBeneath(root int, rel string) (int, error) {
	first, err := unix.FcntlInt(uintptr(root), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	dirs := []int{first}
	defer func() {
		for _, d := range dirs {
			unix.Close(d)
		}
	}()
	todo := strings.Split(rel, "/")
	links := 0
	for len(todo) > 0 {
		el := todo[0]
		todo = todo[1:]
		switch el {
		case "", ".":
			continue
		case "..":
			if len(dirs) == 1 {
				return -1, unix.EXDEV
			}
			unix.Close(dirs[len(dirs)-1])
			dirs = dirs[:len(dirs)-1]
			continue
		}
		fd, err := unix.Openat(dirs[len(dirs)-1], el, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return -1, err
		}
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			unix.Close(fd)
			return -1, err
		}
		if st.Mode&unix.S_IFMT != unix.S_IFLNK {
			dirs = append(dirs, fd)
			continue
		}
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(fd, "", buf)
		unix.Close(fd)
		if err != nil {
			return -1, err
		}
		if links++; links > maxLinks {
			return -1, unix.ELOOP
		}
		link := string(buf[:n])
		if filepath.IsAbs(link) {
			return -1, unix.EXDEV
		}
		todo = append(strings.Split(link, "/"), todo...)
	}
	last := dirs[len(dirs)-1]
	dirs = dirs[:len(dirs)-1]
	return last, nil
}
