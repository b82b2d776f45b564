package volumes

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/reevehq/reeve/internal/testns"
)

// One pod with every kind, from admission to nothing left.
func TestPodLife(t *testing.T) {
	testns.Need(t)
	objs := objectsForAll()
	m := newTestManager(t, func(c *Config) { c.Objects = objs })
	pod := allKinds()
	m.SetPod(pod)
	if err := m.WaitMounted(t.Context(), pod.UID); err != nil {
		t.Fatal(err)
	}
	vols, ok, err := m.Mounts(pod.UID)
	if !ok || err != nil || len(vols) != 7 {
		t.Fatalf("mounts = %v, ok %v, %v", vols, ok, err)
	}
	for name, want := range map[string]map[string]string{
		"cm": {"d/k": "400 v"}, "secret": {"pw": "400 hush"}, "down": {"labels": `644 app="x"`},
		"proj": {"token": "644 ns/robot#1", "k": "644 v", "namespace": "644 ns"}, "opt": {}, "tmp": {}, "mem": {},
	} {
		if d := cmp.Diff(want, seen(t, vols[name].HostPath)); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
	for _, name := range []string{"mem", "secret", "down", "proj"} {
		var st unix.Statfs_t
		if err := unix.Statfs(vols[name].HostPath, &st); err != nil || st.Type != unix.TMPFS_MAGIC {
			t.Errorf("%s does not lie in memory (type %x, %v)", name, st.Type, err)
		}
		if name == "mem" && int64(st.Blocks)*st.Bsize != 1<<20 {
			t.Errorf("mem is %d bytes, want 1Mi", int64(st.Blocks)*st.Bsize)
		}
	}
	if fi, err := os.Stat(vols["tmp"].HostPath); err != nil || fi.Mode().Perm() != 0o777 {
		t.Errorf("tmp: %v, %v", fi, err)
	}
	if err := os.WriteFile(filepath.Join(vols["mem"].HostPath, "kept"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}

	// A restart of the agent changes nothing that is mounted.
	m.Close()
	before, err := m.m.Below(m.cfg.RootDir)
	if err != nil {
		t.Fatal(err)
	}
	m2, err := NewManager(m.cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m2.Close)
	m2.SetPods([]*corev1.Pod{pod})
	if err := m2.WaitMounted(t.Context(), pod.UID); err != nil {
		t.Fatal(err)
	}
	after, err := m2.m.Below(m.cfg.RootDir)
	if err != nil || !cmp.Equal(before, after) {
		t.Errorf("mounts changed over a restart: %v → %v (%v)", before, after, err)
	}
	if _, err := os.Stat(filepath.Join(vols["mem"].HostPath, "kept")); err != nil {
		t.Errorf("a memory volume lost its content: %v", err)
	}

	m2.ReleasePod(pod.UID)
	if err := m2.WaitUnmounted(t.Context(), pod.UID); err != nil {
		t.Fatal(err)
	}
	if !m2.Unmounted(pod.UID) {
		t.Error("Unmounted is false after WaitUnmounted")
	}
	if err := m2.RemovePodDir(pod.UID); err != nil {
		t.Fatal(err)
	}
	if left, err := m2.m.Below(m.cfg.RootDir); err != nil || len(left) != 0 {
		t.Errorf("left mounted: %v, %v", left, err)
	}
	if _, err := os.Lstat(m2.PodDir(pod.UID)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the pod's folder is still there: %v", err)
	}
	objs.mu.Lock()
	defer objs.mu.Unlock()
	if len(objs.refs) != 0 {
		t.Errorf("still retained: %v", objs.refs)
	}
}

// Changes of the API and of the pod's labels reach the files without a restart; a ConfigMap that comes late ends the wait.
func TestLiveUpdates(t *testing.T) {
	testns.Need(t)
	objs := newFakeObjects()
	objs.secrets["ns/s"] = &corev1.Secret{Data: map[string][]byte{"pw": []byte("hush")}}
	var mu sync.Mutex
	var events []string
	m := newTestManager(t, func(c *Config) {
		c.Objects = objs
		c.OnEvent = func(_ *corev1.Pod, _, reason, msg string) {
			mu.Lock()
			defer mu.Unlock()
			events = append(events, reason+": "+msg)
		}
	})
	pod := allKinds()
	m.SetPod(pod)
	waitFor(t, "the FailedMount events", func() bool { mu.Lock(); defer mu.Unlock(); return len(events) == 2 })
	if want := `FailedMount: MountVolume.SetUp failed for volume "cm" : configmap "cm" not found`; events[0] != want {
		t.Errorf("event %q, want %q", events[0], want)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	if err := m.WaitMounted(ctx, pod.UID); err == nil {
		t.Error("WaitMounted succeeded without its ConfigMap")
	}
	cancel()
	objs.setConfigMap("cm", map[string]string{"k": "one"})
	if err := m.WaitMounted(t.Context(), pod.UID); err != nil {
		t.Fatal(err)
	}
	vols, _, _ := m.Mounts(pod.UID)
	objs.setConfigMap("cm", map[string]string{"k": "two"})
	waitFor(t, "the ConfigMap's new content", reads(filepath.Join(vols["cm"].HostPath, "d/k"), "two"))
	waitFor(t, "the same in the projected volume", reads(filepath.Join(vols["proj"].HostPath, "k"), "two"))
	next := pod.DeepCopy()
	next.Labels["app"] = "y"
	m.SetPod(next)
	waitFor(t, "the pod's new label", reads(filepath.Join(vols["down"].HostPath, "labels"), `app="y"`))
	// A ConfigMap that is deleted leaves the files, and the pod ready.
	objs.mu.Lock()
	delete(objs.cms, "ns/cm")
	objs.mu.Unlock()
	m.kick(pod.UID)
	waitFor(t, "the error of the missing ConfigMap", func() bool { _, _, err := m.Mounts(pod.UID); return err != nil })
	if _, ok, _ := m.Mounts(pod.UID); !ok {
		t.Error("a pod that was ready is not any more")
	}
	if !reads(filepath.Join(vols["cm"].HostPath, "d/k"), "two")() {
		t.Error("the file went with the ConfigMap")
	}
}

// Folders of pods that nobody wants, found on disk after a restart, go with their mounts; a foreign file below pods/ and
// what a mount shows do not.
func TestOrphans(t *testing.T) {
	testns.Need(t)
	m := newTestManager(t, nil)
	vol := filepath.Join(m.volumesDir("gone"), "kubernetes.io~secret", "s")
	if err := os.MkdirAll(vol, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := mountTmpfs(m.m, vol, 0, true); err != nil {
		t.Fatal(err)
	}
	host := t.TempDir()
	if err := os.WriteFile(filepath.Join(host, "precious"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	bound := filepath.Join(m.subpathsDir("gone"), "v", "c", "0")
	if err := os.MkdirAll(bound, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := m.m.Mount(host, bound, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	m.SetPods(nil)
	waitFor(t, "the orphan's folder to go", func() bool { _, err := os.Lstat(m.PodDir("gone")); return errors.Is(err, os.ErrNotExist) })
	if _, err := os.Stat(filepath.Join(host, "precious")); err != nil {
		t.Errorf("the removal went through a mount: %v", err)
	}
}

func TestRemoveTreeRefusesMounts(t *testing.T) {
	testns.Need(t)
	dir := t.TempDir()
	inner := filepath.Join(dir, "a", "b")
	if err := os.MkdirAll(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	k := kernelMounter{}
	if err := k.Mount("tmpfs", inner, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer k.Unmount(inner, true)
	if err := removeTree(k, dir); err == nil {
		t.Error("a tree with a mount in it was removed")
	}
	if is, err := k.IsMountPoint(inner); err != nil || !is {
		t.Errorf("IsMountPoint = %v, %v", is, err)
	}
	if is, err := k.IsMountPoint(dir); err != nil || is {
		t.Errorf("IsMountPoint of a plain folder = %v, %v", is, err)
	}
}

func TestFSGroup(t *testing.T) {
	testns.Need(t)
	objs := objectsForAll()
	m := newTestManager(t, func(c *Config) { c.Objects = objs })
	pod := allKinds()
	g, u := int64(1234), int64(4321)
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: &g, RunAsUser: &u}
	m.SetPod(pod)
	if err := m.WaitMounted(t.Context(), pod.UID); err != nil {
		t.Fatal(err)
	}
	vols, _, _ := m.Mounts(pod.UID)
	for path, want := range map[string]struct {
		mode     os.FileMode
		uid, gid uint32
	}{
		filepath.Join(vols["cm"].HostPath, "d/k"):     {0o440, 0, 1234},
		filepath.Join(vols["proj"].HostPath, "token"): {0o640, 4321, 1234},
		filepath.Join(vols["proj"].HostPath, "k"):     {0o644, 0, 1234},
		vols["tmp"].HostPath:                          {0o777, 0, 1234},
		vols["mem"].HostPath:                          {0o777, 0, 1234},
	} {
		fi, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		st := fi.Sys().(*syscall.Stat_t)
		if fi.Mode().Perm() != want.mode || st.Uid != want.uid || st.Gid != want.gid {
			t.Errorf("%s: mode %o, owner %d:%d, want %o, %d:%d", path, fi.Mode().Perm(), st.Uid, st.Gid, want.mode, want.uid, want.gid)
		}
		if fi.IsDir() && fi.Mode()&os.ModeSetgid == 0 {
			t.Errorf("%s does not hand its group on", path)
		}
	}
}

func TestHostPathTypes(t *testing.T) {
	dir := t.TempDir()
	f := filepath.Join(dir, "f")
	if err := os.WriteFile(f, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		path string
		typ  corev1.HostPathType
		ok   bool
	}{
		{dir, corev1.HostPathDirectory, true}, {f, corev1.HostPathDirectory, false}, {f, corev1.HostPathFile, true}, {dir, corev1.HostPathFile, false},
		{filepath.Join(dir, "absent"), corev1.HostPathDirectory, false}, {filepath.Join(dir, "absent"), corev1.HostPathUnset, true},
		{filepath.Join(dir, "new/d"), corev1.HostPathDirectoryOrCreate, true}, {filepath.Join(dir, "new/f"), corev1.HostPathFileOrCreate, true},
		{filepath.Join(dir, "no/f"), corev1.HostPathFileOrCreate, false}, {f, corev1.HostPathDirectoryOrCreate, false},
		{"/dev/null", corev1.HostPathCharDev, true}, {"/dev/null", corev1.HostPathBlockDev, false}, {f, corev1.HostPathSocket, false}, {f, "Nonsense", false},
	} {
		if err := checkHostPath(tc.path, tc.typ); (err == nil) != tc.ok {
			t.Errorf("%s as %q: %v, want ok %v", tc.path, tc.typ, err, tc.ok)
		}
	}
}

// Sources that this node cannot serve hold the pod up with an error that names them.
func TestUnsupportedSourcesAreNamed(t *testing.T) {
	m := newTestManager(t, func(c *Config) { c.Objects = objectsForAll() })
	for want, src := range map[string]corev1.VolumeProjection{
		"source 0: clusterTrustBundle is not supported": {ClusterTrustBundle: &corev1.ClusterTrustBundleProjection{Path: "ca"}},
		"source 0: podCertificate is not supported":     {PodCertificate: &corev1.PodCertificateProjection{}},
	} {
		_, _, err := m.projectedPayload(t.Context(), &corev1.Pod{}, &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{src}}, t.TempDir())
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error = %v, want %q in it", err, want)
		}
	}
}
