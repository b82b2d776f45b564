package volumes

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// A payload volume looks like this to the container:
//
//	key            → ..data/key
//	..data         → ..2026_11_22_15_04_05.123456
//	..2026_…/key   the content
//
// New content is written to a folder of its own and comes into force by one rename of ..data: a reader sees all of the
// old or all of the new.
const (
	dataLink    = "..data"
	dataLinkNew = "..data_tmp"
	stampLayout = "..2006_01_02_15_04_05."
)

func hasContent(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, dataLink))
	return err == nil
}

// writePayload makes the content of dir equal to p, in one step for its readers; nothing is written when it already is.
// With gid, all of it belongs to that group and is readable for it.
func writePayload(dir string, p payload, gid *int64) error {
	p = withGroup(p, gid)
	old, err := os.Readlink(filepath.Join(dir, dataLink))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("write volume %q: %w", dir, err)
	}
	if old == "" || filepath.Base(old) != old || !sameContent(filepath.Join(dir, old), p, gid) {
		stamp, err := writeStamp(dir, p, gid)
		if err != nil {
			return fmt.Errorf("write volume %q: %w", dir, err)
		}
		if err := swap(dir, stamp); err != nil {
			return fmt.Errorf("write volume %q: %w", dir, errors.Join(err, os.RemoveAll(filepath.Join(dir, stamp))))
		}
		old = stamp
	}
	// From here on all is repeatable: a writer that died half-way is finished by the next.
	if err := linkKeys(dir, p); err != nil {
		return fmt.Errorf("write volume %q: %w", dir, err)
	}
	if err := sweep(dir, p, old); err != nil {
		return fmt.Errorf("write volume %q: %w", dir, err)
	}
	return nil
}

func withGroup(p payload, gid *int64) payload {
	if gid == nil {
		return p
	}
	out := make(payload, len(p))
	for n, f := range p {
		f.mode |= 0o440
		out[n] = f
	}
	return out
}

func writeStamp(dir string, p payload, gid *int64) (stamp string, err error) {
	root, err := os.MkdirTemp(dir, time.Now().UTC().Format(stampLayout))
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(root))
		}
	}()
	if err := openDir(root, gid); err != nil {
		return "", err
	}
	made := map[string]bool{".": true}
	for name, f := range p {
		for _, d := range parents(name) {
			if made[d] {
				continue
			}
			if err := os.Mkdir(filepath.Join(root, d), 0o755); err != nil {
				return "", err
			}
			if err := openDir(filepath.Join(root, d), gid); err != nil {
				return "", err
			}
			made[d] = true
		}
		if err := writeFile(filepath.Join(root, name), f, gid); err != nil {
			return "", err
		}
	}
	if gid != nil {
		if !belongsTo(dir, *gid) {
			if err := giveToGroup(dir, *gid); err != nil {
				return "", err
			}
		}
	}
	return filepath.Base(root), nil
}

func writeFile(path string, f file, gid *int64) error {
	w, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = w.Write(f.data)
	if group := groupOf(gid); err == nil && (f.uid >= 0 || group >= 0) {
		err = w.Chown(f.uid, group)
	}
	if err == nil {
		err = w.Chmod(os.FileMode(f.mode & 0o777)) // after chown, which may clear bits
	}
	return errors.Join(err, w.Close())
}

func openDir(dir string, gid *int64) error {
	mode := os.FileMode(0o755)
	if gid != nil {
		if err := os.Lchown(dir, -1, int(*gid)); err != nil {
			return err
		}
		mode |= os.ModeSetgid
	}
	return os.Chmod(dir, mode)
}

func groupOf(gid *int64) int {
	if gid == nil {
		return -1
	}
	return int(*gid)
}

func swap(dir, stamp string) error {
	tmp := filepath.Join(dir, dataLinkNew)
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(stamp, tmp); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(dir, dataLink))
}

// linkKeys makes the names that users see: one link for each first path element.
func linkKeys(dir string, p payload) error {
	for name := range p {
		top, _, _ := strings.Cut(name, "/")
		link, want := filepath.Join(dir, top), filepath.Join(dataLink, top)
		got, err := os.Readlink(link)
		if err == nil && got == want {
			continue
		}
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			if err := os.RemoveAll(link); err != nil {
				return err
			}
		}
		if err := os.Symlink(want, link); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// sweep removes the links of keys that are gone and every stamp but the current one.
func sweep(dir string, p payload, current string) error {
	tops := map[string]bool{}
	for name := range p {
		top, _, _ := strings.Cut(name, "/")
		tops[top] = true
	}
	ents, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range ents {
		n := e.Name()
		switch {
		case n == dataLink || n == current || tops[n]:
		case strings.HasPrefix(n, ".."):
			if err := os.RemoveAll(filepath.Join(dir, n)); err != nil {
				return err
			}
		case e.Type()&fs.ModeSymlink != 0:
			// Only links into our data are ours to remove.
			if t, err := os.Readlink(filepath.Join(dir, n)); err == nil && strings.HasPrefix(t, dataLink+"/") {
				if err := os.Remove(filepath.Join(dir, n)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// sameContent says whether the folder holds exactly p, in content, mode and owner.
func sameContent(root string, p payload, gid *int64) bool {
	seen := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return nil
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		f, ok := p[rel]
		if !ok || !d.Type().IsRegular() {
			return errDiffers
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		st, ok := fi.Sys().(*syscall.Stat_t)
		if !ok || fi.Size() != int64(len(f.data)) || uint32(fi.Mode().Perm()) != f.mode&0o777 ||
			int(st.Uid) != max(f.uid, 0) || gid != nil && int64(st.Gid) != *gid {
			return errDiffers
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if !bytes.Equal(data, f.data) {
			return errDiffers
		}
		seen++
		return nil
	})
	return err == nil && seen == len(p)
}

var errDiffers = errors.New("differs")

// parents of "a/b/c" are "a" and "a/b".
func parents(name string) []string {
	var out []string
	for i, r := range name {
		if r == '/' {
			out = append(out, name[:i])
		}
	}
	return out
}
