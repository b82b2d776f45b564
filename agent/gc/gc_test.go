package gc

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubelettypes "k8s.io/kubelet/pkg/types"

	"github.com/reevehq/reeve/agent/resources"
)

func dead(id, uid, name string, at int64) *runtimeapi.Container {
	return &runtimeapi.Container{Id: id, Metadata: &runtimeapi.ContainerMetadata{Name: name}, CreatedAt: at,
		State: runtimeapi.ContainerState_CONTAINER_EXITED, Labels: map[string]string{kubelettypes.KubernetesPodUIDLabel: uid}}
}

func TestSurplusKeepsTheNewestOfEachName(t *testing.T) {
	alive := dead("5", "u1", "a", 5)
	alive.State = runtimeapi.ContainerState_CONTAINER_RUNNING
	var got []string
	for _, c := range surplus([]*runtimeapi.Container{
		dead("1", "u1", "a", 1), dead("2", "u1", "a", 2), dead("3", "u1", "b", 1), dead("4", "u2", "a", 1), alive, dead("6", "", "x", 1), dead("7", "", "x", 2),
	}) {
		got = append(got, c.Id)
	}
	if d := cmp.Diff([]string{"1"}, got); d != "" {
		t.Errorf("surplus (-want +got):\n%s", d)
	}
}

func TestReplaced(t *testing.T) {
	sb := func(id, uid string, at int64, ready bool) *runtimeapi.PodSandbox {
		s := &runtimeapi.PodSandbox{Id: id, CreatedAt: at, Metadata: &runtimeapi.PodSandboxMetadata{Uid: uid}, State: runtimeapi.PodSandboxState_SANDBOX_NOTREADY}
		if ready {
			s.State = runtimeapi.PodSandboxState_SANDBOX_READY
		}
		return s
	}
	got := replaced([]*runtimeapi.PodSandbox{sb("old", "u1", 1, false), sb("busy", "u1", 2, false), sb("new", "u1", 3, true), sb("only", "u2", 1, false)},
		[]*runtimeapi.Container{{PodSandboxId: "busy"}})
	sort.Strings(got)
	if d := cmp.Diff([]string{"old"}, got); d != "" {
		t.Errorf("replaced (-want +got):\n%s", d)
	}
}

func TestToFree(t *testing.T) {
	for avail, want := range map[int64]int64{50: 0, 16: 0, 15: 5, 5: 15} {
		if got := toFree(resources.FS{CapacityBytes: 100, AvailableBytes: avail}, 85, 80); got != want {
			t.Errorf("with %d of 100 left: free %d, want %d", avail, got, want)
		}
	}
}

func TestUnusedImagesAreOldestFirstAndNeverPinned(t *testing.T) {
	c := New(Config{Logger: slog.New(slog.DiscardHandler)})
	images := []*runtimeapi.Image{{Id: "used", RepoTags: []string{"img:v1"}}, {Id: "a"}, {Id: "b"}, {Id: "pause", Pinned: true}}
	t0 := time.Unix(1000, 0)
	c.unused(images, []*runtimeapi.Container{{Image: &runtimeapi.ImageSpec{Image: "img:v1"}}, {ImageRef: "a"}}, t0)
	got := c.unused(images, []*runtimeapi.Container{{Image: &runtimeapi.ImageSpec{Image: "img:v1"}}}, t0.Add(time.Hour))
	var ids []string
	for _, x := range got {
		ids = append(ids, x.id)
	}
	if d := cmp.Diff([]string{"b", "a"}, ids); d != "" {
		t.Errorf("unused (-want +got):\n%s", d)
	}
}

func TestImagesOfPodsAboutToStartAreNotUnused(t *testing.T) {
	starting, over := &v1.Pod{}, &v1.Pod{}
	starting.Spec.InitContainers = []v1.Container{{Image: "init"}}
	starting.Spec.Containers = []v1.Container{{Image: "reg.example/app:v2"}}
	starting.Spec.Volumes = []v1.Volume{{VolumeSource: v1.VolumeSource{Image: &v1.ImageVolumeSource{Reference: "data:v1"}}}}
	over.UID = "over"
	over.Spec.Containers = []v1.Container{{Image: "done:v1"}}
	c := New(Config{
		Logger: slog.New(slog.DiscardHandler), Pods: func() []*v1.Pod { return []*v1.Pod{starting, over} },
		Ended: func(uid types.UID) bool { return uid == "over" },
	})
	var images []*runtimeapi.Image
	for _, name := range []string{"docker.io/library/init:latest", "reg.example/app:v2", "docker.io/library/data:v1", "docker.io/library/done:v1", "reg.example/app:v1"} {
		images = append(images, &runtimeapi.Image{Id: name, RepoTags: []string{name}})
	}
	var ids []string
	for _, x := range c.unused(images, nil, time.Unix(1000, 0)) {
		ids = append(ids, x.id)
	}
	sort.Strings(ids)
	if d := cmp.Diff([]string{"docker.io/library/done:v1", "reg.example/app:v1"}, ids); d != "" {
		t.Errorf("unused (-want +got):\n%s", d)
	}
}

// remover is a runtime with containers of which only those two calls are made.
type remover struct {
	Runtime
	list    []*runtimeapi.Container
	removed []string
}

func (r *remover) ListContainers(context.Context, *runtimeapi.ContainerFilter) ([]*runtimeapi.Container, error) {
	return r.list, nil
}

func (r *remover) RemoveContainer(_ context.Context, id string) error {
	r.removed = append(r.removed, id)
	return nil
}

func TestContainersAndLogsOfEndedPodsGo(t *testing.T) {
	running := dead("3", "over", "b", 1)
	running.State = runtimeapi.ContainerState_CONTAINER_RUNNING
	r := &remover{list: []*runtimeapi.Container{dead("1", "over", "a", 1), dead("2", "alive", "a", 1), running, dead("4", "", "x", 1)}}
	pod := func(uid string) *v1.Pod {
		p := &v1.Pod{}
		p.Name, p.Namespace, p.UID = uid, "ns", types.UID(uid)
		return p
	}
	dir := t.TempDir()
	for _, uid := range []string{"over", "alive"} {
		if err := os.MkdirAll(filepath.Join(dir, "ns_"+uid+"_"+uid, "a"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	c := New(Config{
		Runtime: r, PodLogsDir: dir, Logger: slog.New(slog.DiscardHandler), Synced: func() bool { return true },
		Pods: func() []*v1.Pod { return []*v1.Pod{pod("over"), pod("alive")} }, Ended: func(uid types.UID) bool { return uid == "over" },
	})
	c.ended(t.Context())
	if !slices.Equal(r.removed, []string{"1"}) {
		t.Errorf("removed containers %v, want only the dead one of the pod that is over", r.removed)
	}
	ents, err := os.ReadDir(dir)
	if err != nil || len(ents) != 1 || ents[0].Name() != "ns_alive_alive" {
		t.Errorf("logs left: %v, %v", ents, err)
	}
}

// reopener is a runtime of which only ReopenContainerLog is called.
type reopener struct {
	Runtime
	path string
	err  error
}

func (r reopener) ReopenContainerLog(context.Context, string) error {
	if r.err != nil {
		return r.err
	}
	return os.WriteFile(r.path, nil, 0o640)
}

func TestRotationKeepsTheNumberOfFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	c := New(Config{Runtime: reopener{path: path}, LogMaxFiles: 3, Logger: slog.New(slog.DiscardHandler)})
	for i := range 5 {
		if err := os.WriteFile(path, []byte{byte('a' + i)}, 0o640); err != nil {
			t.Fatal(err)
		}
		if err := c.rotate(t.Context(), "id", path, time.Unix(int64(1000+i), 0).UTC()); err != nil {
			t.Fatal(err)
		}
	}
	files, _ := filepath.Glob(path + "*")
	for i := range files {
		files[i] = filepath.Base(files[i])
	}
	want := []string{"0.log", "0.log.19700101-001643.gz", "0.log.19700101-001644"}
	if d := cmp.Diff(want, files); d != "" {
		t.Errorf("files (-want +got):\n%s", d)
	}
}

func TestLogKeepsItsNameWhenItCannotBeReopened(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	if err := os.WriteFile(path, []byte("line"), 0o640); err != nil {
		t.Fatal(err)
	}
	c := New(Config{Runtime: reopener{err: errors.New("shim hangs")}, LogMaxFiles: 3, Logger: slog.New(slog.DiscardHandler)})
	if err := c.rotate(t.Context(), "id", path, time.Unix(1000, 0)); err == nil {
		t.Error("no error")
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "line" {
		t.Errorf("log = %q, %v", b, err)
	}
}

// lister is a runtime without sandboxes.
type lister struct{ Runtime }

func (lister) ListPodSandbox(context.Context, *runtimeapi.PodSandboxFilter) ([]*runtimeapi.PodSandbox, error) {
	return nil, nil
}

type removed struct{ uids []types.UID }

func (r *removed) ReleasePod(types.UID)     {}
func (r *removed) Unmounted(types.UID) bool { return true }
func (r *removed) RemovePodDir(uid types.UID) error {
	r.uids = append(r.uids, uid)
	return nil
}

func TestLeftoversOfStrangersOnly(t *testing.T) {
	dir := t.TempDir()
	mk := func(p ...string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(append([]string{dir}, p...)...), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	mk("log", "pods", "default_known_u1")
	mk("log", "pods", "default_stranger_u2")
	mk("log", "pods", "default_worked_u3")
	mk("log", "pods", "other-thing")
	for _, uid := range []string{"u1", "u2", "u3"} {
		mk("root", "pods", uid)
	}
	synced := false
	vols := &removed{}
	c := New(Config{
		Runtime: lister{}, PodLogsDir: filepath.Join(dir, "log", "pods"), RootDir: filepath.Join(dir, "root"), Volumes: vols,
		Pods:   func() []*v1.Pod { p := &v1.Pod{}; p.UID = "u1"; return []*v1.Pod{p} },
		Synced: func() bool { return synced }, HasWorker: func(uid types.UID) bool { return uid == "u3" }, Logger: slog.New(slog.DiscardHandler),
	})
	names := func() []string {
		ents, err := os.ReadDir(filepath.Join(dir, "log", "pods"))
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, e := range ents {
			out = append(out, e.Name())
		}
		return out
	}
	c.leftovers(t.Context())
	if got := names(); len(got) != 4 || len(vols.uids) != 0 {
		t.Fatalf("removed something before the sources had synced: %v %v", got, vols.uids)
	}
	synced = true
	c.leftovers(t.Context())
	if got := names(); slices.Contains(got, "default_stranger_u2") || len(got) != 3 {
		t.Errorf("log folders = %v", got)
	}
	if d := cmp.Diff([]types.UID{"u2"}, vols.uids); d != "" {
		t.Errorf("removed folders (-want +got):\n%s", d)
	}
}
