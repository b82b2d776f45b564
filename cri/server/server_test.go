package server_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/reevehq/reeve/cri/fake"
	"github.com/reevehq/reeve/cri/remote"
	"github.com/reevehq/reeve/cri/server"
)

// A sandbox and a container through both ends of the socket: what remote asks, server answers, with the codes of the
// runtime behind it.
func TestRemoteThroughServer(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "cri")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "cri.sock")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx, fake.New("image:v1"), path, slog.New(slog.DiscardHandler)) }()

	dial, stop := context.WithTimeout(ctx, 30*time.Second)
	defer stop()
	rt, err := remote.New(dial, "unix://"+path)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v; want mode 0600", st.Mode(), err)
	}
	config := &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Name: "p", Namespace: "n", Uid: "u"}, LogDirectory: dir}
	id, err := rt.RunPodSandbox(ctx, config, "")
	if err != nil {
		t.Fatal(err)
	}
	container, err := rt.CreateContainer(ctx, id, &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: "c"}, Image: &runtimeapi.ImageSpec{Image: "image:v1"}, LogPath: "c.log",
	}, config)
	if err != nil {
		t.Fatal(err)
	}
	if err := rt.StartContainer(ctx, container); err != nil {
		t.Fatal(err)
	}
	st, err := rt.ContainerStatus(ctx, container, false)
	if err != nil || st.Status.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("status %v, %v; want running", st, err)
	}
	if err := rt.StartContainer(ctx, "none"); status.Code(err) != codes.NotFound {
		t.Errorf("start of an unknown container: %v, want code NotFound", err)
	}

	if err := server.Run(ctx, fake.New(), path, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a second server on the socket: %v, want an error that names it", err)
	}
	if err := rt.Close(ctx); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
}

func TestEndpointsThatCannotWork(t *testing.T) {
	for _, endpoint := range []string{"", "/run/x.sock", "tcp://127.0.0.1:1", "unix://", "::"} {
		if _, err := remote.New(context.Background(), endpoint); err == nil || !strings.Contains(err.Error(), "unix:///") {
			t.Errorf("New(%q) = %v, want an error that shows the form", endpoint, err)
		}
	}
}
