package datadir

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// Default is where a host's first instance keeps its state.
const Default = "/var/lib/reeve"

// maxSocketPath is sizeof(sockaddr_un.sun_path) less the terminating zero (unix(7)); longestSocket is the longest
// socket path that a role makes below the data-dir.
const (
	maxSocketPath = 107
	longestSocket = "containerd/state/containerd.sock.ttrpc"
)

// Dir is an opened data-dir. The zero value is not usable.
type Dir struct{ root string }

// Open makes the folder where it is missing (mode 0700: it holds keys) and checks that it can be used: an absolute path
// short enough for the sockets in it, writable, on a filesystem with free space.
func Open(path string) (Dir, error) {
	if !filepath.IsAbs(path) {
		return Dir{}, fmt.Errorf("--data-dir %q is not absolute; give a path that starts with /", path)
	}
	path = filepath.Clean(path)
	if long := len(filepath.Join(path, longestSocket)); long > maxSocketPath {
		return Dir{}, fmt.Errorf("--data-dir %q is %d characters too long: unix sockets in it could not be opened; give a shorter path", path, long-maxSocketPath)
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return Dir{}, fmt.Errorf("make --data-dir: %w", err)
	}
	probe, err := os.CreateTemp(path, ".probe-")
	if err != nil {
		return Dir{}, fmt.Errorf("--data-dir %q is not writable: %w; give a path on a writable filesystem", path, err)
	}
	probe.Close()
	os.Remove(probe.Name())
	if err := checkSpace(path); err != nil {
		return Dir{}, err
	}
	return Dir{root: path}, nil
}

// OpenExisting is Open for removing: it makes nothing and asks for no space.
func OpenExisting(path string) (Dir, error) {
	if !filepath.IsAbs(path) || filepath.Clean(path) == "/" {
		return Dir{}, fmt.Errorf("--data-dir %q is not an absolute path of a folder; give one", path)
	}
	path = filepath.Clean(path)
	st, err := os.Stat(path)
	if err != nil {
		return Dir{}, fmt.Errorf("open --data-dir: %w", err)
	}
	if !st.IsDir() {
		return Dir{}, fmt.Errorf("--data-dir %q is no folder", path)
	}
	return Dir{root: path}, nil
}

// owned are the entries of the folder that reeve makes.
var owned = []string{"version", "admin.kubeconfig", "server", "backups", "agent", "cri", "containerd", "logpump", "bin", "server.pid", "agent.pid", "controlplane.pid"}

// Remove removes everything in the folder that reeve makes, and the folder itself when nothing else lies in it.
func (d Dir) Remove() error {
	var all error
	for _, name := range owned {
		all = errors.Join(all, os.RemoveAll(filepath.Join(d.root, name)))
	}
	if all != nil {
		return fmt.Errorf("remove the data: %w", all)
	}
	if err := os.Remove(d.root); err != nil && !errors.Is(err, syscall.ENOTEMPTY) {
		return fmt.Errorf("remove the data: %w", err)
	}
	return nil
}

// minFreeBytes is what a start needs: etcd preallocates a 64 MB log segment, twice at a rollover, and the programs that
// are unpacked take about as much again.
const minFreeBytes = 256 << 20

func checkSpace(path string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return fmt.Errorf("look at the filesystem of --data-dir %q: %w", path, err)
	}
	if free := st.Bavail * uint64(st.Bsize); free < minFreeBytes {
		return fmt.Errorf("--data-dir %q has %d MiB free, less than the %d MiB needed to start; free some space or give another path", path, free>>20, minFreeBytes>>20)
	}
	return nil
}

// Root is the folder itself.
func (d Dir) Root() string { return d.root }

// AdminKubeconfig is the administrator's credential, mode 0600.
func (d Dir) AdminKubeconfig() string { return filepath.Join(d.root, "admin.kubeconfig") }

// Server is the control plane's folder.
func (d Dir) Server() string { return filepath.Join(d.root, "server") }

// NodeToken is the file with the token that agents join with, mode 0600.
func (d Dir) NodeToken() string { return filepath.Join(d.Server(), "node-token") }

// Agent is the node agent's folder.
func (d Dir) Agent() string { return filepath.Join(d.root, "agent") }

// Containerd is the private containerd's folder.
func (d Dir) Containerd() string { return filepath.Join(d.root, "containerd") }

// Logpump is the log writer's folder.
func (d Dir) Logpump() string { return filepath.Join(d.root, "logpump") }

// Bin is where the roles' programs are unpacked.
func (d Dir) Bin() string { return filepath.Join(d.root, "bin") }

// PIDFile is where the process that holds a role writes its id.
func (d Dir) PIDFile(role string) string { return filepath.Join(d.root, role+".pid") }

// ErrHeld says that another process holds the role.
var ErrHeld = errors.New("already running")

// Hold takes the role ("server", "agent", …) for this process until it ends, and records its id. The lock is the
// kernel's (flock(2)), so a killed holder leaves none behind. The error wraps ErrHeld when another process has it.
func (d Dir) Hold(role string) (release func(), err error) {
	path := d.PIDFile(role)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open %q: %w", path, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			holder := "another process"
			if pid, ok := readPID(path); ok {
				holder = fmt.Sprintf("process %d", pid)
			}
			return nil, fmt.Errorf("the %s of --data-dir %q is %w as %s; stop it or give another --data-dir", role, d.root, ErrHeld, holder)
		}
		return nil, fmt.Errorf("lock %q: %w", path, err)
	}
	if err := f.Truncate(0); err == nil {
		_, err = fmt.Fprintf(f, "%d\n", os.Getpid())
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("write %q: %w", path, err)
		}
	}
	return func() { f.Close() }, nil
}

// Holder is the id of the live process that holds the role, if any does.
func (d Dir) Holder(role string) (pid int, ok bool) {
	path := d.PIDFile(role)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return 0, false
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err == nil {
		return 0, false
	}
	return readPID(path)
}

func readPID(path string) (int, bool) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	var pid int
	if n, _ := fmt.Sscanf(string(b), "%d", &pid); n != 1 || pid <= 1 {
		return 0, false
	}
	return pid, true
}
