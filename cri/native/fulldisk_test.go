package native

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/reevehq/reeve/internal/testenv"
	"github.com/reevehq/reeve/internal/testns"
)

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
	rt, ctx := g.served(), t.Context()
	sb := g.sandbox("before")
	id := g.run(sb, containerConfig("c", nil, "sleep", "1000"))
	g.pausePID(sb)

	free := fill(t, state)
	_, err := rt.RunPodSandbox(ctx, g.sandboxConfig("web"), "")
	mustFail(t, "our folder is full", err, codes.ResourceExhausted, "no space left on device")
	mustFail(t, "our folder is full", err, codes.ResourceExhausted, state)
	free()

	reg := newRegistry(t)
	reg.push(t, "a/big:v1", testImage(strings.Repeat("big", 1<<20)))
	free = fill(t, root)
	_, err = rt.CreateContainer(ctx, sb, containerConfig("full", nil, "true"), g.sandboxConfig("before"))
	mustFail(t, "containerd's folder is full", err, codes.ResourceExhausted, "no space left on device")
	_, err = rt.PullImage(ctx, &runtimeapi.ImageSpec{Image: reg.host + "/a/big:v1"}, nil, nil)
	mustFail(t, "a pull", err, codes.ResourceExhausted, "no space left on device")
	mustFail(t, "a pull", err, codes.ResourceExhausted, "a/big:v1")
	if st := g.status(id); st.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("the other container: %v", st)
	}
	free()
	if _, err := rt.PullImage(ctx, &runtimeapi.ImageSpec{Image: reg.host + "/a/big:v1"}, nil, nil); err != nil {
		t.Errorf("a pull with room again: %v", err)
	}
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
