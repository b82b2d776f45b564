package volumes

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	corev1 "k8s.io/api/core/v1"
)

// fsGroup is the pod's securityContext.fsGroup, nil when it has none.
func fsGroup(pod *corev1.Pod) *int64 {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	return pod.Spec.SecurityContext.FSGroup
}

// giveToGroup makes a fresh folder the group's: owned by it, readable, writable and searchable for it, and handing the
// group on to what is made inside.
func giveToGroup(dir string, gid int64) error {
	if err := os.Lchown(dir, -1, int(gid)); err != nil {
		return fmt.Errorf("give %q to fsGroup %d: %w", dir, gid, err)
	}
	fi, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("give %q to fsGroup %d: %w", dir, gid, err)
	}
	mode := fi.Mode()&(os.ModePerm|os.ModeSticky) | 0o770 | os.ModeSetgid
	if err := os.Chmod(dir, mode); err != nil {
		return fmt.Errorf("give %q to fsGroup %d: %w", dir, gid, err)
	}
	return nil
}

// commonUser is the user that every container of the pod runs as, nil when they differ or do not say.
func commonUser(pod *corev1.Pod) *int64 {
	var of *int64
	if sc := pod.Spec.SecurityContext; sc != nil {
		of = sc.RunAsUser
	}
	var user *int64
	same := true
	check := func(sc *corev1.SecurityContext) {
		u := of
		if sc != nil && sc.RunAsUser != nil {
			u = sc.RunAsUser
		}
		switch {
		case u == nil:
			same = false
		case user == nil:
			user = u
		case *user != *u:
			same = false
		}
	}
	for i := range pod.Spec.InitContainers {
		check(pod.Spec.InitContainers[i].SecurityContext)
	}
	for i := range pod.Spec.Containers {
		check(pod.Spec.Containers[i].SecurityContext)
	}
	for i := range pod.Spec.EphemeralContainers {
		check(pod.Spec.EphemeralContainers[i].SecurityContext)
	}
	if !same {
		return nil
	}
	return user
}

func belongsTo(dir string, gid int64) bool {
	fi, err := os.Lstat(dir)
	if err != nil {
		return false
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && int64(st.Gid) == gid
}

// giveTree makes all of a volume the group's, as fsGroup asks for volumes that hold data already. With policy
// OnRootMismatch nothing is walked when the volume's own folder is right. It stays inside the volume whatever links there
// are, and goes on after what vanished meanwhile.
func giveTree(dir string, gid int64, policy *corev1.PodFSGroupChangePolicy) error {
	if policy != nil && *policy == corev1.FSGroupChangeOnRootMismatch && belongsTo(dir, gid) {
		fi, err := os.Lstat(dir)
		if err == nil && fi.Mode()&os.ModeSetgid != 0 && fi.Mode().Perm()&0o070 == 0o070 {
			return nil
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("give %q to fsGroup %d: %w", dir, gid, err)
	}
	defer root.Close()
	err = fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if name == "." {
			return nil // last, so that a change that was cut short does not look done
		}
		return giveOne(root, name, d.Type(), gid)
	})
	if err == nil {
		err = giveOne(root, ".", fs.ModeDir, gid)
	}
	if err != nil {
		return fmt.Errorf("give %q to fsGroup %d: %w", dir, gid, err)
	}
	return nil
}

func giveOne(root *os.Root, name string, typ fs.FileMode, gid int64) error {
	err := root.Lchown(name, -1, int(gid))
	if err == nil && typ&fs.ModeSymlink == 0 {
		var fi fs.FileInfo
		if fi, err = root.Lstat(name); err == nil {
			mode := fi.Mode() & (os.ModePerm | os.ModeSticky | os.ModeSetuid | os.ModeSetgid)
			if fi.IsDir() {
				mode |= 0o770 | os.ModeSetgid
			} else {
				mode |= 0o660
			}
			err = root.Chmod(name, mode)
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
