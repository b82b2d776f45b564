package datadir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// backupsKept is how many copies BackupEtcd leaves.
const backupsKept = 3

// BackupEtcd copies the embedded etcd's data, which must not be running, to <data-dir>/backups/<time>-<version> and
// removes all but the newest three copies. It returns the new copy's path, or "" where there is no data.
func (d Dir) BackupEtcd(fromVersion string, now time.Time) (string, error) {
	src := filepath.Join(d.Server(), "etcd")
	if _, err := os.Stat(src); errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	parent := filepath.Join(d.root, "backups")
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return "", err
	}
	dst := filepath.Join(parent, now.UTC().Format("20060102T150405Z")+"-"+fromVersion)
	tmp := filepath.Join(parent, ".partial")
	if err := os.RemoveAll(tmp); err != nil {
		return "", err
	}
	if err := copyRegular(src, tmp); err != nil {
		return "", errors.Join(fmt.Errorf("copy %q to %q: %w", src, dst, err), os.RemoveAll(tmp))
	}
	if err := os.Rename(tmp, dst); err != nil {
		return "", err
	}
	entries, err := os.ReadDir(parent)
	if err != nil {
		return "", err
	}
	// ReadDir sorts by name and names begin with the time.
	entries = slices.DeleteFunc(entries, func(e fs.DirEntry) bool { return strings.HasPrefix(e.Name(), ".") })
	for len(entries) > backupsKept {
		if err := os.RemoveAll(filepath.Join(parent, entries[0].Name())); err != nil {
			return "", err
		}
		entries = entries[1:]
	}
	return dst, nil
}

// copyRegular copies folders and regular files; etcd's sockets stay behind.
func copyRegular(src, dst string) error {
	return filepath.WalkDir(src, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(src, p)
		if err != nil {
			return err
		}
		to := filepath.Join(dst, rel)
		switch {
		case e.IsDir():
			return os.MkdirAll(to, 0o700)
		case e.Type().IsRegular():
			return copyFile(p, to)
		}
		return nil
	})
}

func copyFile(src, dst string) (err error) {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = out.ReadFrom(in)
	return errors.Join(err, out.Sync(), out.Close())
}
