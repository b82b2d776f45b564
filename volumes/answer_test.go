package volumes

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/reevehq/reeve/internal/testenv"
	"github.com/reevehq/reeve/internal/testns"
)

// deadFilesystem mounts a file system whose server never answers, and returns what brings it down.
func deadFilesystem(t *testing.T, dir string) (end func()) {
	t.Helper()
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		testenv.Skip(t, "needs FUSE: "+err.Error())
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("dead", dir, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fd)); err != nil {
		unix.Close(fd)
		t.Fatal(err)
	}
	done := false
	end = func() {
		if !done {
			done = true
			unix.Close(fd) // the kernel fails all that wait
			_ = unix.Unmount(dir, unix.MNT_DETACH)
		}
	}
	t.Cleanup(end)
	return end
}

// A hostPath on a file system that does not answer holds up its own pod alone, says so, and does not keep the pod from
// being taken away; when the file system answers, the next try succeeds.
func TestSilentFilesystem(t *testing.T) {
	testns.Need(t)
	m := newTestManager(t, func(*Config) {})
	base := testenv.Dir(t)
	dir := filepath.Join(base, "dead")
	end := deadFilesystem(t, dir)
	pod := &corev1.Pod{Spec: corev1.PodSpec{
		Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{
			Path: filepath.Join(dir, "sub"), Type: ptr.To(corev1.HostPathDirectoryOrCreate)}}}},
		Containers: []corev1.Container{{Name: "c", VolumeMounts: []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}}},
	}}
	pod.Name, pod.Namespace, pod.UID = "p", "ns", "silent"
	gone := pod.DeepCopy()
	gone.UID = "silent-too"
	m.SetPod(pod)
	m.SetPod(gone)
	m.ReleasePod(gone.UID)
	ctx, cancel := context.WithTimeout(t.Context(), answerTimeout) // a hang would last longer
	defer cancel()
	if err := m.WaitUnmounted(ctx, gone.UID); err != nil {
		t.Errorf("the pod that was taken away: %v", err)
	}
	for {
		if _, _, err := m.Mounts(pod.UID); err != nil {
			if !strings.Contains(err.Error(), "does not answer") {
				t.Errorf("error = %v", err)
			}
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	end()
	if err := os.MkdirAll(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := m.WaitMounted(t.Context(), pod.UID); err != nil {
		t.Error(err)
	}
}
