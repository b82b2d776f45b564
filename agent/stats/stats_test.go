package stats

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	info "github.com/google/cadvisor/info/v1"
	"github.com/google/go-cmp/cmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/reevehq/reeve/internal/testenv"
)

func TestNextSample(t *testing.T) {
	t0 := time.Unix(1000, 0)
	first := nextSample(cpuSample{}, false, t0, 100)
	if first.rated {
		t.Fatal("one reading made a rate")
	}
	soon := nextSample(first, true, t0.Add(100*time.Millisecond), 1_000_000)
	if soon != first {
		t.Errorf("a reading within the window changed the sample: %+v", soon)
	}
	second := nextSample(first, true, t0.Add(2*time.Second), 100+3e9)
	if !second.rated || second.rate != 1.5e9 {
		t.Errorf("rate = %d (rated %v), want 1.5e9", second.rate, second.rated)
	}
	again := nextSample(second, true, t0.Add(4*time.Second), 5)
	if again.rated {
		t.Error("a cgroup that was made anew kept its rate")
	}
}

func TestParseNetDev(t *testing.T) {
	const dev = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 10 1 0 0 0 0 0 0 10 1 0 0 0 0 0 0
  eth0: 1000 10 1 0 0 0 0 0 2000 20 2 0 0 0 0 0
veth12: 7 1 0 0 0 0 0 0 7 1 0 0 0 0 0 0
`
	n := parseNetDev([]byte(dev), "eth0", time.Unix(0, 0))
	if len(n.Interfaces) != 1 || n.Name != "eth0" || *n.RxBytes != 1000 || *n.RxErrors != 1 || *n.TxBytes != 2000 || *n.TxErrors != 2 {
		t.Errorf("got %+v", n)
	}
}

// A tree as the cgroupfs and the systemd driver make it is read alike.
func TestPodCgroups(t *testing.T) {
	root := t.TempDir()
	id := strings.Repeat("ab", 32)
	for _, d := range []string{
		"r/kubepods/burstable/pod11111111-2222-3333-4444-555555555555/" + id,
		"r/kubepods/pod99999999-2222-3333-4444-555555555555",
		"r/kubepods/burstable/notapod",
		"r/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podaaaaaaaa_2222_3333_4444_555555555555.slice/cri-containerd-" + id + ".scope",
	} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	r := cgroupReader{mounts: map[string]string{"": root}}
	got, err := r.podCgroups("/r")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]podCgroup{
		"11111111-2222-3333-4444-555555555555": {"/r/kubepods/burstable/pod11111111-2222-3333-4444-555555555555",
			map[string]string{id: "/r/kubepods/burstable/pod11111111-2222-3333-4444-555555555555/" + id}},
		"99999999-2222-3333-4444-555555555555": {"/r/kubepods/pod99999999-2222-3333-4444-555555555555", map[string]string{}},
		"aaaaaaaa-2222-3333-4444-555555555555": {"/r/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podaaaaaaaa_2222_3333_4444_555555555555.slice",
			map[string]string{id: "/r/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podaaaaaaaa_2222_3333_4444_555555555555.slice/cri-containerd-" + id + ".scope"}},
	}
	if d := cmp.Diff(want, got, cmp.AllowUnexported(podCgroup{})); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// A pod that never waited has pressure figures, which are zero; a kernel that counts none has no figures.
func TestPressureOfZeroIsAFigure(t *testing.T) {
	if p := (cgroupReader{psi: true}).pressure(info.PSIStats{}); p == nil || p.Some.Total != 0 {
		t.Errorf("of a kernel that counts: %+v", p)
	}
	if p := (cgroupReader{}).pressure(info.PSIStats{}); p != nil {
		t.Errorf("of a kernel that does not: %+v", p)
	}
	if p := (cgroupReader{psi: true}).pressure(info.PSIStats{Some: info.PSIData{Total: 3}}); p.Some.Total != 3000 {
		t.Errorf("3 µs became %d ns", p.Some.Total)
	}
}

type emptyRuntime struct{}

func (emptyRuntime) ListPodSandbox(context.Context, *runtimeapi.PodSandboxFilter) ([]*runtimeapi.PodSandbox, error) {
	return nil, nil
}
func (emptyRuntime) ListContainers(context.Context, *runtimeapi.ContainerFilter) ([]*runtimeapi.Container, error) {
	return nil, nil
}
func (emptyRuntime) ListContainerStats(context.Context, *runtimeapi.ContainerStatsFilter) ([]*runtimeapi.ContainerStats, error) {
	return nil, nil
}
func (emptyRuntime) ImageFsInfo(context.Context) (*runtimeapi.ImageFsInfoResponse, error) {
	return &runtimeapi.ImageFsInfoResponse{ImageFilesystems: []*runtimeapi.FilesystemUsage{{
		FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: "/"}, UsedBytes: &runtimeapi.UInt64Value{Value: 42}}}}, nil
}

// What the machine itself says is real: memory is used, processors have run, its disk has a size.
func TestSummaryOfThisMachine(t *testing.T) {
	p, err := New(Config{NodeName: "n", Runtime: emptyRuntime{}, RootDir: t.TempDir(), Logger: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))})
	if err != nil {
		testenv.Skip(t, "no cgroups here: "+err.Error())
	}
	s, err := p.Summary(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	n := s.Node
	if n.CPU == nil || *n.CPU.UsageCoreNanoSeconds == 0 || n.Memory == nil || *n.Memory.WorkingSetBytes == 0 || *n.Memory.AvailableBytes == 0 {
		t.Errorf("node's processor and memory: %+v, %+v", n.CPU, n.Memory)
	}
	if n.Fs == nil || *n.Fs.CapacityBytes == 0 || n.Rlimit == nil || *n.Rlimit.MaxPID == 0 || *n.Rlimit.NumOfRunningProcesses == 0 {
		t.Errorf("node's disk and processes: %+v, %+v", n.Fs, n.Rlimit)
	}
	if n.Runtime == nil || *n.Runtime.ImageFs.UsedBytes != 42 {
		t.Errorf("image filesystem: %+v", n.Runtime)
	}
	m, err := p.MachineInfo()
	if err != nil || m.NumCores == 0 || m.MemoryCapacity == 0 {
		t.Errorf("machine: %+v, %v", m, err)
	}
	fams, err := p.Cadvisor().Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for _, f := range fams {
		got[f.GetName()] = true
	}
	for _, want := range []string{"container_cpu_usage_seconds_total", "container_memory_working_set_bytes", "container_start_time_seconds", "machine_cpu_cores", "machine_memory_bytes"} {
		if !got[want] {
			t.Errorf("/metrics/cadvisor lacks %s", want)
		}
	}
}
