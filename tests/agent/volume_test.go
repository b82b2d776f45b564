package agent

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// podDir is the pod's folder on the node.
func (s *space) podDir(p *v1.Pod) string {
	return filepath.Join(s.Dir, "kubelet", "pods", string(p.UID))
}

// says runs a shell line in the container and compares what it prints.
func (s *space) says(pod, container, line, want string) {
	s.t.Helper()
	out, err := s.exec(pod, container, "sh", "-c", line)
	if got := strings.Join(strings.Fields(out), " "); err != nil || got != want {
		s.t.Errorf("in %s/%s, %s: %q, %v; want %q", pod, container, line, got, err, want)
	}
}

// TestEmptyDir shares one on disk and one in memory between a root and another user's container.
func TestEmptyDir(t *testing.T) {
	s := open(t)
	p := s.pod("p", `
containers:
- {name: c, command: [sh, -c, "while [ ! -e /disk/crash ]; do sleep 0.1; done; rm /disk/crash; exit 1"], volumeMounts: [{name: disk, mountPath: /disk}, {name: mem, mountPath: /mem}]}
- {name: d, command: [sleep, "3600"], securityContext: {runAsUser: 1000, runAsNonRoot: true}, volumeMounts: [{name: disk, mountPath: /disk}, {name: mem, mountPath: /mem}]}
volumes:
- {name: disk, emptyDir: {}}
- {name: mem, emptyDir: {medium: Memory, sizeLimit: 4Mi}}
`)
	s.running("p")
	s.says("p", "d", "stat -c '%a %U' /disk /mem", "777 root 1777 root")
	s.says("p", "d", "echo hello > /disk/f; echo there > /mem/f; stat -c '%u' /disk/f", "1000")
	s.says("p", "c", "cat /disk/f /mem/f", "hello there")
	s.says("p", "d", "grep ' /mem ' /proc/mounts | cut -d' ' -f3", "tmpfs")
	if out, err := s.exec("p", "d", "dd", "if=/dev/zero", "of=/mem/big", "bs=1M", "count=8"); err == nil || !strings.Contains(out, "No space left") {
		t.Errorf("8 MiB fit into a memory volume of 4: %q, %v", out, err)
	}
	// What is in them outlives a container's crash, and goes with the pod.
	s.says("p", "c", "touch /disk/crash", "")
	s.wait("p", "restarted", func(p *v1.Pod) error { return is("restartCount", status(p, "c").RestartCount, 1) })
	s.ready("p")
	s.says("p", "c", "cat /disk/f /mem/f", "hello there")
	s.delete("p")
	s.gone("p")
	s.noFolder(p)
}

// TestStorageLimits lets pods outgrow what they allowed themselves: each is evicted for that, and its neighbour is not.
func TestStorageLimits(t *testing.T) {
	s := open(t)
	s.pod("volume", `{restartPolicy: Never, containers: [{name: c, command: [sh, -c, "dd if=/dev/zero of=/v/f bs=1M count=6; sleep 3600"], volumeMounts: [{name: v, mountPath: /v}]}],
		volumes: [{name: v, emptyDir: {sizeLimit: 5Mi}}]}`)
	s.pod("layer", `{restartPolicy: Never, containers: [{name: c, resources: {limits: {ephemeral-storage: 5Mi}}, command: [sh, -c, "dd if=/dev/zero of=/f bs=1M count=6; sleep 3600"]}]}`)
	s.pod("log", `{restartPolicy: Never, containers: [{name: c, resources: {limits: {ephemeral-storage: 5Mi}}, command: [sh, -c, "yes 0123456789 | head -c 6000000; sleep 3600"]}]}`)
	s.pod("sum", `{restartPolicy: Never, containers: [{name: c, resources: {limits: {ephemeral-storage: 5Mi}}, command: [sh, -c, "dd if=/dev/zero of=/v/f bs=1M count=6; sleep 3600"], volumeMounts: [{name: v, mountPath: /v}]}],
		volumes: [{name: v, emptyDir: {}}]}`)
	s.pod("within", `{restartPolicy: Never, containers: [{name: c, resources: {limits: {ephemeral-storage: 20Mi}}, command: [sh, -c, "dd if=/dev/zero of=/v/f bs=1M count=4; dd if=/dev/zero of=/story/big bs=1M count=30; sleep 3600"], volumeMounts: [{name: v, mountPath: /v}]}],
		volumes: [{name: v, emptyDir: {sizeLimit: 5Mi}}]}`) // a hostPath is not the pod's own
	for name, want := range map[string]string{
		"volume": `Usage of EmptyDir volume "v" exceeds the limit "5Mi".`, "layer": `Container c exceeded its local ephemeral storage limit "5Mi".`,
		"log": `Container c exceeded its local ephemeral storage limit "5Mi".`, "sum": "Pod ephemeral local storage usage exceeds the total limit of containers 5Mi.",
	} {
		p := s.ended(name, v1.PodFailed)
		if p.Status.Reason != "Evicted" || !strings.Contains(p.Status.Message, want) {
			t.Errorf("pod %s: %s: %s; want Evicted: %s", name, p.Status.Reason, p.Status.Message, want)
		}
		if err := condition(p, v1.DisruptionTarget, v1.ConditionTrue, v1.PodReasonTerminationByKubelet); err != nil {
			t.Errorf("pod %s: %v", name, err)
		}
	}
	if got := s.now("within").Status.Phase; got != v1.PodRunning {
		t.Errorf("the pod within its limits is %s", got)
	}
}

// TestHostPathTypes mounts each kind of file as what it is, and as what it is not.
func TestHostPathTypes(t *testing.T) {
	s := open(t)
	l, err := net.Listen("unix", s.path("socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := errors.Join(os.WriteFile(s.path("file"), []byte("x"), 0o644), os.Mkdir(s.path("dir"), 0o755)); err != nil {
		t.Fatal(err)
	}
	dev := "/dev/loop0" // a block device, there or not
	if _, err := os.Stat(dev); err != nil {
		dev = s.path("block")
		if err := unix.Mknod(dev, unix.S_IFBLK|0o600, int(unix.Mkdev(7, 0))); err != nil {
			t.Fatal(err)
		}
	}
	good := map[string][2]string{
		"directory": {"Directory", s.path("dir")}, "file": {"File", s.path("file")}, "socket": {"Socket", s.path("socket")},
		"chardev": {"CharDevice", "/dev/null"}, "blockdev": {"BlockDevice", dev},
		"newdir": {"DirectoryOrCreate", s.path("new/dir")}, "newfile": {"FileOrCreate", s.path("newfile")}, "unset": {"", s.path("implied")},
	}
	bad := map[string][3]string{
		"nodir": {"Directory", s.path("missing"), "is not a directory"}, "fileasdir": {"Directory", s.path("file"), "is not a directory"},
		"dirasfile": {"File", s.path("dir"), "is not a file"}, "fileassocket": {"Socket", s.path("file"), "is not a socket file"},
		"fileaschar": {"CharDevice", s.path("file"), "is not a character device"}, "charasblock": {"BlockDevice", "/dev/null", "is not a block device"},
	}
	text := func(kind, path string) string {
		return fmt.Sprintf(`{restartPolicy: Never, containers: [{name: c, command: [stat, -c, "%%F", /v], volumeMounts: [{name: v, mountPath: /v}]}], volumes: [{name: v, hostPath: {type: %q, path: %q}}]}`, kind, path)
	}
	for name, x := range good {
		s.pod(name, text(x[0], x[1]))
	}
	for name, x := range bad {
		s.pod(name, text(x[0], x[1]))
	}
	for name := range good {
		s.ended(name, v1.PodSucceeded)
	}
	for name, x := range bad {
		s.event(name, "FailedMount", x[2])
		if p := s.now(name); p.Status.Phase != v1.PodPending {
			t.Errorf("pod %s is %s", name, p.Status.Phase)
		}
	}
	for path, dir := range map[string]bool{"new/dir": true, "newfile": false, "implied": true} {
		if fi, err := os.Stat(s.path(path)); err != nil || fi.IsDir() != dir {
			t.Errorf("made %s: %v, %v", path, fi, err)
		}
	}
}

// claim makes a volume and a claim bound to it, as the binder would.
func (s *space) claim(name string, change func(*v1.PersistentVolume)) {
	s.t.Helper()
	pv := &v1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: s.ns + "-" + name}, Spec: v1.PersistentVolumeSpec{
		Capacity: v1.ResourceList{v1.ResourceStorage: resource.MustParse("1Gi")}, AccessModes: []v1.PersistentVolumeAccessMode{v1.ReadWriteOnce},
		PersistentVolumeReclaimPolicy: v1.PersistentVolumeReclaimRetain, ClaimRef: &v1.ObjectReference{Namespace: s.ns, Name: name},
	}}
	change(pv)
	pvc := &v1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1.PersistentVolumeClaimSpec{
		AccessModes: pv.Spec.AccessModes, VolumeName: pv.Name, StorageClassName: ptr.To(""),
		Resources: v1.VolumeResourceRequirements{Requests: pv.Spec.Capacity},
	}}
	pvc, err := s.client.CoreV1().PersistentVolumeClaims(s.ns).Create(s.ctx(), pvc, metav1.CreateOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	pv.Spec.ClaimRef.UID = pvc.UID
	if pv, err = s.client.CoreV1().PersistentVolumes().Create(s.ctx(), pv, metav1.CreateOptions{}); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = s.client.CoreV1().PersistentVolumes().Delete(s.ctx(), pv.Name, metav1.DeleteOptions{}) })
	s.eventually("claim "+name+" to be bound", func() error {
		c, err := s.client.CoreV1().PersistentVolumeClaims(s.ns).Get(s.ctx(), name, metav1.GetOptions{})
		if err != nil || c.Status.Phase == v1.ClaimBound {
			return err
		}
		c.Status.Phase = v1.ClaimBound // nobody else does while there is no binder
		_, err = s.client.CoreV1().PersistentVolumeClaims(s.ns).UpdateStatus(s.ctx(), c, metav1.UpdateOptions{})
		return errors.Join(err, fmt.Errorf("phase was %q", c.Status.Phase))
	})
}

func local(path, host string) func(*v1.PersistentVolume) {
	return func(pv *v1.PersistentVolume) {
		pv.Spec.Local = &v1.LocalVolumeSource{Path: path}
		pv.Spec.NodeAffinity = &v1.VolumeNodeAffinity{Required: &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{{
			MatchExpressions: []v1.NodeSelectorRequirement{{Key: v1.LabelHostname, Operator: v1.NodeSelectorOpIn, Values: []string{host}}}}}}}
	}
}

// TestClaims mounts what claims are bound to: a hostPath and a local volume, writable and read-only, and refuses a local
// volume of another node.
func TestClaims(t *testing.T) {
	s := open(t)
	for _, d := range []string{"host", "local", "other"} {
		if err := os.Mkdir(s.path(d), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	s.claim("host", func(pv *v1.PersistentVolume) {
		pv.Spec.HostPath = &v1.HostPathVolumeSource{Path: s.path("host"), Type: ptr.To(v1.HostPathDirectory)}
	})
	s.claim("local", local(s.path("local"), "node-a"))
	s.claim("other", local(s.path("other"), "node-b"))
	text := func(claim, more string) string {
		return fmt.Sprintf(`{nodeName: node-a, restartPolicy: Never, containers: [{name: c, command: [sh, -c, "echo $HOSTNAME > /v/f"], volumeMounts: [{name: v, mountPath: /v}]}], volumes: [{name: v, persistentVolumeClaim: {claimName: %s %s}}]}`, claim, more)
	}
	s.pod("host", text("host", ""))
	s.pod("local", text("local", ""))
	s.pod("readonly", text("local", ", readOnly: true"))
	s.pod("other", text("other", ""))
	s.pod("missing", text("nowhere", ""))
	s.ended("host", v1.PodSucceeded)
	s.ended("local", v1.PodSucceeded)
	s.ended("readonly", v1.PodFailed)
	s.event("other", "FailedMount", "nodeAffinity does not match")
	s.event("missing", "FailedMount", `"nowhere"`)
	if got := s.read("host/f") + s.read("local/f"); got != "host\nlocal\n" {
		t.Errorf("the volumes hold %q", got)
	}
}

// TestFSGroup gives volumes to the pod's group: fresh ones, and one that has content, by either policy.
func TestFSGroup(t *testing.T) {
	s := open(t)
	for _, d := range []string{"always", "mismatch"} {
		if err := errors.Join(os.MkdirAll(s.path(d, "sub"), 0o700), os.WriteFile(s.path(d, "sub/f"), nil, 0o600)); err != nil {
			t.Fatal(err)
		}
		s.claim(d, local(s.path(d), "node-a"))
	}
	// The root of one is right already, what is below is not: OnRootMismatch leaves that as it is.
	if err := errors.Join(os.Chown(s.path("mismatch"), 0, 4242), os.Chmod(s.path("mismatch"), 0o770|os.ModeSetgid)); err != nil {
		t.Fatal(err)
	}
	s.configMap("cm", map[string]string{"k": "v"})
	text := func(policy string) string {
		return fmt.Sprintf(`{nodeName: node-a, securityContext: {runAsUser: 1000, runAsGroup: 1000, fsGroup: 4242, fsGroupChangePolicy: %s},
		containers: [{name: c, command: [sleep, "3600"], volumeMounts: [{name: e, mountPath: /e}, {name: m, mountPath: /m}, {name: cm, mountPath: /cm}, {name: claim, mountPath: /claim}]}],
		volumes: [{name: e, emptyDir: {}}, {name: m, emptyDir: {medium: Memory}}, {name: cm, configMap: {name: cm, defaultMode: 0440}}, {name: claim, persistentVolumeClaim: {claimName: %s}}]}`,
			policy, map[string]string{"Always": "always", "OnRootMismatch": "mismatch"}[policy])
	}
	s.pod("always", text("Always"))
	s.pod("mismatch", text("OnRootMismatch"))
	s.running("always")
	s.running("mismatch")
	s.says("always", "c", "id -G", "1000 4242")
	s.says("always", "c", "stat -c '%g %a' /e /m; touch /e/f /m/f; stat -c %g /e/f /m/f", "4242 2777 4242 3777 4242 4242")
	s.says("always", "c", "stat -L -c '%g %a' /cm/k; cat /cm/k", "4242 440 v")
	s.says("always", "c", "stat -c '%g %a' /claim /claim/sub /claim/sub/f", "4242 2770 4242 2770 4242 660")
	s.says("mismatch", "c", "stat -c '%g %a' /claim /claim/sub", "4242 2770 0 700")
}
