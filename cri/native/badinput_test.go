package native

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/reevehq/reeve/internal/testenv"
	"github.com/reevehq/reeve/internal/testns"
)

// mustFail checks an error's code and that it names the thing.
func mustFail(t *testing.T, what string, err error, code codes.Code, names string) {
	t.Helper()
	if status.Code(err) != code || !strings.Contains(err.Error(), names) {
		t.Errorf("%s: got %v, want %s naming %q", what, err, code, names)
	}
}

func TestBadSandboxes(t *testing.T) {
	g := newRig(t)
	ctx := t.Context()
	type config = runtimeapi.PodSandboxConfig
	for name, tc := range map[string]struct {
		mod   func(*config)
		code  codes.Code
		names string
	}{
		"no metadata":       {func(c *config) { c.Metadata = nil }, codes.InvalidArgument, "metadata"},
		"no uid":            {func(c *config) { c.Metadata.Uid = "" }, codes.InvalidArgument, "uid"},
		"relative logs":     {func(c *config) { c.LogDirectory = "logs" }, codes.InvalidArgument, `logDirectory "logs"`},
		"climbing logs":     {func(c *config) { c.LogDirectory = "/var/log/pods/../../../etc" }, codes.InvalidArgument, "logDirectory"},
		"long hostname":     {func(c *config) { c.Hostname = strings.Repeat("a", 65) }, codes.InvalidArgument, "hostname"},
		"hostname injected": {func(c *config) { c.Hostname = "a\nb" }, codes.InvalidArgument, "hostname"},
		"climbing cgroup":   {func(c *config) { c.Linux.CgroupParent = "/pods/../../system" }, codes.InvalidArgument, "cgroupParent"},
		"resolv.conf injected": {func(c *config) { c.DnsConfig = &runtimeapi.DNSConfig{Searches: []string{"a\nnameserver 6.6.6.6"}} },
			codes.InvalidArgument, "dnsConfig.searches"},
		"too many searches": {func(c *config) {
			c.DnsConfig = &runtimeapi.DNSConfig{Searches: strings.Fields(strings.Repeat("a.b ", 33))}
		}, codes.InvalidArgument, "33 search domains"},
		"host port": {func(c *config) {
			c.PortMappings = []*runtimeapi.PortMapping{{HostPort: 70000, ContainerPort: 80}}
		}, codes.InvalidArgument, "70000"},
		"host IP": {func(c *config) {
			c.PortMappings = []*runtimeapi.PortMapping{{HostPort: 70, ContainerPort: 80, HostIp: "localhost"}}
		}, codes.InvalidArgument, "hostIp"},
		"host sysctl":     {func(c *config) { c.Linux.Sysctls = map[string]string{"vm.swappiness": "1"} }, codes.InvalidArgument, "vm.swappiness"},
		"unknown sysctl":  {func(c *config) { c.Linux.Sysctls = map[string]string{"net.none": "1"} }, codes.Unknown, "net.none"},
		"climbing sysctl": {func(c *config) { c.Linux.Sysctls = map[string]string{"net/../vm/swappiness": "1"} }, codes.InvalidArgument, "net/../vm"},
		"user namespace": {func(c *config) {
			c.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD}
		}, codes.FailedPrecondition, "usernsOptions"},
		"seccomp": {func(c *config) {
			c.Linux.SecurityContext.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "/none.json"}
		}, codes.InvalidArgument, "/none.json"},
	} {
		_, err := g.RunPodSandbox(ctx, g.sandboxConfig("bad", tc.mod), "")
		mustFail(t, name, err, tc.code, tc.names)
	}
	_, err := g.RunPodSandbox(ctx, g.sandboxConfig("bad"), "gvisor")
	mustFail(t, "unknown handler", err, codes.InvalidArgument, "gvisor")
	sb := g.sandbox("good")
	_, err = g.RunPodSandbox(ctx, g.sandboxConfig("good"), "")
	mustFail(t, "duplicate", err, codes.AlreadyExists, "good")
	// A name is free again after a failure, and after removal.
	g.net.order("Add")
	_, err = g.RunPodSandbox(ctx, g.sandboxConfig("again"), "")
	mustFail(t, "network", err, codes.Unknown, "network")
	g.net.order("")
	again := g.sandbox("again")
	for _, id := range []string{sb, again} {
		if err := g.RemovePodSandbox(ctx, id); err != nil {
			t.Error(err)
		}
	}
	g.empty()
}

func TestBadContainersAndIDs(t *testing.T) {
	g := newRig(t)
	ctx := t.Context()
	sb := g.sandbox("web")
	type config = runtimeapi.ContainerConfig
	for name, tc := range map[string]struct {
		mod   func(*config)
		names string
	}{
		"relative working dir": {func(c *config) { c.WorkingDir = "work" }, `workingDir "work"`},
		"variable":             {func(c *config) { c.Envs = []*runtimeapi.KeyValue{{Key: "A=B", Value: []byte("x")}} }, `"A=B"`},
		"zero byte":            {func(c *config) { c.Args = []string{"a\x00b"} }, "zero byte"},
		"climbing log":         {func(c *config) { c.LogPath = "c/../../../x.log" }, "leaves"},
		"stop signal":          {func(c *config) { c.StopSignal = 999 }, "999"},
		"root mount":           {func(c *config) { c.Mounts = []*runtimeapi.Mount{{HostPath: g.dir, ContainerPath: "/x/.."}} }, "must not be the root"},
		"negative user":        {func(c *config) { c.Linux.SecurityContext.RunAsUser = &runtimeapi.Int64Value{Value: -1} }, "-1"},
		"huge group": {func(c *config) {
			c.Linux.SecurityContext.RunAsUser, c.Linux.SecurityContext.RunAsGroup = &runtimeapi.Int64Value{}, &runtimeapi.Int64Value{Value: 1 << 40}
		}, "1099511627776"},
		"image": {func(c *config) { c.Image.Image = "NOT/valid" }, "NOT/valid"},
	} {
		_, err := g.CreateContainer(ctx, sb, containerConfig("bad", tc.mod, "true"), nil)
		code := codes.InvalidArgument
		if name == "image" {
			code = codes.NotFound
		}
		mustFail(t, name, err, code, tc.names)
	}
	id := g.create(sb, containerConfig("good", nil, "true"))
	_, err := g.CreateContainer(ctx, sb, containerConfig("good", nil, "true"), nil)
	mustFail(t, "duplicate", err, codes.AlreadyExists, "good")
	_, err = g.CreateContainer(ctx, "none", containerConfig("x", nil, "true"), nil)
	mustFail(t, "create in an unknown sandbox", err, codes.NotFound, "none")

	// A container that does not run.
	_, _, err = g.ExecSync(ctx, id, []string{"true"}, time.Second)
	mustFail(t, "exec before the start", err, codes.FailedPrecondition, id)
	_, err = g.Attach(ctx, &runtimeapi.AttachRequest{ContainerId: id, Stdout: true})
	mustFail(t, "attach before the start", err, codes.FailedPrecondition, id)
	mustFail(t, "reopen before the start", g.ReopenContainerLog(ctx, id), codes.FailedPrecondition, id)

	// IDs that nobody has: what removes is content, what asks is told.
	const none = "0123456789abcdef"
	for name, call := range map[string]func(id string) error{
		"ContainerStatus": func(id string) error { _, err := g.ContainerStatus(ctx, id, false); return err },
		"StartContainer":  func(id string) error { return g.StartContainer(ctx, id) },
		"ExecSync":        func(id string) error { _, _, err := g.ExecSync(ctx, id, []string{"true"}, 0); return err },
		"Exec": func(id string) error {
			_, err := g.Exec(ctx, &runtimeapi.ExecRequest{ContainerId: id, Cmd: []string{"true"}, Stdout: true})
			return err
		},
		"Attach": func(id string) error {
			_, err := g.Attach(ctx, &runtimeapi.AttachRequest{ContainerId: id, Stdout: true})
			return err
		},
		"UpdateResources":    func(id string) error { return g.UpdateContainerResources(ctx, id, &runtimeapi.ContainerResources{}) },
		"ReopenContainerLog": func(id string) error { return g.ReopenContainerLog(ctx, id) },
		"ContainerStats":     func(id string) error { _, err := g.ContainerStats(ctx, id); return err },
		"PodSandboxStatus":   func(id string) error { _, err := g.PodSandboxStatus(ctx, id, false); return err },
		"PodSandboxStats":    func(id string) error { _, err := g.PodSandboxStats(ctx, id); return err },
		"PortForward": func(id string) error {
			_, err := g.PortForward(ctx, &runtimeapi.PortForwardRequest{PodSandboxId: id})
			return err
		},
	} {
		mustFail(t, name, call(none), codes.NotFound, none)
		mustFail(t, name+" without an ID", call(""), codes.InvalidArgument, "empty")
	}
	for name, err := range map[string]error{
		"StopContainer": g.StopContainer(ctx, none, 1), "RemoveContainer": g.RemoveContainer(ctx, none),
		"StopPodSandbox": g.StopPodSandbox(ctx, none), "RemovePodSandbox": g.RemovePodSandbox(ctx, none),
	} {
		if err != nil {
			t.Errorf("%s of an unknown ID: %v", name, err)
		}
	}
	if err := g.RemovePodSandbox(ctx, sb); err != nil {
		t.Error(err)
	}
	g.empty()
}

func TestBadImageReferences(t *testing.T) {
	g := newRig(t)
	ctx := t.Context()
	for _, ref := range []string{
		"", " ", "UPPER", "a/UPPER", "a:b:c", "a@sha256:zz", "@sha256:" + strings.Repeat("a", 64), "https://example.com/a", "../etc/passwd", "a/../b", "a b", "a\x00b",
		strings.Repeat("a", 64), "host:port/a", strings.Repeat("a/", 200) + "b", "a:" + strings.Repeat("t", 129),
	} {
		spec := &runtimeapi.ImageSpec{Image: ref}
		_, err := g.PullImage(ctx, spec, nil, nil)
		mustFail(t, "pull "+ref, err, codes.InvalidArgument, "image reference")
		if st, err := g.ImageStatus(ctx, spec, false); !hexID.MatchString(ref) {
			mustFail(t, "status "+ref, err, codes.InvalidArgument, "image reference")
		} else if err != nil || st.Image != nil {
			t.Errorf("status of an unknown ID: %v, %v", st, err)
		}
	}
	// Nobody answers there, or not in HTTP.
	for _, ref := range []string{"127.0.0.1:1/a:v1", "no-such-host.invalid/a:v1"} {
		if _, err := g.PullImage(ctx, &runtimeapi.ImageSpec{Image: ref}, nil, nil); err == nil || !strings.Contains(err.Error(), ref) {
			t.Errorf("pull %s: %v", ref, err)
		}
	}
	if err := g.RemoveImage(ctx, &runtimeapi.ImageSpec{Image: "localhost/none:v1"}); err != nil {
		t.Errorf("remove an unknown image: %v", err)
	}
}

// TestContainerdStopped: calls are answered Unavailable, at once after a moment of patience; what is in memory still is.
// When containerd is back everything goes on.
func TestContainerdStopped(t *testing.T) {
	g := newRig(t)
	ctx := t.Context()
	sb := g.sandbox("web")
	id := g.run(sb, containerConfig("c", nil, "sleep", "1000"))
	g.pausePID(sb)
	if err := g.inst.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	// Far longer than patience, far shorter than any of the deadlines that a call without it would meet.
	bound, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	_, err := g.RunPodSandbox(bound, g.sandboxConfig("late"), "")
	mustFail(t, "RunPodSandbox", err, codes.Unavailable, "containerd at")
	_, err = g.CreateContainer(bound, sb, containerConfig("late", nil, "true"), nil)
	mustFail(t, "CreateContainer", err, codes.Unavailable, "containerd at")
	_, _, err = g.ExecSync(bound, id, []string{"true"}, 10*time.Second)
	mustFail(t, "ExecSync", err, codes.Unavailable, "containerd at")
	_, err = g.PullImage(bound, &runtimeapi.ImageSpec{Image: "127.0.0.1:1/a:v1"}, nil, nil)
	mustFail(t, "PullImage", err, codes.Unavailable, "containerd at")
	if bound.Err() != nil {
		t.Error("the calls took their deadline")
	}
	if st, err := g.Status(bound, false); err != nil || st.Status.Conditions[0].Status || st.Status.Conditions[0].Reason != "ContainerdNotReady" {
		t.Errorf("status: %v, %v", st, err)
	}
	if st := g.status(id); st.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("the container: %v", st)
	}
	rctx, stop := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() { defer close(watched); g.inst.Run(rctx) }()
	t.Cleanup(func() { stop(); <-watched })
	waitFor(t, func() bool {
		_, _, err := g.ExecSync(ctx, id, []string{"true"}, 10*time.Second)
		return err == nil
	})
	list, err := g.ListPodSandbox(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range list { // the half-made one is there to be removed
		if err := g.RemovePodSandbox(ctx, s.Id); err != nil {
			t.Error(err)
		}
	}
	g.empty()
}

const smallDiskName = "reeve-small-disk"

// smallDisk mounts a filesystem of its own at path.
func smallDisk(t *testing.T, path, size string) {
	t.Helper()
	if err := os.MkdirAll(path, 0o711); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(smallDiskName, path, "tmpfs", 0, "size="+size); err != nil {
		t.Fatal(err)
	}
}

// fill takes what is left of the disk at path, until free is called.
func fill(t *testing.T, path string) (free func()) {
	t.Helper()
	name := filepath.Join(path, "fill")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); errors.Is(err, unix.ENOSPC) {
			size /= 2
		} else if err != nil {
			t.Fatal(err)
		}
	}
	return func() { os.Remove(name) }
}

// TestFullDisk: a pod that finds no room fails with ResourceExhausted and the path, leaves nothing, and works once there
// is room; pods that run are not touched.
func TestFullDisk(t *testing.T) {
	testns.Need(t)
	dir := testenv.Dir(t)
	state, root := filepath.Join(dir, "cri"), filepath.Join(dir, "containerd", "root")
	smallDisk(t, state, "4m")
	smallDisk(t, root, "64m")
	g := newRigIn(t, dir)
	ctx := t.Context()
	sb := g.sandbox("before")
	id := g.run(sb, containerConfig("c", nil, "sleep", "1000"))
	g.pausePID(sb)

	free := fill(t, state)
	_, err := g.RunPodSandbox(ctx, g.sandboxConfig("web"), "")
	mustFail(t, "our folder is full", err, codes.ResourceExhausted, "no space left on device")
	mustFail(t, "our folder is full", err, codes.ResourceExhausted, state)
	free()

	free = fill(t, root)
	_, err = g.CreateContainer(ctx, sb, containerConfig("full", nil, "true"), nil)
	mustFail(t, "containerd's folder is full", err, codes.ResourceExhausted, "no space left on device")
	if st := g.status(id); st.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("the other container: %v", st)
	}
	free()
	if st := g.wait(g.run(sb, containerConfig("full", nil, "true"))); st.ExitCode != 0 {
		t.Errorf("with room again: %v", st)
	}
	web := g.sandbox("web")
	for _, id := range []string{sb, web} {
		if err := g.RemovePodSandbox(ctx, id); err != nil {
			t.Error(err)
		}
	}
	g.empty()
}
