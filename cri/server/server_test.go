package server_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	utilexec "k8s.io/utils/exec"

	"github.com/reevehq/reeve/cri"
	"github.com/reevehq/reeve/cri/fake"
	"github.com/reevehq/reeve/cri/remote"
	"github.com/reevehq/reeve/cri/server"
)

// start serves the fake and connects the published client to it.
func start(t *testing.T) (*fake.Runtime, *remote.Runtime, string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "cri")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "cri.sock")
	f := fake.New("app:v1")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	l, err := server.Listen("unix://" + path)
	if err != nil {
		t.Fatal(err)
	}
	go func() { done <- server.ServeListener(ctx, l, f, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("socket was left: %v", err)
		}
	})
	rt, err := remote.New(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { rt.Close(context.Background()) })
	return f, rt, path
}

func TestEveryCallReachesTheRuntime(t *testing.T) {
	f, rt, path := start(t)
	ctx := t.Context()
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("socket mode: %v, %v", st.Mode(), err)
	}
	ectx, stop := context.WithCancel(ctx)
	events := make(chan *runtimeapi.ContainerEventResponse, 100)
	evDone := make(chan error, 1)
	go func() { evDone <- rt.GetContainerEvents(ectx, events, nil) }()
	for f.Subscribers() == 0 {
		time.Sleep(time.Millisecond)
	}
	sb, err := rt.RunPodSandbox(ctx, &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Name: "a", Namespace: "b", Uid: "c"}}, "")
	if err != nil {
		t.Fatal(err)
	}
	id, err := rt.CreateContainer(ctx, sb, &runtimeapi.ContainerConfig{Metadata: &runtimeapi.ContainerMetadata{Name: "m"}, Image: &runtimeapi.ImageSpec{Image: "app:v1"}},
		&runtimeapi.PodSandboxConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if err := rt.StartContainer(ctx, id); err != nil {
		t.Fatal(err)
	}
	f.OnExec(func(_ context.Context, _ string, cmd []string) ([]byte, []byte, int, error) {
		if cmd[0] == "slow" {
			return nil, nil, 0, cri.ExecTimeout(cmd, time.Second)
		}
		return []byte("out"), []byte("err"), 3, nil
	})
	out, _, err := rt.ExecSync(ctx, id, []string{"x"}, time.Second)
	var exit utilexec.CodeExitError
	if !errors.As(err, &exit) || exit.Code != 3 || !bytes.Equal(out, []byte("out")) {
		t.Errorf("exec: %q, %v", out, err)
	}
	if _, _, err := rt.ExecSync(ctx, id, []string{"slow"}, time.Second); !cri.IsExecTimeout(err) {
		t.Errorf("exec timeout: %v", err)
	}
	if _, err := rt.ContainerStatus(ctx, "nope", false); status.Code(err) != codes.NotFound {
		t.Errorf("unknown container: %v", err)
	}
	if cs, err := rt.ListContainers(ctx, &runtimeapi.ContainerFilter{PodSandboxId: sb}); err != nil || len(cs) != 1 {
		t.Errorf("list: %v, %v", cs, err)
	}
	if _, err := rt.ContainerStats(ctx, id); err != nil {
		t.Error(err)
	}
	if err := rt.UpdateContainerResources(ctx, id, &runtimeapi.ContainerResources{Linux: &runtimeapi.LinuxContainerResources{CpuShares: 9}}); err != nil {
		t.Error(err)
	}
	if imgs, err := rt.ListImages(ctx, nil); err != nil || len(imgs) != 1 {
		t.Errorf("images: %v, %v", imgs, err)
	}
	if _, err := rt.PullImage(ctx, &runtimeapi.ImageSpec{Image: "new:v1"}, nil, nil); err != nil {
		t.Error(err)
	}
	if cfg, err := rt.RuntimeConfig(ctx); err != nil || cfg.Linux.CgroupDriver != runtimeapi.CgroupDriver_CGROUPFS {
		t.Errorf("runtime config: %v, %v", cfg, err)
	}
	if err := errors.Join(rt.StopContainer(ctx, id, 1), rt.RemoveContainer(ctx, id), rt.StopPodSandbox(ctx, sb), rt.RemovePodSandbox(ctx, sb)); err != nil {
		t.Error(err)
	}
	for ev := range events {
		if ev.ContainerId == sb && ev.ContainerEventType == runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT {
			break
		}
	}
	stop()
	<-evDone
}

func TestListenRefusesWhatIsNotItsOwn(t *testing.T) {
	_, _, path := start(t)
	if _, err := server.Listen("unix://" + path); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("busy socket: %v", err)
	}
	if _, err := server.Listen("tcp://127.0.0.1:1"); err == nil || !strings.Contains(err.Error(), "unix:///") {
		t.Errorf("tcp: %v", err)
	}
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := server.Listen(file)
	if b, _ := os.ReadFile(file); string(b) != "precious" {
		t.Errorf("a file was replaced: %v", err)
	}
	if err == nil {
		l.Close()
	}
	stale := filepath.Join(filepath.Dir(path), "stale.sock")
	old, err := net.Listen("unix", stale)
	if err != nil {
		t.Fatal(err)
	}
	old.(*net.UnixListener).SetUnlinkOnClose(false)
	old.Close()
	l, err = server.Listen(stale)
	if err != nil {
		t.Fatalf("stale socket: %v", err)
	}
	l.Close()
}
