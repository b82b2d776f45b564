package volumes

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/reevehq/reeve/internal/testns"
)

// A volume that somebody on the node still uses does not hold the pod up: it is detached, and an event names the user.
func TestBusyVolumeIsDetached(t *testing.T) {
	testns.Need(t)
	var mu sync.Mutex
	var events []string
	m := newTestManager(t, func(c *Config) {
		c.Objects = objectsForAll()
		c.OnEvent = func(_ *corev1.Pod, _, reason, msg string) {
			mu.Lock()
			defer mu.Unlock()
			events = append(events, reason+": "+msg)
		}
	})
	pod := allKinds()
	m.SetPod(pod)
	if err := m.WaitMounted(t.Context(), pod.UID); err != nil {
		t.Fatal(err)
	}
	vols, _, _ := m.Mounts(pod.UID)
	f, err := os.Create(filepath.Join(vols["mem"].HostPath, "held"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m.ReleasePod(pod.UID)
	if err := m.WaitUnmounted(t.Context(), pod.UID); err != nil {
		t.Fatal(err)
	}
	if left, err := m.m.Below(m.PodDir(pod.UID)); err != nil || len(left) != 0 {
		t.Errorf("left mounted: %v, %v", left, err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(events) != 1 || !strings.HasPrefix(events[0], "FailedUnmount: ") || !strings.Contains(events[0], fmt.Sprintf("process %d (", os.Getpid())) {
		t.Errorf("events %q, want one FailedUnmount that names process %d", events, os.Getpid())
	}
	if _, err := f.WriteString("still here"); err != nil {
		t.Errorf("the holder lost its file: %v", err)
	}
}
