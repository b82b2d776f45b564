package fake

import (
	"context"
	"errors"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	utilexec "k8s.io/utils/exec"

	"github.com/reevehq/reeve/cri"
)

func sandboxConfig(name string) *runtimeapi.PodSandboxConfig {
	return &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "default", Uid: "uid-" + name},
		LogDirectory: "/var/log/pods/default_" + name,
		Labels:       map[string]string{"app": name},
	}
}

func TestLifeOfAPod(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r := New("app:v1")
	evs := make(chan *runtimeapi.ContainerEventResponse, 32)
	ready := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- r.GetContainerEvents(ctx, evs, func(runtimeapi.RuntimeService_GetContainerEventsClient) { close(ready) })
	}()
	<-ready

	sb, err := r.RunPodSandbox(ctx, sandboxConfig("a"), "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.RunPodSandbox(ctx, sandboxConfig("a"), ""); status.Code(err) != codes.AlreadyExists {
		t.Fatalf("second sandbox of the same name: got %v, want AlreadyExists", err)
	}
	cfg := &runtimeapi.ContainerConfig{Metadata: &runtimeapi.ContainerMetadata{Name: "c"}, Image: &runtimeapi.ImageSpec{Image: "nope"}, LogPath: "c/0.log"}
	if _, err := r.CreateContainer(ctx, sb, cfg, nil); status.Code(err) != codes.NotFound {
		t.Fatalf("unknown image: got %v, want NotFound", err)
	}
	cfg.Image.Image = "app:v1"
	id, err := r.CreateContainer(ctx, sb, cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.ExecSync(ctx, id, []string{"true"}, 0); status.Code(err) != codes.FailedPrecondition {
		t.Fatalf("exec in a created container: got %v, want FailedPrecondition", err)
	}
	if err := r.StartContainer(ctx, id); err != nil {
		t.Fatal(err)
	}
	r.OnExec(func(context.Context, string, []string) ([]byte, []byte, int, error) {
		return []byte("out"), nil, 3, nil
	})
	out, _, err := r.ExecSync(ctx, id, []string{"false"}, time.Second)
	var exit utilexec.CodeExitError
	if !errors.As(err, &exit) || exit.Code != 3 || string(out) != "out" {
		t.Fatalf("exec: got %q, %v; want exit code 3", out, err)
	}
	r.Exit(id, 7)
	st, err := r.ContainerStatus(ctx, id, false)
	if err != nil || st.Status.ExitCode != 7 || st.Status.Reason != "Error" || st.Status.LogPath != "/var/log/pods/default_a/c/0.log" {
		t.Fatalf("status after exit: %v, %v", st, err)
	}
	if err := r.RemovePodSandbox(ctx, sb); err != nil {
		t.Fatal(err)
	}
	if err := r.RemovePodSandbox(ctx, sb); err != nil {
		t.Fatalf("second remove: %v", err)
	}
	if _, err := r.RunPodSandbox(ctx, sandboxConfig("a"), ""); err != nil {
		t.Fatalf("name was left reserved: %v", err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatalf("events ended with %v", err)
	}
	want := []runtimeapi.ContainerEventType{0, 1, 0, 1, 2, 2, 3, 3}
	for i, w := range want {
		if ev := <-evs; ev.ContainerEventType != w {
			t.Fatalf("event %d: got %s, want %s", i, ev.ContainerEventType, w)
		}
	}
}

func TestFailOnHealsAgain(t *testing.T) {
	r := New()
	boom := errors.New("boom")
	r.FailOn("RunPodSandbox", boom)
	if _, err := r.RunPodSandbox(t.Context(), sandboxConfig("a"), ""); !errors.Is(err, boom) {
		t.Fatalf("got %v", err)
	}
	r.FailOn("RunPodSandbox", nil)
	if _, err := r.RunPodSandbox(t.Context(), sandboxConfig("a"), ""); err != nil {
		t.Fatal(err)
	}
	if calls := r.Calls(); len(calls) != 2 || len(r.Calls()) != 0 {
		t.Fatalf("calls: %q", calls)
	}
}

func TestExecTimeoutIsRecognised(t *testing.T) {
	err := cri.ExecTimeout([]string{"sleep", "9"}, time.Second)
	if !cri.IsExecTimeout(err) || status.Code(err) != codes.DeadlineExceeded {
		t.Fatalf("%v is not an exec timeout", err)
	}
	if cri.IsExecTimeout(context.DeadlineExceeded) {
		t.Fatal("the caller's own deadline is not an exec timeout")
	}
}
