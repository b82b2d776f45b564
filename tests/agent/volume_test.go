package agent

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/reevehq/reeve/internal/testenv"
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
	s.eventually("the pod's folder to be gone", func() error {
		if _, err := os.Lstat(s.podDir(p)); !os.IsNotExist(err) {
			return fmt.Errorf("it is there (%v)", err)
		}
		return nil
	})
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

const payloads = `
containers:
- {name: c, command: [sleep, "3600"], volumeMounts: [{name: cm, mountPath: /cm}, {name: sec, mountPath: /sec}, {name: down, mountPath: /down}, {name: all, mountPath: /all}, {name: cm, mountPath: /one, subPath: key}]}
volumes:
- {name: cm, configMap: {name: cm, defaultMode: 0440, items: [{key: key, path: key}, {key: key, path: deep/er/key, mode: 0400}]}}
- {name: sec, secret: {secretName: sec}}
- {name: down, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}, {path: cpu, resourceFieldRef: {containerName: c, resource: limits.cpu, divisor: 1m}}]}}
- name: all
  projected:
    defaultMode: 0444
    sources:
    - {configMap: {name: cm}}
    - {secret: {name: sec, items: [{key: password, path: secret/password, mode: 0400}]}}
    - {downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}}
    - {configMap: {name: nowhere, optional: true}}
    - {secret: {name: nowhere, optional: true}}
`

// TestPayloadVolumes shows ConfigMaps, Secrets and the downward API as files, alone and projected into one, and that
// they follow their objects as a whole.
func TestPayloadVolumes(t *testing.T) {
	s := open(t)
	s.configMap("cm", map[string]string{"key": "v0", "twin": "v0"})
	s.secret("sec", map[string]string{"password": "hush"})
	s.pod("p", payloads, func(p *v1.Pod) { p.Labels = map[string]string{"a": "b"} })
	s.running("p")
	s.says("p", "c", "cat /cm/key /cm/deep/er/key /sec/password /one", "v0v0hushv0")
	s.says("p", "c", "stat -L -c %a /cm/key /cm/deep/er/key /sec/password /all/name /all/secret/password", "440 400 644 444 400")
	s.says("p", "c", "cat /down/labels; echo; cat /down/cpu | grep -q . && cat /all/name; echo; cat /all/key /all/secret/password", `a="b" p v0hush`)
	s.says("p", "c", "grep ' /sec ' /proc/mounts | cut -d' ' -f3", "tmpfs") // a Secret never touches the disk
	if out, err := s.exec("p", "c", "sh", "-c", "echo x > /cm/key"); err == nil || !strings.Contains(out, "Read-only") {
		t.Errorf("a ConfigMap's file could be written: %q, %v", out, err)
	}
	// A reader that opens the folder sees both files of one version, never a mix.
	go s.exec("p", "c", "sh", "-c", `cd /all; while [ ! -e /story/enough ]; do d=$(readlink ..data); a=$(cat $d/key 2>/dev/null) b=$(cat $d/twin 2>/dev/null) || continue; [ -d $d ] || continue; [ "$a" = "$b" ] || echo "$a/$b" >> /story/mixed; done; touch /story/done`)
	for i := 1; i <= 10; i++ {
		v := fmt.Sprintf("v%d", i)
		c, err := s.client.CoreV1().ConfigMaps(s.ns).Get(s.ctx(), "cm", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		c.Data = map[string]string{"key": v, "twin": v}
		if _, err := s.client.CoreV1().ConfigMaps(s.ns).Update(s.ctx(), c, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		s.eventually("the new version", func() error {
			out, err := s.exec("p", "c", "cat", "/all/key", "/cm/key", "/cm/deep/er/key")
			return errors.Join(err, is("files", out, v+v+v))
		})
		t.Logf("change %d was seen after %s", i, time.Since(start).Round(time.Millisecond))
	}
	if err := os.WriteFile(s.path("enough"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if got := s.read("mixed"); got != "" {
		t.Errorf("a reader saw mixtures: %s", got)
	}
	s.says("p", "c", "cat /one", "v0") // a subPath is what it was when the container started
	p := s.now("p")
	p.Labels["a"] = "c"
	if _, err := s.pods().Update(s.ctx(), p, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	s.eventually("the new label", func() error {
		out, err := s.exec("p", "c", "cat", "/down/labels")
		return errors.Join(err, is("labels", strings.TrimSpace(out), `a="c"`))
	})
}

// TestPayloadObjectsComeLate starts pods before what they need: they wait, say for what, and start when it is there.
func TestPayloadObjectsComeLate(t *testing.T) {
	s := open(t)
	s.pod("p", payloads)
	s.event("p", "FailedMount", `"cm" not found`)
	s.event("p", "FailedMount", `"sec" not found`)
	s.pod("nokey", `{containers: [{name: c, command: [sleep, "3600"], volumeMounts: [{name: v, mountPath: /v}]}], volumes: [{name: v, configMap: {name: cm, items: [{key: none, path: x}]}}]}`)
	s.pod("optional", `{containers: [{name: c, command: [sh, -c, "ls -A /v; exec sleep 3600"], volumeMounts: [{name: v, mountPath: /v}]}], volumes: [{name: v, secret: {secretName: never, optional: true}}]}`)
	s.running("optional")
	s.configMap("cm", map[string]string{"key": "k"})
	s.secret("sec", map[string]string{"password": "p"})
	s.running("p")
	s.event("nokey", "FailedMount", "none")
	s.secret("never", map[string]string{"after": "all"})
	s.eventually("the optional Secret", func() error {
		out, err := s.exec("optional", "c", "cat", "/v/after")
		return errors.Join(err, is("file", out, "all"))
	})
}

// TestImmutableConfigMap keeps its first content, and shows its second after it was made anew for a new pod.
func TestImmutableConfigMap(t *testing.T) {
	s := open(t)
	if _, err := s.client.CoreV1().ConfigMaps(s.ns).Create(s.ctx(), &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "cm"}, Immutable: ptr.To(true), Data: map[string]string{"key": "first"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	text := `{containers: [{name: c, command: [sleep, "3600"], volumeMounts: [{name: v, mountPath: /v}]}], volumes: [{name: v, configMap: {name: cm}}]}`
	s.pod("p", text)
	s.running("p")
	if err := s.client.CoreV1().ConfigMaps(s.ns).Delete(s.ctx(), "cm", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.says("p", "c", "cat /v/key", "first")
	s.delete("p")
	s.gone("p") // the last that used it, and with it what the node knew of it
	s.configMap("cm", map[string]string{"key": "second"})
	s.pod("q", text)
	s.running("q")
	s.says("q", "c", "cat /v/key", "second")
}

// TestSubPath binds parts of a volume, by name and by expression, and refuses what leads out.
func TestSubPath(t *testing.T) {
	s := open(t)
	if err := errors.Join(os.MkdirAll(s.path("v/inside"), 0o755), os.WriteFile(s.path("v/inside/f"), []byte("in"), 0o644), os.WriteFile(s.path("secret"), []byte("out"), 0o644),
		os.Symlink("inside", s.path("v/link")), os.Symlink("..", s.path("v/up")), os.Symlink("/", s.path("v/root"))); err != nil {
		t.Fatal(err)
	}
	mount := func(sub string) string {
		return fmt.Sprintf(`{restartPolicy: Never, containers: [{name: c, env: [{name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}], command: [sh, -c, "ls /v; echo $POD > /v/by"], volumeMounts: [{name: v, mountPath: /v, %s}]}],
			volumes: [{name: v, hostPath: {path: %q}}]}`, sub, s.path("v"))
	}
	for name, sub := range map[string]string{"dir": "subPath: inside", "link": "subPath: link", "made": "subPath: new/er", "expr": "subPathExpr: logs/$(POD)"} {
		s.pod(name, mount(sub))
		s.ended(name, v1.PodSucceeded)
	}
	for file, want := range map[string]string{"v/inside/by": "link\n", "v/new/er/by": "made\n", "v/logs/expr/by": "expr\n"} {
		if got := s.read(file); got != want && file != "v/inside/by" || got == "" {
			t.Errorf("%s holds %q, want %q", file, got, want)
		}
	}
	for name, sub := range map[string]string{"up": "subPath: up/secret", "root": "subPath: root/etc"} {
		s.pod(name, mount(sub))
		s.wait(name, "refused", func(p *v1.Pod) error {
			w := status(p, "c").State.Waiting
			if w == nil || !strings.Contains(w.Message, "leads out of the volume") {
				return fmt.Errorf("state is %s", state(status(p, "c")))
			}
			return nil
		})
	}
	s.pod("novar", mount("subPathExpr: $(NOTHING)/x"))
	s.wait("novar", "refused", func(p *v1.Pod) error {
		if w := status(p, "c").State.Waiting; w == nil || !strings.Contains(w.Message, "NOTHING") {
			return fmt.Errorf("state is %s", state(status(p, "c")))
		}
		return nil
	})
	for _, sub := range []string{"subPath: ../secret", "subPath: /etc", "subPathExpr: $(POD)/.."} {
		if _, err := s.try("never", mount(sub)); err == nil {
			t.Errorf("the API takes %s", sub)
		}
	}
}

// TestSubPathSymlinkRace has one container swap the folder for a link to the node's root as fast as it can, while
// another one that mounts it as subPath starts again and again. It must never see the node's files.
func TestSubPathSymlinkRace(t *testing.T) {
	s := open(t)
	if err := errors.Join(os.MkdirAll(s.path("outside/x"), 0o755), os.WriteFile(s.path("outside/x/treasure"), nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	s.pod("swapper", `{containers: [{name: c, command: [sh, -c, "mkdir -p /v/a/x; while :; do mv /v/a /v/b; ln -s /story/outside /v/a; rm /v/a; ln -s ../../../../../../../../../../..`+s.path("outside")+` /v/a; rm /v/a; mv /v/b /v/a; done"],
		volumeMounts: [{name: v, mountPath: /v}]}], volumes: [{name: v, hostPath: {path: "`+s.path("v")+`", type: DirectoryOrCreate}}]}`)
	s.running("swapper")
	seen := 0
	for i := range 12 {
		name := fmt.Sprintf("victim%d", i)
		s.pod(name, `{restartPolicy: Never, containers: [
			{name: c, command: [sh, -c, "ls /m"], volumeMounts: [{name: v, mountPath: /m, subPath: a/x}]},
			{name: d, command: [sh, -c, "ls /m"], volumeMounts: [{name: v, mountPath: /m, subPath: a/x}]}], volumes: [{name: v, hostPath: {path: "`+s.path("v")+`"}}]}`)
	}
	for i := range 12 {
		name := fmt.Sprintf("victim%d", i)
		s.wait(name, "over, or refused", func(p *v1.Pod) error {
			for _, c := range []string{"c", "d"} {
				st := status(p, c).State
				if st.Terminated == nil && (st.Waiting == nil || !strings.Contains(st.Waiting.Message, "subPath")) {
					return fmt.Errorf("%s is %s", c, state(status(p, c)))
				}
			}
			return nil
		})
		p := s.now(name)
		for _, c := range []string{"c", "d"} {
			if status(p, c).State.Terminated == nil {
				continue
			}
			seen++
			if out := s.logs(name, c); strings.Contains(out, "treasure") {
				t.Fatalf("%s/%s got out of its volume: %q", name, c, out)
			}
		}
	}
	if seen == 0 {
		t.Log("every mount was refused: the race was never won by the victim")
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

// TestMountPropagation shows mounts that come later: into a container that asks for them, out of one that may, and to
// none else.
func TestMountPropagation(t *testing.T) {
	s := open(t)
	if err := os.MkdirAll(s.path("v/in"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(s.path("v/out"), 0o755); err != nil {
		t.Fatal(err)
	}
	s.pod("p", fmt.Sprintf(`
containers:
- {name: none, command: [sleep, "3600"], volumeMounts: [{name: v, mountPath: /v}]}
- {name: in, command: [sleep, "3600"], volumeMounts: [{name: v, mountPath: /v, mountPropagation: HostToContainer}]}
- {name: both, command: [sleep, "3600"], securityContext: {privileged: true}, volumeMounts: [{name: v, mountPath: /v, mountPropagation: Bidirectional}]}
volumes: [{name: v, hostPath: {path: %q}}]
`, s.path("v")))
	s.running("p")
	if err := unix.Mount("later", s.path("v/in"), "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(s.path("v/in"), unix.MNT_DETACH)
	s.says("p", "both", "mount -t tmpfs theirs /v/out", "")
	defer unix.Unmount(s.path("v/out"), unix.MNT_DETACH)
	for name, want := range map[string]string{"none": "0 0", "in": "1 1", "both": "1 1"} {
		s.says("p", name, "grep -c ' /v/in ' /proc/mounts; grep -c ' /v/out ' /proc/mounts; true", want)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil || !strings.Contains(string(mounts), " "+s.path("v/out")+" ") {
		t.Errorf("the node does not see what the privileged container mounted (%v)", err)
	}
	s.says("p", "both", "umount /v/out", "")
}

// TestRecursiveReadOnly makes what is mounted below a volume read-only too, if asked to; plain readOnly does not.
func TestRecursiveReadOnly(t *testing.T) {
	s := open(t)
	if err := os.MkdirAll(s.path("v/sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("below", s.path("v/sub"), "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(s.path("v/sub"), unix.MNT_DETACH)
	s.pod("p", fmt.Sprintf(`
containers:
- {name: plain, command: [sleep, "3600"], volumeMounts: [{name: v, mountPath: /v, readOnly: true}]}
- {name: deep, command: [sleep, "3600"], volumeMounts: [{name: v, mountPath: /v, readOnly: true, recursiveReadOnly: Enabled}]}
volumes: [{name: v, hostPath: {path: %q}}]
`, s.path("v")))
	p := s.running("p")
	s.says("p", "plain", "touch /v/f 2>/dev/null || echo no; touch /v/sub/f && echo yes", "no yes")
	s.says("p", "deep", "touch /v/f 2>/dev/null || echo no; touch /v/sub/f 2>/dev/null || echo no", "no no")
	for _, m := range status(p, "deep").VolumeMounts {
		if m.MountPath == "/v" && (m.RecursiveReadOnly == nil || *m.RecursiveReadOnly != v1.RecursiveReadOnlyEnabled) {
			t.Errorf("the status says %q of recursive read-only", ptr.Deref(m.RecursiveReadOnly, ""))
		}
	}
}

// TestBusyVolume keeps a file of a memory volume open while the pod is deleted: the pod goes all the same, and an Event
// tells who held it.
func TestBusyVolume(t *testing.T) {
	s := open(t)
	s.pod("p", `{containers: [{name: c, command: [sh, -c, "touch /v/f; exec sleep 3600"], volumeMounts: [{name: v, mountPath: /v}]}], volumes: [{name: v, emptyDir: {medium: Memory}}]}`)
	p := s.running("p")
	var f *os.File
	s.eventually("the file", func() (err error) {
		f, err = os.OpenFile(filepath.Join(s.podDir(p), "volumes", "kubernetes.io~empty-dir", "v", "f"), os.O_RDWR, 0)
		return err
	})
	defer f.Close()
	s.delete("p")
	s.gone("p")
	s.event("p", "FailedUnmount", fmt.Sprintf("process %d (", os.Getpid()))
	if _, err := f.WriteString("the holder keeps its view"); err != nil {
		t.Error(err)
	}
	s.eventually("the pod's folder to be gone", func() error {
		if _, err := os.Lstat(s.podDir(p)); !os.IsNotExist(err) {
			return fmt.Errorf("it is there (%v)", err)
		}
		return nil
	})
}

// TestReadOnlyVolumeRoot uses volumes whose root nobody can write: what needs to write there is told so, what does not
// works.
func TestReadOnlyVolumeRoot(t *testing.T) {
	s := open(t)
	if err := os.Mkdir(s.path("ro"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("ro", s.path("ro"), "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(s.path("ro"), unix.MNT_DETACH)
	if err := errors.Join(os.WriteFile(s.path("ro/f"), []byte("read me"), 0o644), unix.Mount("", s.path("ro"), "", unix.MS_REMOUNT|unix.MS_RDONLY, "")); err != nil {
		t.Fatal(err)
	}
	s.claim("ro", local(s.path("ro"), "node-a"))
	text := func(more, mount string) string {
		return fmt.Sprintf(`{nodeName: node-a, restartPolicy: Never, %s containers: [{name: c, command: [cat, /v/f], volumeMounts: [{name: v, mountPath: /v %s}]}], volumes: [{name: v, persistentVolumeClaim: {claimName: ro}}]}`, more, mount)
	}
	s.pod("reader", text("", ""))
	s.pod("group", text("securityContext: {fsGroup: 77},", ""))
	s.pod("maker", text("", ", subPath: new"))
	s.ended("reader", v1.PodSucceeded)
	s.event("group", "FailedMount", "read-only file system")
	s.wait("maker", "refused", func(p *v1.Pod) error {
		if w := status(p, "c").State.Waiting; w == nil || !strings.Contains(w.Message, "read-only file system") {
			return fmt.Errorf("state is %s", state(status(p, "c")))
		}
		return nil
	})
}

// TestServiceAccountToken mounts a token that the API server takes for the audience it was made for, and for no other.
func TestServiceAccountToken(t *testing.T) {
	s := open(t)
	s.pod("p", `{automountServiceAccountToken: true, securityContext: {runAsUser: 1000}, containers: [{name: c, command: [sleep, "3600"], volumeMounts: [{name: v, mountPath: /v}]}],
		volumes: [{name: v, projected: {sources: [{serviceAccountToken: {path: token, audience: vault, expirationSeconds: 600}}]}}]}`)
	p := s.running("p")
	s.says("p", "c", "stat -L -c '%a %u' /v/token; ls /var/run/secrets/kubernetes.io/serviceaccount", "600 1000 ca.crt namespace token")
	s.says("p", "c", "cat /var/run/secrets/kubernetes.io/serviceaccount/namespace", s.ns)
	token, err := s.exec("p", "c", "cat", "/v/token")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.reviewed(token, "vault", p), s.reviewed(token, "other", p)); err == nil || !strings.Contains(err.Error(), "other") || strings.Contains(err.Error(), "vault: ") {
		t.Errorf("reviews of the token: %v; want it good for vault alone", err)
	}
	if testenv.Long() {
		token = s.rotated(p, token)
	}
	// It dies with its pod.
	s.delete("p", 0)
	s.gone("p")
	s.eventually("the token to be void", func() error {
		if err := s.reviewed(token, "vault", p); err == nil {
			return errors.New("it is still good")
		}
		return nil
	})
}

// rotated waits for the token's successor, which comes at 80 % of its ten minutes; the container sees it in the same file,
// both are good then, and nothing is restarted.
func (s *space) rotated(p *v1.Pod, old string) string {
	s.t.Helper()
	deadline := time.Now().Add(rotationTimeout)
	for {
		now, err := s.exec(p.Name, "c", "cat", "/v/token")
		if err == nil && now != old {
			err = errors.Join(s.reviewed(now, "vault", p), s.reviewed(old, "vault", p), is("restarts", status(s.now(p.Name), "c").RestartCount, 0))
			if err != nil {
				s.t.Error(err)
			}
			return now
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("the token was not renewed within %s (%v)", rotationTimeout, err)
		}
		time.Sleep(time.Second)
	}
}

// rotationTimeout is the life of the shortest token that the API gives.
const rotationTimeout = 10 * time.Minute

// TestImageVolume mounts an image as a volume, whole and a part of it: its files are there, and nobody can write them.
func TestImageVolume(t *testing.T) {
	s := open(t)
	s.pod("p", `{containers: [{name: c, command: [sleep, "3600"], volumeMounts: [{name: i, mountPath: /image}, {name: i, mountPath: /part, subPath: etc}]}],
		volumes: [{name: i, image: {reference: "localhost/busybox:v1", pullPolicy: Never}}]}`)
	s.running("p")
	s.says("p", "c", "cut -d: -f1 /image/etc/passwd; cut -d: -f1 /part/group", "root nobody root nogroup")
	if out, err := s.exec("p", "c", "touch", "/image/etc/new"); err == nil || !strings.Contains(out, "Read-only") {
		t.Errorf("an image volume could be written: %q, %v", out, err)
	}
	s.pod("nowhere", `{containers: [{name: c, command: [sleep, "3600"], volumeMounts: [{name: i, mountPath: /image}]}], volumes: [{name: i, image: {reference: "localhost/nowhere:v1", pullPolicy: Never}}]}`)
	s.wait("nowhere", "refused", func(p *v1.Pod) error {
		if w := status(p, "c").State.Waiting; w == nil || w.Reason != "ErrImageNeverPull" {
			return fmt.Errorf("state is %s", state(status(p, "c")))
		}
		return nil
	})
}
