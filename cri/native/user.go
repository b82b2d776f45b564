package native

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/reevehq/reeve/cri/native/spec"
)

// userWish is who a container asks to be: numbers from the security context, else its name, else the image's "user" or
// "user:group". strict leaves out the groups that /etc/group adds.
type userWish struct {
	uid, gid *runtimeapi.Int64Value
	name     string
	image    string
	groups   []int64
	strict   bool
}

// lookupUser settles the wish against passwd and group of the container's root.
func lookupUser(root []mount.Mount, w userWish) (spec.User, error) {
	var u spec.User
	if w.gid != nil && w.uid == nil && w.name == "" {
		return u, errors.New("run as group without a user: set runAsUser too")
	}
	wish, group := w.image, ""
	switch {
	case w.uid != nil:
		if w.uid.Value < 0 || w.uid.Value > math.MaxUint32 {
			return u, fmt.Errorf("user ID %d is out of range", w.uid.Value)
		}
		wish = strconv.FormatInt(w.uid.Value, 10)
	case w.name != "":
		wish = w.name
	default:
		wish, group, _ = strings.Cut(w.image, ":")
	}
	if wish == "" {
		wish = "0"
	}
	passwd, err := openIn(root, "etc/passwd")
	if err != nil {
		return u, err
	}
	entry, known := findPasswd(passwd, wish)
	if known {
		u.UID, u.GID = entry.uid, entry.gid
	} else {
		n, err := strconv.ParseUint(wish, 10, 32)
		if err != nil {
			return u, fmt.Errorf("user %q is not in the image's /etc/passwd", wish)
		}
		u.UID = uint32(n)
	}
	groups, err := openIn(root, "etc/group")
	if err != nil {
		return u, err
	}
	list := parseGroups(groups)
	switch {
	case w.gid != nil:
		if w.gid.Value < 0 || w.gid.Value > math.MaxUint32 {
			return u, fmt.Errorf("group ID %d is out of range", w.gid.Value)
		}
		u.GID = uint32(w.gid.Value)
	case group != "":
		if n, err := strconv.ParseUint(group, 10, 32); err == nil {
			u.GID = uint32(n)
		} else if i := slices.IndexFunc(list, func(g groupEntry) bool { return g.name == group }); i >= 0 {
			u.GID = list[i].gid
		} else {
			return u, fmt.Errorf("group %q is not in the image's /etc/group", group)
		}
	}
	add := func(g uint32) {
		if !slices.Contains(u.Additional, g) {
			u.Additional = append(u.Additional, g)
		}
	}
	add(u.GID) // as initgroups(3) does
	if known && !w.strict {
		for _, g := range list {
			if slices.Contains(g.members, entry.name) {
				add(g.gid)
			}
		}
	}
	for _, g := range w.groups {
		if g < 0 || g > math.MaxUint32 {
			return u, fmt.Errorf("supplemental group %d is out of range", g)
		}
		add(uint32(g))
	}
	return u, nil
}

type passwdEntry struct {
	name     string
	uid, gid uint32
}

// findPasswd looks up a name, or a number: then any entry with that user ID.
func findPasswd(data []byte, wish string) (passwdEntry, bool) {
	for line := range strings.Lines(string(data)) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) < 4 || f[0] == "" || f[0] != wish && f[2] != wish {
			continue
		}
		uid, err1 := strconv.ParseUint(f[2], 10, 32)
		gid, err2 := strconv.ParseUint(f[3], 10, 32)
		if err1 == nil && err2 == nil {
			return passwdEntry{f[0], uint32(uid), uint32(gid)}, true
		}
	}
	return passwdEntry{}, false
}

type groupEntry struct {
	name    string
	gid     uint32
	members []string
}

func parseGroups(data []byte) []groupEntry {
	var out []groupEntry
	for line := range strings.Lines(string(data)) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) < 4 {
			continue
		}
		if gid, err := strconv.ParseUint(f[2], 10, 32); err == nil {
			out = append(out, groupEntry{f[0], uint32(gid), strings.Split(f[3], ",")})
		}
	}
	return out
}

// maxUserFile bounds /etc/passwd and /etc/group, which an image may make as large as it likes.
const maxUserFile = 4 << 20

// openIn reads a file of a container's root without mounting it, where that is possible: from the layers of an overlay,
// uppermost first, or from the source of a bind mount. A missing file is empty. Mounting would cost two system calls and
// a lock that all mounts of the host share, for every container.
func openIn(root []mount.Mount, name string) ([]byte, error) {
	if len(root) == 1 {
		var layers []string
		switch m := root[0]; m.Type {
		case "bind":
			layers = []string{m.Source}
		case "overlay":
			for _, o := range m.Options {
				if v, ok := strings.CutPrefix(o, "lowerdir="); ok {
					layers = strings.Split(v, ":")
				}
			}
		}
		if len(layers) > 0 {
			data, err := readLayers(layers, name)
			if !errors.Is(err, errComplicated) {
				return data, err
			}
		}
	}
	var data []byte
	err := mount.WithTempMount(context.Background(), root, func(dir string) error {
		r, err := os.OpenRoot(dir)
		if err != nil {
			return err
		}
		defer r.Close()
		f, err := r.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		defer f.Close()
		data, err = readLimited(f)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read /%s of the image: %w", name, err)
	}
	return data, nil
}

// errComplicated says that a path needs the kernel to be followed: a symbolic link on the way.
var errComplicated = errors.New("needs a mount")

func readLayers(layers []string, name string) ([]byte, error) {
	for _, layer := range layers {
		dir := layer
		opaque := false
		parts := strings.Split(name, "/")
		for i, part := range parts {
			dir = filepath.Join(dir, part)
			var st unix.Stat_t
			err := unix.Lstat(dir, &st)
			if err == unix.ENOENT || err == unix.ENOTDIR {
				break
			}
			if err != nil {
				return nil, fmt.Errorf("read /%s of the image: %w", name, err)
			}
			switch st.Mode & unix.S_IFMT {
			case unix.S_IFLNK:
				return nil, errComplicated
			case unix.S_IFCHR:
				if st.Rdev == 0 { // a whiteout: nothing below counts
					return nil, nil
				}
			case unix.S_IFDIR:
				var b [1]byte
				for _, attr := range []string{"trusted.overlay.opaque", "user.overlay.opaque"} {
					if n, err := unix.Lgetxattr(dir, attr, b[:]); err == nil && n == 1 && b[0] == 'y' {
						opaque = true
					}
				}
			}
			if i == len(parts)-1 {
				if st.Mode&unix.S_IFMT != unix.S_IFREG {
					return nil, errComplicated
				}
				f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
				if err != nil {
					return nil, fmt.Errorf("read /%s of the image: %w", name, err)
				}
				defer f.Close()
				return readLimited(f)
			}
		}
		if opaque {
			return nil, nil
		}
	}
	return nil, nil
}

func readLimited(f *os.File) ([]byte, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() > maxUserFile {
		return nil, fmt.Errorf("%s is no file of at most %d bytes", f.Name(), maxUserFile)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxUserFile))
	if err != nil {
		return nil, err
	}
	return b, nil
}
