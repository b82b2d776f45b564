package volumes

import (
	"fmt"
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
