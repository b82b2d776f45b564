package native

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	utilexec "k8s.io/utils/exec"

	"github.com/reevehq/reeve/cri"
)

func TestLifeOfAPod(t *testing.T) {
	g := newRig(t)
	ctx := t.Context()
	began := time.Now()
	sb := g.sandbox("web")
	t.Logf("sandbox in %s", time.Since(began))
	began = time.Now()
	id := g.run(sb, containerConfig("main", nil, "sh", "-c", "echo hello; echo oops >&2; sleep 1000 & wait"))
	t.Logf("container in %s", time.Since(began))

	st, err := g.PodSandboxStatus(ctx, sb, true)
	if err != nil || st.Status.State != runtimeapi.PodSandboxState_SANDBOX_READY || st.Status.Network.Ip == "" || len(st.ContainersStatuses) != 1 {
		t.Fatalf("sandbox status %v, %v", st, err)
	}
	if cs := g.status(id); cs.State != runtimeapi.ContainerState_CONTAINER_RUNNING || cs.StartedAt == 0 || cs.ImageRef == "" {
		t.Fatalf("container status %v", cs)
	}
	began = time.Now()
	if out := g.output(id, "sh", "-c", "hostname; cat /etc/resolv.conf; id -u; echo $HOSTNAME $FROM_IMAGE"); out != "web\nsearch default.svc.cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n0\nweb yes\n" {
		t.Errorf("inside: %q", out)
	}
	t.Logf("exec in %s", time.Since(began))
	_, _, err = g.ExecSync(ctx, id, []string{"sh", "-c", "exit 7"}, time.Second*10)
	var exit utilexec.CodeExitError
	if !errors.As(err, &exit) || exit.Code != 7 {
		t.Errorf("exec exit: %v", err)
	}
	began = time.Now()
	_, _, err = g.ExecSync(ctx, id, []string{"sh", "-c", "sleep 4242 & sleep 4242"}, time.Second)
	if !cri.IsExecTimeout(err) {
		t.Errorf("exec timeout: %v", err)
	}
	if out := g.output(id, "ps"); strings.Contains(out, "4242") {
		t.Errorf("a timed-out command left processes:\n%s", out)
	}
	stats, err := g.ContainerStats(ctx, id)
	if err != nil || stats.GetMemory().GetUsageBytes().GetValue() == 0 || stats.GetCpu().GetUsageCoreNanoSeconds().GetValue() == 0 || stats.WritableLayer == nil {
		t.Errorf("stats %v, %v", stats, err)
	}
	ps, err := g.PodSandboxStats(ctx, sb)
	if err != nil || ps.GetLinux().GetMemory().GetWorkingSetBytes().GetValue() == 0 || len(ps.Linux.Containers) != 1 || ps.Linux.Network == nil {
		t.Errorf("pod stats %v, %v", ps, err)
	}
	began = time.Now()
	if err := g.StopContainer(ctx, id, 0); err != nil {
		t.Fatal(err)
	}
	t.Logf("killed in %s", time.Since(began))
	if cs := g.status(id); cs.State != runtimeapi.ContainerState_CONTAINER_EXITED || cs.ExitCode != 137 || cs.Reason != "Error" {
		t.Errorf("status after stop: %v", cs)
	}
	log := g.log(id)
	if !strings.Contains(log, " stdout F hello\n") || !strings.Contains(log, " stderr F oops\n") {
		t.Errorf("log: %q", log)
	}
	began = time.Now()
	if err := g.StopPodSandbox(ctx, sb); err != nil {
		t.Fatal(err)
	}
	t.Logf("stopped sandbox in %s", time.Since(began))
	began = time.Now()
	if err := g.RemovePodSandbox(ctx, sb); err != nil {
		t.Fatal(err)
	}
	t.Logf("removed sandbox in %s", time.Since(began))
	if g.net.count() != 0 {
		t.Error("network was left")
	}
	for _, dir := range []string{g.net.dir, g.sandboxDir(""), g.containerDir(""), g.cfg.LogpumpDir + "/c"} {
		if e, _ := os.ReadDir(dir); len(e) != 0 {
			t.Errorf("%s holds %v", dir, e)
		}
	}
	if _, err := g.ContainerStatus(ctx, id, false); status.Code(err) != codes.NotFound {
		t.Errorf("status of a removed container: %v", err)
	}
	if err := errors.Join(g.StopPodSandbox(ctx, sb), g.RemovePodSandbox(ctx, sb), g.StopContainer(ctx, id, 3), g.RemoveContainer(ctx, id)); err != nil {
		t.Errorf("a second time: %v", err)
	}
	g.sandbox("web") // its name is free
}
