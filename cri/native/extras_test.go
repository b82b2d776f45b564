package native

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/reevehq/reeve/internal/ociarchive"
	"github.com/reevehq/reeve/internal/testenv"
)

func (g *rig) importImage(img ociarchive.Image) {
	g.t.Helper()
	var b bytes.Buffer
	if err := ociarchive.Write(&b, img); err != nil {
		g.t.Fatal(err)
	}
	if _, err := g.ImportImages(g.t.Context(), &b); err != nil {
		g.t.Fatal(err)
	}
}

// TestImageVolumes: what an image declares as a volume has the image's content, is writable whatever the root is, leaves
// the writable layer alone, and goes with its container.
func TestImageVolumes(t *testing.T) {
	g := newRig(t)
	ctx := t.Context()
	archive := testenv.BusyboxArchive(t, func(img *ociarchive.Image) {
		img.Ref, img.Volumes = "localhost/volumes:v1", []string{"/data", "/made", "/mine", "/link"}
		img.Files = append(img.Files, ociarchive.File{Path: "data/", Mode: 0o750}, ociarchive.File{Path: "data/seed", Data: []byte("from the image\n"), Mode: 0o600},
			ociarchive.File{Path: "mine/seed", Data: []byte("hidden\n")}, ociarchive.File{Path: "link", Link: "../../../../../etc"})
	})
	if _, err := g.ImportImages(ctx, bytes.NewReader(archive)); err != nil {
		t.Fatal(err)
	}
	sb := g.sandbox("web")
	own := t.TempDir()
	config := func(name string) *runtimeapi.ContainerConfig {
		return containerConfig(name, func(c *runtimeapi.ContainerConfig) {
			c.Image.Image = "localhost/volumes:v1"
			c.Linux.SecurityContext.ReadonlyRootfs = true
			c.Mounts = []*runtimeapi.Mount{{HostPath: own, ContainerPath: "/mine"}}
		}, "sleep", "1000")
	}
	a, b := g.run(sb, config("a")), g.run(sb, config("b"))
	if got := g.output(a, "sh", "-c", "cat /data/seed; stat -c %a /data /data/seed; echo x > /data/x; echo y > /made/y; ls /mine; ls /link"); got != "from the image\n750\n600\ngroup\npasswd\n" {
		t.Errorf("the container sees %q", got)
	}
	if got := g.output(b, "ls", "/data", "/made"); got != "/data:\nseed\n\n/made:\n" {
		t.Errorf("another container sees %q", got)
	}
	dirs, err := filepath.Glob(g.containerDir(a) + "/volumes/*/x")
	if err != nil || len(dirs) != 1 {
		t.Errorf("the volume on the host: %v, %v", dirs, err)
	}
	if err := g.RemovePodSandbox(ctx, sb); err != nil {
		t.Error(err)
	}
	g.empty()
}

// TestImageMounts: an image, or a folder of it, read-only in a container of another image.
func TestImageMounts(t *testing.T) {
	g := newRig(t)
	ctx := t.Context()
	g.importImage(ociarchive.Image{Ref: "localhost/model:v1", Arch: runtime.GOARCH, Files: []ociarchive.File{
		{Path: "weights/a", Data: []byte("one\n")}, {Path: "weights/b", Data: []byte("two\n")}, {Path: "out", Link: "/etc"},
	}})
	sb := g.sandbox("web")
	mounts := func(ms ...*runtimeapi.Mount) func(*runtimeapi.ContainerConfig) {
		return func(c *runtimeapi.ContainerConfig) { c.Mounts = ms }
	}
	image := &runtimeapi.ImageSpec{Image: "localhost/model:v1"}
	id := g.run(sb, containerConfig("c", mounts(
		&runtimeapi.Mount{Image: image, ContainerPath: "/model"}, &runtimeapi.Mount{Image: image, ContainerPath: "/w", ImageSubPath: "weights"},
	), "sleep", "1000"))
	if got := g.output(id, "sh", "-c", "cat /model/weights/a /w/b; touch /model/x 2>/dev/null || echo ro; touch /w/x 2>/dev/null || echo ro"); got != "one\ntwo\nro\nro\n" {
		t.Errorf("the container sees %q", got)
	}
	for name, tc := range map[string]struct {
		m    *runtimeapi.Mount
		code codes.Code
		want string
	}{
		"not here":      {&runtimeapi.Mount{Image: &runtimeapi.ImageSpec{Image: "localhost/none:v1"}, ContainerPath: "/x"}, codes.NotFound, "localhost/none:v1"},
		"no path":       {&runtimeapi.Mount{Image: image}, codes.InvalidArgument, "container path"},
		"escape":        {&runtimeapi.Mount{Image: image, ContainerPath: "/x", ImageSubPath: "weights/../.."}, codes.InvalidArgument, "imageSubPath"},
		"absolute":      {&runtimeapi.Mount{Image: image, ContainerPath: "/x", ImageSubPath: "/etc"}, codes.InvalidArgument, "imageSubPath"},
		"by a link":     {&runtimeapi.Mount{Image: image, ContainerPath: "/x", ImageSubPath: "out/passwd"}, codes.InvalidArgument, "imageSubPath"},
		"not in it":     {&runtimeapi.Mount{Image: image, ContainerPath: "/x", ImageSubPath: "none"}, codes.InvalidArgument, "imageSubPath"},
		"both":          {&runtimeapi.Mount{Image: image, ContainerPath: "/x", HostPath: "/tmp"}, codes.InvalidArgument, "hostPath"},
		"ID-mapped":     {&runtimeapi.Mount{HostPath: "/tmp", ContainerPath: "/x", UidMappings: []*runtimeapi.IDMapping{{Length: 1}}}, codes.FailedPrecondition, "uidMappings"},
		"rro, not ro":   {&runtimeapi.Mount{HostPath: g.dir, ContainerPath: "/x", RecursiveReadOnly: true}, codes.InvalidArgument, "recursive read-only without read-only"},
		"rro and slave": {&runtimeapi.Mount{HostPath: g.dir, ContainerPath: "/x", Readonly: true, RecursiveReadOnly: true, Propagation: runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER}, codes.InvalidArgument, "/x"},
	} {
		if _, err := g.CreateContainer(ctx, sb, containerConfig("bad", mounts(tc.m), "true"), nil); status.Code(err) != tc.code || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want %s naming %q", name, err, tc.code, tc.want)
		}
	}
	// A mount left by a runtime that was killed goes at the next start.
	g.stop()
	left := filepath.Join(g.cfg.StateDir, "containers", "killed", "images", "0")
	if err := os.MkdirAll(left, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", left, "tmpfs", unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	g.start()
	if exists(left) {
		t.Error("a leftover mount stayed")
	}
	if got := g.output(id, "cat", "/w/a"); got != "one\n" {
		t.Errorf("after a restart: %q", got)
	}
	if err := g.RemovePodSandbox(ctx, sb); err != nil {
		t.Error(err)
	}
	g.empty()
}

// TestRecursiveReadOnly: a mount below a read-only mount is read-only too.
func TestRecursiveReadOnly(t *testing.T) {
	g := newRig(t)
	if !g.recursiveReadOnly(t.Context(), "runc") {
		testenv.Skip(t, "needs runc 1.1 and Linux 5.12")
	}
	host := t.TempDir()
	below := filepath.Join(host, "below")
	if err := os.Mkdir(below, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", below, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(below, unix.MNT_DETACH) })
	sb := g.sandbox("web")
	id := g.run(sb, containerConfig("c", func(c *runtimeapi.ContainerConfig) {
		c.Mounts = []*runtimeapi.Mount{{HostPath: host, ContainerPath: "/ro", Readonly: true}, {HostPath: host, ContainerPath: "/rro", Readonly: true, RecursiveReadOnly: true}}
	}, "sleep", "1000"))
	if got := g.output(id, "sh", "-c", "touch /ro/below/x && echo written; touch /rro/below/y 2>/dev/null || echo refused"); got != "written\nrefused\n" {
		t.Errorf("got %q", got)
	}
	st, err := g.Status(t.Context(), true)
	if err != nil || len(st.RuntimeHandlers) < 2 || !st.RuntimeHandlers[0].Features.RecursiveReadOnlyMounts {
		t.Errorf("status: %v, %v", st.RuntimeHandlers, err)
	}
}

// TestCDI: a vendor's file gives a container a device, a mount, an environment and a hook.
func TestCDI(t *testing.T) {
	specs := t.TempDir()
	g := newRig(t, func(c *Config) { c.CDIDirs = []string{specs} })
	lib := filepath.Join(g.dir, "lib.so")
	if err := os.WriteFile(lib, []byte("library\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	vendor := `{"cdiVersion": "0.6.0", "kind": "vendor.example/gpu",
"containerEdits": {"env": ["VENDOR=yes"]},
"devices": [{"name": "0", "containerEdits": {
  "deviceNodes": [{"path": "/dev/gpu0", "hostPath": "/dev/null"}],
  "mounts": [{"hostPath": "` + lib + `", "containerPath": "/lib.so", "options": ["ro", "bind"]}]}},
 {"name": "1", "containerEdits": {"env": ["SECOND=yes"]}}]}`
	if err := os.WriteFile(filepath.Join(specs, "vendor.json"), []byte(vendor), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(specs, "broken.json"), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	sb := g.sandbox("web")
	id := g.run(sb, containerConfig("c", func(c *runtimeapi.ContainerConfig) {
		c.CDIDevices = []*runtimeapi.CDIDevice{{Name: "vendor.example/gpu=0"}}
		c.Annotations = map[string]string{"cdi.k8s.io/plugin": "vendor.example/gpu=1,vendor.example/gpu=0"}
	}, "sleep", "1000"))
	if got := g.output(id, "sh", "-c", "echo $VENDOR $SECOND; cat /lib.so; stat -c %t:%T /dev/gpu0; echo x > /dev/gpu0 && echo writable"); got != "yes yes\nlibrary\n1:3\nwritable\n" {
		t.Errorf("got %q", got)
	}
	for name, mod := range map[string]func(*runtimeapi.ContainerConfig){
		"vendor.example/gpu=9": func(c *runtimeapi.ContainerConfig) {
			c.CDIDevices = []*runtimeapi.CDIDevice{{Name: "vendor.example/gpu=9"}}
		},
		"no-device": func(c *runtimeapi.ContainerConfig) { c.Annotations = map[string]string{"cdi.k8s.io/x": "no-device"} },
	} {
		if _, err := g.CreateContainer(t.Context(), sb, containerConfig("bad", mod, "true"), nil); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestMetrics: each metric has a descriptor, its labels fit, and the figures are those of the pod.
func TestMetrics(t *testing.T) {
	g := newRig(t)
	ctx := t.Context()
	sb := g.sandbox("web")
	id := g.run(sb, containerConfig("c", nil, "sh", "-c", "dd if=/dev/zero of=/big bs=1M count=3 2>/dev/null; echo ready; sleep 1000"))
	waitFor(t, func() bool { return strings.Contains(g.log(id), "ready") })
	list, err := g.ListMetricDescriptors(ctx)
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]int{}
	for _, d := range list {
		if keys[d.Name] = len(d.LabelKeys); d.Help == "" {
			t.Errorf("%s has no help", d.Name)
		}
	}
	pods, err := g.ListPodSandboxMetrics(ctx)
	if err != nil || len(pods) != 1 || pods[0].PodSandboxId != sb || len(pods[0].ContainerMetrics) != 1 || pods[0].ContainerMetrics[0].ContainerId != id {
		t.Fatalf("%v, %v", pods, err)
	}
	got := map[string]uint64{}
	for _, m := range append(pods[0].Metrics, pods[0].ContainerMetrics[0].Metrics...) {
		if n, ok := keys[m.Name]; !ok || n != len(m.LabelValues) {
			t.Errorf("%s has %d labels, described are %d", m.Name, len(m.LabelValues), n)
		}
		if m.LabelValues[5] != "web" || m.LabelValues[4] != "default" {
			t.Errorf("%s: labels %q", m.Name, m.LabelValues)
		}
		if m.LabelValues[0] == "c" {
			got[m.Name] = m.Value.Value
		}
	}
	if got["container_spec_memory_limit_bytes"] != 64<<20 || got["container_fs_usage_bytes"] < 3<<20 || got["container_memory_usage_bytes"] == 0 || got["container_start_time_seconds"] == 0 {
		t.Errorf("got %v", got)
	}
}

// TestNetworkCheck: after a restart each pod's network is checked, and what is wrong is told.
func TestNetworkCheck(t *testing.T) {
	g := newRig(t)
	sb := g.sandbox("web")
	info := func() string {
		st, err := g.PodSandboxStatus(t.Context(), sb, true)
		if err != nil {
			t.Fatal(err)
		}
		return st.Info["info"]
	}
	if got := info(); strings.Contains(got, "networkCheck") || !strings.Contains(got, `"type":"network"`) {
		t.Errorf("info %s", got)
	}
	g.net.order("Check")
	g.restart()
	waitFor(t, func() bool { return strings.Contains(info(), `"networkCheck":"ordered failure"`) })
}

// TestHungPluginHoldsItsOwnPodOnly: while one pod's network is being set up and another's taken down without end, others
// come and go, and calls on the hung ones give up with their caller.
func TestHungPluginHoldsItsOwnPodOnly(t *testing.T) {
	g := newRig(t)
	ctx := t.Context()
	old := g.sandbox("old")
	release := g.net.hang("old", "hung")
	defer release()
	giveUp, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	hung := make(chan error, 1)
	go func() { _, err := g.RunPodSandbox(ctx, g.sandboxConfig("hung"), ""); hung <- err }()
	if err := g.StopPodSandbox(giveUp, old); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("stop with a hung DEL: %v", err)
	}
	sb := g.sandbox("lively")
	if st := g.wait(g.run(sb, containerConfig("c", nil, "true"))); st.ExitCode != 0 {
		t.Errorf("another pod: %v", st)
	}
	if err := g.RemovePodSandbox(ctx, sb); err != nil {
		t.Error(err)
	}
	_, err := g.RunPodSandbox(ctx, g.sandboxConfig("hung"), "")
	mustFail(t, "the same pod again", err, codes.AlreadyExists, "hung")
	release()
	if err := <-hung; err != nil {
		t.Error(err)
	}
	list, err := g.ListPodSandbox(ctx, nil)
	if err != nil || len(list) != 2 {
		t.Errorf("%v, %v", list, err)
	}
	for _, s := range list {
		if err := g.RemovePodSandbox(ctx, s.Id); err != nil {
			t.Error(err)
		}
	}
	g.empty()
}
