package rolebin

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// Names of what a full build carries.
const (
	ControlPlane = "reeve-controlplane"
	Kubectl      = "kubectl"
)

// ErrMissing says that this build carries no such payload.
var ErrMissing = errors.New("this build does not carry it; build with `make build`")

// open returns the payload's plain bytes as a stream and the SHA-256 (hex) of them.
func open(name string) (io.ReadCloser, string, error) {
	sum, err := payload.ReadFile(payloadDir + "/" + name + ".sha256")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", fmt.Errorf("find embedded %q: %w", name, ErrMissing)
	}
	if err != nil {
		return nil, "", err
	}
	packed, err := payload.Open(payloadDir + "/" + name + ".zst")
	if err != nil {
		return nil, "", fmt.Errorf("find embedded %q: %w", name, ErrMissing)
	}
	// One thread and a small window: this runs while the node starts, in a process whose memory is counted.
	plain, err := zstd.NewReader(packed, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
	if err != nil {
		packed.Close()
		return nil, "", fmt.Errorf("unpack embedded %q: %w", name, err)
	}
	return plain.IOReadCloser(), strings.TrimSpace(string(sum)), nil
}

// Unpack writes the program below dir as <dir>/<hash>/<name>, mode 0755, unless it lies there already, and returns the
// path. A crash leaves no half-written program under that name. Without a payload it returns the program of that name
// beside the running executable, or an error that wraps ErrMissing.
func Unpack(dir, name string) (string, error) {
	r, sum, err := open(name)
	if errors.Is(err, ErrMissing) {
		return beside(name, err)
	}
	if err != nil {
		return "", err
	}
	defer r.Close()
	path := filepath.Join(dir, sum[:12], name)
	if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() {
		return path, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", fmt.Errorf("unpack %q: %w", name, err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+name+"-")
	if err != nil {
		return "", fmt.Errorf("unpack %q: %w", name, err)
	}
	defer os.Remove(tmp.Name())
	_, err = io.Copy(tmp, r)
	if err = errors.Join(err, tmp.Chmod(0o755), tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return "", fmt.Errorf("unpack %q to %q: %w", name, path, err)
	}
	return path, nil
}

func beside(name string, missing error) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", missing
	}
	path := filepath.Join(filepath.Dir(self), name)
	if st, err := os.Stat(path); err != nil || !st.Mode().IsRegular() {
		return "", missing
	}
	return path, nil
}

// Exec replaces this process by the program, run from memory (memfd_create(2)): nothing is written to disk, so it works
// for any user. It returns only on failure.
func Exec(name string, args, env []string) error {
	r, _, err := open(name)
	if errors.Is(err, ErrMissing) {
		path, err := beside(name, err)
		if err != nil {
			return err
		}
		return fmt.Errorf("run %q: %w", path, syscall.Exec(path, append([]string{name}, args...), env))
	}
	if err != nil {
		return err
	}
	defer r.Close()
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("make a memory file for %q: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if _, err := io.Copy(f, r); err != nil {
		return fmt.Errorf("unpack %q into memory: %w", name, err)
	}
	path := fmt.Sprintf("/proc/self/fd/%d", fd)
	return fmt.Errorf("run %q: %w", name, syscall.Exec(path, append([]string{name}, args...), env))
}

// Prune removes the unpacked programs below dir that this build does not use; running ones keep their inode.
func Prune(dir string) error {
	keep := map[string]bool{}
	for _, name := range []string{ControlPlane, Kubectl} {
		if sum, err := payload.ReadFile(payloadDir + "/" + name + ".sha256"); err == nil {
			keep[string(bytes.TrimSpace(sum))[:12]] = true
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("list unpacked programs: %w", err)
	}
	var all error
	for _, e := range entries {
		if !keep[e.Name()] {
			all = errors.Join(all, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return all
}
