package native

import (
	"context"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/reevehq/reeve/cri/remote"
	"github.com/reevehq/reeve/cri/server"
	"github.com/reevehq/reeve/internal/testenv"
)

// served is the rig's runtime as other CRI callers meet it: through the published client and a socket, so that codes and
// messages are those that reach them.
func (g *rig) served() *remote.Runtime {
	g.t.Helper()
	rt, err := remote.New(g.t.Context(), g.serve())
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { rt.Close(context.Background()) })
	return rt
}

// serve puts the rig's runtime on a socket until the test ends.
func (g *rig) serve() (endpoint string) {
	g.t.Helper()
	endpoint = "unix://" + filepath.Join(g.dir, "cri.sock")
	l, err := server.Listen(endpoint)
	if err != nil {
		g.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.ServeListener(ctx, l, g.Runtime, g.cfg.Logger) }()
	g.t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			g.t.Errorf("serve: %v", err)
		}
	})
	return endpoint
}

// mustFail checks an error's code and that it names the thing.
func mustFail(t *testing.T, what string, err error, code codes.Code, names string) {
	t.Helper()
	if status.Code(err) != code || !strings.Contains(err.Error(), names) {
		t.Errorf("%s: got %v, want %s naming %q", what, err, code, names)
	}
}

func TestBadSandboxes(t *testing.T) {
	g := newRig(t)
	rt, ctx := g.served(), t.Context()
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
		_, err := rt.RunPodSandbox(ctx, g.sandboxConfig("bad", tc.mod), "")
		mustFail(t, name, err, tc.code, tc.names)
	}
	for _, handler := range []string{"gvisor", "../runc", "/usr/bin/runc", "io.containerd.runc.v2"} {
		_, err := rt.RunPodSandbox(ctx, g.sandboxConfig("bad"), handler)
		mustFail(t, "unknown handler", err, codes.InvalidArgument, handler)
	}
	sb := g.sandbox("good")
	_, err := rt.RunPodSandbox(ctx, g.sandboxConfig("good"), "")
	mustFail(t, "duplicate", err, codes.AlreadyExists, "good")
	// A name is free again after a failure, and after removal.
	g.net.order("Add")
	_, err = rt.RunPodSandbox(ctx, g.sandboxConfig("again"), "")
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
	rt, ctx := g.served(), t.Context()
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
		"relative mount": {func(c *config) { c.Mounts = []*runtimeapi.Mount{{HostPath: "etc", ContainerPath: "/x"}} }, `"etc"`},
		"mount nowhere":  {func(c *config) { c.Mounts = []*runtimeapi.Mount{{HostPath: g.dir}} }, "container path"},
		"device": {func(c *config) {
			c.Devices = []*runtimeapi.Device{{HostPath: g.dir + "/none", ContainerPath: "/dev/x"}}
		}, "/none"},
		"climbing profile": {func(c *config) {
			c.Linux.SecurityContext.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "../../none.json"}
		}, "../../none.json"},
		"image": {func(c *config) { c.Image.Image = "NOT/valid" }, "NOT/valid"},
	} {
		_, err := rt.CreateContainer(ctx, sb, containerConfig("bad", tc.mod, "true"), nil)
		code := codes.InvalidArgument
		if name == "image" {
			code = codes.NotFound
		}
		mustFail(t, name, err, code, tc.names)
	}
	id := g.create(sb, containerConfig("good", nil, "true"))
	_, err := rt.CreateContainer(ctx, sb, containerConfig("good", nil, "true"), nil)
	mustFail(t, "duplicate", err, codes.AlreadyExists, "good")
	_, err = rt.CreateContainer(ctx, "none", containerConfig("x", nil, "true"), nil)
	mustFail(t, "create in an unknown sandbox", err, codes.NotFound, "none")

	// A container that does not run.
	_, _, err = rt.ExecSync(ctx, id, []string{"true"}, time.Second)
	mustFail(t, "exec before the start", err, codes.FailedPrecondition, id)
	_, err = rt.Attach(ctx, &runtimeapi.AttachRequest{ContainerId: id, Stdout: true})
	mustFail(t, "attach before the start", err, codes.FailedPrecondition, id)
	mustFail(t, "reopen before the start", rt.ReopenContainerLog(ctx, id), codes.FailedPrecondition, id)

	// IDs that nobody has: what removes is content, what asks is told.
	const none = "0123456789abcdef"
	for name, call := range map[string]func(id string) error{
		"ContainerStatus": func(id string) error { _, err := rt.ContainerStatus(ctx, id, false); return err },
		"StartContainer":  func(id string) error { return rt.StartContainer(ctx, id) },
		"ExecSync":        func(id string) error { _, _, err := rt.ExecSync(ctx, id, []string{"true"}, 0); return err },
		"Exec": func(id string) error {
			_, err := rt.Exec(ctx, &runtimeapi.ExecRequest{ContainerId: id, Cmd: []string{"true"}, Stdout: true})
			return err
		},
		"Attach": func(id string) error {
			_, err := rt.Attach(ctx, &runtimeapi.AttachRequest{ContainerId: id, Stdout: true})
			return err
		},
		"UpdateResources":    func(id string) error { return rt.UpdateContainerResources(ctx, id, &runtimeapi.ContainerResources{}) },
		"ReopenContainerLog": func(id string) error { return rt.ReopenContainerLog(ctx, id) },
		"ContainerStats":     func(id string) error { _, err := rt.ContainerStats(ctx, id); return err },
		"PodSandboxStatus":   func(id string) error { _, err := rt.PodSandboxStatus(ctx, id, false); return err },
		"PodSandboxStats":    func(id string) error { _, err := rt.PodSandboxStats(ctx, id); return err },
		"PortForward": func(id string) error {
			_, err := rt.PortForward(ctx, &runtimeapi.PortForwardRequest{PodSandboxId: id})
			return err
		},
	} {
		mustFail(t, name, call(none), codes.NotFound, none)
		mustFail(t, name+" without an ID", call(""), codes.InvalidArgument, "empty")
	}
	for name, err := range map[string]error{
		"StopContainer": rt.StopContainer(ctx, none, 1), "RemoveContainer": rt.RemoveContainer(ctx, none),
		"StopPodSandbox": rt.StopPodSandbox(ctx, none), "RemovePodSandbox": rt.RemovePodSandbox(ctx, none),
	} {
		if err != nil {
			t.Errorf("%s of an unknown ID: %v", name, err)
		}
	}
	if err := rt.RemovePodSandbox(ctx, sb); err != nil {
		t.Error(err)
	}
	g.empty()
}

func TestBadImageReferences(t *testing.T) {
	g := newRig(t)
	rt, ctx := g.served(), t.Context()
	for _, ref := range []string{
		"", " ", "UPPER", "a/UPPER", "a:b:c", "a@sha256:zz", "@sha256:" + strings.Repeat("a", 64), "https://example.com/a", "../etc/passwd", "a/../b", "a b", "a\x00b",
		strings.Repeat("a", 64), "host:port/a", strings.Repeat("a/", 200) + "b", "a:" + strings.Repeat("t", 129),
	} {
		spec := &runtimeapi.ImageSpec{Image: ref}
		_, err := rt.PullImage(ctx, spec, nil, nil)
		mustFail(t, "pull "+ref, err, codes.InvalidArgument, "image reference")
		if st, err := rt.ImageStatus(ctx, spec, false); !hexID.MatchString(ref) {
			mustFail(t, "status "+ref, err, codes.InvalidArgument, "image reference")
		} else if err != nil || st.Image != nil {
			t.Errorf("status of an unknown ID: %v, %v", st, err)
		}
	}
	// Nobody answers there, or not in HTTP.
	for _, ref := range []string{"127.0.0.1:1/a:v1", "no-such-host.invalid/a:v1"} {
		if _, err := rt.PullImage(ctx, &runtimeapi.ImageSpec{Image: ref}, nil, nil); err == nil || !strings.Contains(err.Error(), ref) {
			t.Errorf("pull %s: %v", ref, err)
		}
	}
	if err := rt.RemoveImage(ctx, &runtimeapi.ImageSpec{Image: "localhost/none:v1"}); err != nil {
		t.Errorf("remove an unknown image: %v", err)
	}
}

// TestContainerdStopped: calls are answered Unavailable, at once after a moment of patience; what is in memory still is.
// When containerd is back everything goes on.
func TestContainerdStopped(t *testing.T) {
	g := newRig(t)
	rt, ctx := g.served(), t.Context()
	sb := g.sandbox("web")
	id := g.run(sb, containerConfig("c", nil, "sleep", "1000"))
	made := g.create(sb, containerConfig("made", nil, "true"))
	created := g.create(sb, containerConfig("created", nil, "true"))
	g.pausePID(sb)
	victim := g.run(sb, containerConfig("victim", nil, "sleep", "1000"))
	other := g.sandbox("other")
	g.pausePID(other)
	if err := g.inst.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	// Far longer than patience, shorter than the deadlines that calls without it would meet.
	bound, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	image := &runtimeapi.ImageSpec{Image: testenv.BusyboxRef}
	var calls sync.WaitGroup
	for _, call := range []struct {
		name string
		do   func() error
	}{
		{"RunPodSandbox", func() error { _, err := rt.RunPodSandbox(bound, g.sandboxConfig("late"), ""); return err }},
		{"CreateContainer", func() error {
			_, err := rt.CreateContainer(bound, sb, containerConfig("late", nil, "true"), g.sandboxConfig("web"))
			return err
		}},
		{"StartContainer", func() error { return rt.StartContainer(bound, made) }},
		{"RemoveContainer", func() error { return rt.RemoveContainer(bound, created) }},
		{"UpdateContainerResources", func() error {
			return rt.UpdateContainerResources(bound, id, &runtimeapi.ContainerResources{Linux: &runtimeapi.LinuxContainerResources{CpuShares: 200}})
		}},
		{"ExecSync", func() error { _, _, err := rt.ExecSync(bound, id, []string{"true"}, 30*time.Second); return err }},
		{"StopContainer", func() error { return rt.StopContainer(bound, victim, 0) }},
		{"StopPodSandbox", func() error { return rt.StopPodSandbox(bound, other) }},
		{"RemovePodSandbox", func() error { return rt.RemovePodSandbox(bound, other) }},
		{"PullImage", func() error {
			_, err := rt.PullImage(bound, &runtimeapi.ImageSpec{Image: "127.0.0.1:1/a:v1"}, nil, nil)
			return err
		}},
		{"RemoveImage", func() error { return rt.RemoveImage(bound, image) }},
	} {
		calls.Go(func() { // waiting side by side
			began := time.Now()
			mustFail(t, call.name, call.do(), codes.Unavailable, "containerd at")
			t.Logf("%s answered after %s", call.name, time.Since(began).Round(time.Millisecond))
		})
	}
	calls.Wait()
	if st, err := rt.Status(bound, false); err != nil || st.Status.Conditions[0].Status || st.Status.Conditions[0].Reason != "ContainerdNotReady" {
		t.Errorf("status: %v, %v", st, err)
	}
	for name, ask := range map[string]func() error{
		"ContainerStatus":    func() error { _, err := rt.ContainerStatus(bound, id, true); return err },
		"PodSandboxStatus":   func() error { _, err := rt.PodSandboxStatus(bound, sb, true); return err },
		"ListContainers":     func() error { _, err := rt.ListContainers(bound, nil); return err },
		"ListPodSandbox":     func() error { _, err := rt.ListPodSandbox(bound, nil); return err },
		"ListImages":         func() error { _, err := rt.ListImages(bound, nil); return err },
		"ImageStatus":        func() error { _, err := rt.ImageStatus(bound, image, true); return err },
		"ReopenContainerLog": func() error { return rt.ReopenContainerLog(bound, id) },
		"ContainerStats":     func() error { _, err := rt.ContainerStats(bound, id); return err },
		"PodSandboxStats":    func() error { _, err := rt.PodSandboxStats(bound, sb); return err },
	} {
		if err := ask(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if st := g.status(id); st.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("the container: %v", st)
	}
	if bound.Err() != nil {
		t.Error("the calls took their deadline")
	}
	rctx, stop := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() { defer close(watched); g.inst.Run(rctx) }()
	t.Cleanup(func() { stop(); <-watched })
	waitFor(t, func() bool {
		_, _, err := g.ExecSync(ctx, id, []string{"true"}, 10*time.Second)
		return err == nil
	})
	if st := g.wait(victim); st.ExitCode != 137 {
		t.Errorf("what was killed meanwhile: %v", st)
	}
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
