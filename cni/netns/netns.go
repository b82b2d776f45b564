package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Create makes a new network namespace, with loopback up, and mounts it at dir/name. dir is made (0755) when missing.
// It answers the absolute path. An existing name is an error that wraps fs.ErrExist.
func Create(dir, name string) (string, error) {
	if name == "" || name != filepath.Base(name) || name[0] == '.' {
		return "", fmt.Errorf("create network namespace %q: the name must be one path element and must not begin with a dot", name)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("create network namespace folder %q: %w", dir, err)
	}
	path, err := filepath.Abs(filepath.Join(dir, name))
	if err != nil {
		return "", fmt.Errorf("create network namespace %q: %w", name, err)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return "", fmt.Errorf("create network namespace %q: %w", path, err)
	}
	_ = f.Close()

	if err := onOwnThread(func() error { return enterAndPin(path) }); err != nil {
		return "", errors.Join(fmt.Errorf("create network namespace %q: %w", path, err), os.Remove(path))
	}
	return path, nil
}

func enterAndPin(path string) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := loopbackUp(); err != nil {
		return fmt.Errorf("set loopback up: %w", err)
	}
	// The mount comes last: a mounted file is a namespace that is ready.
	if err := unix.Mount("/proc/thread-self/ns/net", path, "none", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind mount: %w", err)
	}
	return nil
}

func loopbackUp() error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	// The loopback device is always the first of a namespace, index 1.
	return h.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 1, Name: "lo"}})
}

// Remove unmounts the namespace at path and deletes the file. Nothing there is no error; a namespace that processes
// still use lives on without a name until they end.
func Remove(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH)
		if err == nil {
			continue // mounted more than once: a crash between mount and record
		}
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break
		}
		return fmt.Errorf("remove network namespace %q: unmount: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove network namespace %q: %w", path, err)
	}
	return nil
}

// List answers the paths of every namespace file in dir, mounted or not. A missing dir has none.
func List(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list network namespaces: %w", err)
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("list network namespaces: %w", err)
	}
	var paths []string
	for _, e := range entries {
		if e.Type().IsRegular() && !strings.HasPrefix(e.Name(), ".") {
			paths = append(paths, filepath.Join(abs, e.Name()))
		}
	}
	return paths, nil
}

// IsNamespace reports whether path is the mount of a namespace (and not the empty file that a crash left).
func IsNamespace(path string) (bool, error) {
	var st unix.Statfs_t
	err := unix.Statfs(path, &st)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("stat network namespace %q: %w", path, err)
	}
	return st.Type == unix.NSFS_MAGIC || st.Type == unix.PROC_SUPER_MAGIC, nil
}

// Do runs fn on a thread inside the namespace at path, and waits for it. Threads and processes that fn starts stay in
// that namespace; goroutines that it starts do not.
func Do(path string, fn func() error) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open network namespace %q: %w", path, err)
	}
	defer unix.Close(fd)
	return onOwnThread(func() error {
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace %q: %w", path, err)
		}
		return fn()
	})
}

// onOwnThread runs fn, which changes its thread's network namespace, and takes the thread back. One that cannot go back
// stays locked and ends with its goroutine, so that no other goroutine ever runs in the wrong namespace. Letting every
// thread end would be simpler, but the process's first thread does not end: it would stop there, and /proc/self would
// show the pod's namespace as the process's own.
func onOwnThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("open own network namespace: %w", err)
			return
		}
		defer unix.Close(home)
		err = fn()
		if back := unix.Setns(home, unix.CLONE_NEWNET); back != nil {
			done <- errors.Join(err, fmt.Errorf("return to own network namespace: %w", back))
			return
		}
		runtime.UnlockOSThread()
		done <- err
	}()
	return <-done
}
