package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containernetworking/cni/libcni"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/reevehq/reeve/tests/node"
)

// bare is the reference: a network namespace, CNI ADD by exec'd ptp, host-local and portmap, a pause container and one
// more container in its namespaces.
type bare struct {
	client  *containerd.Client
	ctx     context.Context
	pause   containerd.Image
	app     containerd.Image
	cni     *libcni.CNIConfig
	list    *libcni.NetworkConfigList
	dir     string
	cgroups string
	n       int
}

// newBare prepares the reference on the containerd at address, whose namespace holds both images.
func newBare(b *testing.B, address, namespace, pauseImage, appImage, dir, cgroups string) *bare {
	b.Helper()
	client, err := containerd.New(address, containerd.WithTimeout(10*time.Second))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { client.Close() })
	r := &bare{client: client, ctx: namespaces.WithNamespace(context.Background(), namespace), dir: dir, cgroups: cgroups}
	for ref, to := range map[string]*containerd.Image{pauseImage: &r.pause, appImage: &r.app} {
		if *to, err = client.GetImage(r.ctx, ref); err != nil {
			b.Fatalf("the reference needs image %s: %v", ref, err)
		}
	}
	r.cni = libcni.NewCNIConfigWithCacheDir([]string{"/opt/cni/bin", "/usr/lib/cni"}, filepath.Join(dir, "cni-cache"), nil)
	if r.list, err = libcni.ConfListFromBytes(node.Conflist("bare", "10.201.0.0/16", filepath.Join(dir, "ipam"), false)); err != nil {
		b.Fatal(err)
	}
	return r
}

// newNetns makes a network namespace held by a bind mount.
func newNetns(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	f.Close()
	done := make(chan error)
	go func() {
		// The thread ends with its namespace: it is never unlocked.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- unix.Mount(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), path, "", unix.MS_BIND, "")
	}()
	return <-done
}

// run is one pod of the reference; it returns how long making it took. Removing it is not counted.
func (r *bare) run(b *testing.B) time.Duration {
	b.Helper()
	must := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	r.n++
	id := fmt.Sprintf("bare-%d", r.n)
	netns := filepath.Join(r.dir, id)
	cgroup := filepath.Join(r.cgroups, id)
	rt := &libcni.RuntimeConf{ContainerID: id, NetNS: netns, IfName: "eth0"}

	began := time.Now()
	must(newNetns(netns))
	_, err := r.cni.AddNetworkList(r.ctx, r.list, rt)
	must(err)
	sandbox, err := r.client.NewContainer(r.ctx, id, containerd.WithNewSnapshot(id, r.pause),
		containerd.WithNewSpec(oci.WithImageConfig(r.pause), oci.WithCgroup(cgroup+"/pause"),
			oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: netns}), withoutScoreAdj))
	must(err)
	sandboxTask, err := sandbox.NewTask(r.ctx, cio.NullIO)
	must(err)
	_, err = sandboxTask.Wait(r.ctx)
	must(err)
	must(sandboxTask.Start(r.ctx))
	proc := fmt.Sprintf("/proc/%d/ns/", sandboxTask.Pid())
	app, err := r.client.NewContainer(r.ctx, id+"-app", containerd.WithNewSnapshot(id+"-app", r.app),
		containerd.WithContainerLabels(map[string]string{}),
		containerd.WithNewSpec(oci.WithImageConfig(r.app), oci.WithCgroup(cgroup+"/app"),
			oci.WithAnnotations(map[string]string{"io.kubernetes.cri.sandbox-id": id}),
			oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: proc + "net"}),
			oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.IPCNamespace, Path: proc + "ipc"}),
			oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.UTSNamespace, Path: proc + "uts"}), withoutScoreAdj))
	must(err)
	appTask, err := app.NewTask(r.ctx, cio.NullIO)
	must(err)
	_, err = appTask.Wait(r.ctx)
	must(err)
	must(appTask.Start(r.ctx))
	took := time.Since(began)

	for _, t := range []containerd.Task{appTask, sandboxTask} {
		exit, err := t.Wait(r.ctx)
		must(err)
		must(t.Kill(r.ctx, syscall.SIGKILL))
		<-exit
		_, err = t.Delete(r.ctx)
		must(err)
	}
	must(app.Delete(r.ctx, containerd.WithSnapshotCleanup))
	must(sandbox.Delete(r.ctx, containerd.WithSnapshotCleanup))
	must(r.cni.DelNetworkList(r.ctx, r.list, rt))
	must(unix.Unmount(netns, unix.MNT_DETACH))
	must(os.Remove(netns))
	return took
}

// withoutScoreAdj leaves the OOM score to be inherited: the hosts of these benches may not lower it.
func withoutScoreAdj(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
	s.Process.OOMScoreAdj = nil
	return nil
}
