package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

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
	s.noFolder(p)
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
