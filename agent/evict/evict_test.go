package evict

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	"k8s.io/utils/ptr"
)

func pod(name string, priority int32, memory string) *v1.Pod {
	p := &v1.Pod{Spec: v1.PodSpec{Priority: &priority, Containers: []v1.Container{{Name: "c"}}}}
	p.Name, p.UID = name, types.UID(name)
	if memory != "" {
		p.Spec.Containers[0].Resources.Requests = v1.ResourceList{v1.ResourceMemory: resource.MustParse(memory)}
	}
	return p
}

func TestParseNamesTheField(t *testing.T) {
	for want, bad := range map[string]Settings{
		"evictionHard[memory.available]":                          {EvictionHard: map[string]string{"memory.available": "x"}},
		"evictionHard[nodefs.available]":                          {EvictionHard: map[string]string{"nodefs.available": "101%"}},
		"evictionHard[disk]":                                      {EvictionHard: map[string]string{"disk": "1Gi"}},
		"evictionHard[allocatableMemory.available]":               {EvictionHard: map[string]string{"allocatableMemory.available": "1Gi"}},
		"evictionSoft[memory.available]: evictionSoftGracePeriod": {EvictionSoft: map[string]string{"memory.available": "1Gi"}},
		"evictionSoftGracePeriod[pid.available]":                  {EvictionSoftGracePeriod: map[string]string{"pid.available": "1m"}},
		"evictionMinimumReclaim[nodefs.available]":                {EvictionMinimumReclaim: map[string]string{"nodefs.available": "-1"}},
	} {
		if _, err := Parse(bad); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Parse(%+v) = %v, want an error that names %s", bad, err, want)
		}
	}
	if _, err := Parse(Settings{EvictionHard: map[string]string{"a": "1", "b": "1"}}); err == nil || !strings.Contains(err.Error(), "[a]") || !strings.Contains(err.Error(), "[b]") {
		t.Errorf("two errors are told as %v", err)
	}
}

func TestMergeKeepsWhatIsGiven(t *testing.T) {
	got := Settings{EvictionHard: map[string]string{"memory.available": "1Gi"}}.Merge().EvictionHard
	if got["memory.available"] != "1Gi" || got["imagefs.available"] != "15%" {
		t.Errorf("merged = %v", got)
	}
}

func TestAllocatableHasTheHardThresholdOfMemory(t *testing.T) {
	th := WithAllocatable(parse(t, Settings{EvictionHard: Defaults()}))
	met := Crossed(th, map[Signal]Left{Memory: {1 << 30, 8 << 30}, AllocatableMemory: {50 << 20, 500 << 20}})
	if len(met) != 1 || met[0].Signal != AllocatableMemory || met[0].Absolute != 100<<20 || met[0].Signal.Condition() != v1.NodeMemoryPressure {
		t.Errorf("crossed = %+v", met)
	}
}

func TestRank(t *testing.T) {
	critical := pod("critical", 2_000_000_000, "")
	pods := []*v1.Pod{pod("within", 0, "100Mi"), pod("over-important", 10, "1Mi"), pod("over-little", 0, "1Mi"), pod("over-much", 0, "1Mi"), critical}
	usage := map[types.UID]Usage{"within": {Memory: 50 << 20}, "over-important": {Memory: 500 << 20}, "over-little": {Memory: 2 << 20}, "over-much": {Memory: 9 << 20}}
	var names []string
	for _, p := range Rank(pods, usage, v1.ResourceMemory) {
		names = append(names, p.Name)
	}
	if got, want := strings.Join(names, " "), "over-much over-little over-important within"; got != want {
		t.Errorf("order = %s, want %s", got, want)
	}
}

func TestOutgrown(t *testing.T) {
	p := pod("p", 0, "")
	p.Spec.Volumes = []v1.Volume{{Name: "scratch", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{SizeLimit: ptr.To(resource.MustParse("1Mi"))}}}}
	if got := Outgrown(p, Usage{Volumes: map[string]int64{"scratch": 1 << 20}}); got != "" {
		t.Errorf("at its limit: %q", got)
	}
	if got := Outgrown(p, Usage{Volumes: map[string]int64{"scratch": 1<<20 + 1}}); !strings.Contains(got, `EmptyDir volume "scratch" exceeds the limit "1Mi"`) {
		t.Errorf("above its limit: %q", got)
	}
}

// bed is a node whose image file system is short until images are removed or pods are gone.
type bed struct {
	*Manager
	left    int64
	freed   int64
	pods    []*v1.Pod
	evicted []string
	graces  []time.Duration
	gone    map[types.UID]bool
	usage   []statsapi.PodStats
}

func newBed(t *testing.T, s Settings, signal Signal) *bed {
	b := &bed{left: 5, gone: map[types.UID]bool{}}
	b.Manager = New(Config{
		Thresholds: parse(t, s), Logger: slog.New(slog.DiscardHandler), MaxPodGrace: 20 * time.Second,
		Left:    func(context.Context) map[Signal]Left { return map[Signal]Left{signal: {b.left, 100}} },
		Summary: func(context.Context, bool) (*statsapi.Summary, error) { return &statsapi.Summary{Pods: b.usage}, nil },
		Active:  func() []*v1.Pod { return b.pods },
		Evict: func(p *v1.Pod, grace time.Duration, _ string) {
			b.evicted, b.graces = append(b.evicted, p.Name), append(b.graces, grace)
			b.pods = slices.DeleteFunc(slices.Clone(b.pods), func(x *v1.Pod) bool { return x.UID == p.UID })
		},
		Gone:        func(uid types.UID) bool { return b.gone[uid] },
		ReclaimDisk: func(context.Context) { b.left += b.freed },
	})
	b.pods = []*v1.Pod{pod("a", 0, ""), pod("b", 1, "")}
	return b
}

func TestImagesGoBeforePods(t *testing.T) {
	for _, tc := range []struct {
		name    string
		freed   int64
		evicted int
	}{{"images are enough", 50, 0}, {"images are not enough", 0, 1}} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBed(t, Settings{EvictionHard: map[string]string{"imagefs.available": "15%"}}, ImageFS)
			b.freed = tc.freed
			b.look(context.Background(), time.Now())
			if len(b.evicted) != tc.evicted {
				t.Errorf("evicted %v, want %d", b.evicted, tc.evicted)
			}
			if !b.Pressure(v1.NodeDiskPressure) {
				t.Error("the node does not say that it was short")
			}
			if got := b.Refuses(pod("new", 0, "1Mi")); got != v1.NodeDiskPressure {
				t.Errorf("a new pod is refused by %q", got)
			}
			if got := b.Refuses(pod("critical", 2_000_000_000, "1Mi")); got != "" {
				t.Errorf("a critical pod is refused by %q", got)
			}
		})
	}
}

func TestTheNextPodGoesOnlyWhenTheLastIsGone(t *testing.T) {
	b := newBed(t, Settings{EvictionHard: map[string]string{"memory.available": "15%"}}, Memory)
	now := time.Now()
	for i := range 5 {
		b.look(context.Background(), now.Add(time.Duration(i)*time.Second))
	}
	if len(b.evicted) != 1 || b.evicted[0] != "a" || b.graces[0] != 0 {
		t.Fatalf("while the first is on its way out: evicted %v with grace %v", b.evicted, b.graces)
	}
	b.gone["a"] = true
	b.left = 50
	b.look(context.Background(), now.Add(6*time.Second))
	if len(b.evicted) != 1 {
		t.Fatalf("its end was enough, and %v were evicted", b.evicted)
	}
	b.left = 5
	b.look(context.Background(), now.Add(7*time.Second))
	if len(b.evicted) != 2 {
		t.Fatalf("a new shortage: evicted %v", b.evicted)
	}
	// One that does not end must not keep the node in need for ever.
	b.pods = []*v1.Pod{pod("c", 0, "")}
	b.look(context.Background(), now.Add(8*time.Second))
	if len(b.evicted) != 2 {
		t.Fatalf("evicted %v", b.evicted)
	}
	b.look(context.Background(), now.Add(8*time.Second+goneTimeout))
	if len(b.evicted) != 3 {
		t.Fatalf("after %s: evicted %v", goneTimeout, b.evicted)
	}
}

func TestSoftEvictionLeavesGrace(t *testing.T) {
	b := newBed(t, Settings{EvictionSoft: map[string]string{"memory.available": "15%"}, EvictionSoftGracePeriod: map[string]string{"memory.available": "0s"}}, Memory)
	b.pods[0].Spec.TerminationGracePeriodSeconds = ptr.To[int64](60)
	b.pods[1].Spec.TerminationGracePeriodSeconds = ptr.To[int64](5)
	now := time.Now()
	b.look(context.Background(), now)
	b.gone["a"] = true
	b.look(context.Background(), now.Add(time.Second))
	if len(b.graces) != 2 || b.graces[0] != 20*time.Second || b.graces[1] != 5*time.Second {
		t.Errorf("graces = %v, want the node's 20s, then the pod's own 5s", b.graces)
	}
}

func TestOutgrownGoesBeforeOthersUnderDiskPressure(t *testing.T) {
	b := newBed(t, Settings{EvictionHard: map[string]string{"nodefs.available": "15%"}}, NodeFS)
	b.pods[1].Spec.Volumes = []v1.Volume{{Name: "v", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{SizeLimit: ptr.To(resource.MustParse("1Mi"))}}}}
	b.usage = []statsapi.PodStats{{PodRef: statsapi.PodReference{UID: "b"}, VolumeStats: []statsapi.VolumeStats{{Name: "v", FsStats: statsapi.FsStats{UsedBytes: ptr.To[uint64](2 << 20)}}}}}
	b.look(context.Background(), time.Now())
	if len(b.evicted) != 1 || b.evicted[0] != "b" {
		t.Errorf("evicted %v, want the pod that is beyond its own limit", b.evicted)
	}
}

func TestRankByInodesAndProcesses(t *testing.T) {
	pods := []*v1.Pod{pod("few", 0, ""), pod("many", 0, ""), pod("important", 5, "")}
	usage := map[types.UID]Usage{"few": {Inodes: 1, Processes: 9}, "many": {Inodes: 9, Processes: 1}, "important": {Inodes: 99, Processes: 99}}
	for res, want := range map[v1.ResourceName]string{"inodes": "many few important", "pids": "few many important"} {
		var names []string
		for _, p := range Rank(pods, usage, res) {
			names = append(names, p.Name)
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s: order = %s, want %s", res, got, want)
		}
	}
}
