package evict

import (
	"context"
	"log/slog"
	"strings"
	"testing"

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
	for _, bad := range []map[string]string{{"memory.available": "x"}, {"nodefs.available": "101%"}, {"disk": "1Gi"}} {
		if _, err := Parse(bad); err == nil || !strings.Contains(err.Error(), "evictionHard[") {
			t.Errorf("Parse(%v) = %v, want an error that names the field", bad, err)
		}
	}
}

func TestCrossedMemoryFirst(t *testing.T) {
	th, err := Parse(map[string]string{"memory.available": "100Mi", "imagefs.available": "15%", "nodefs.available": "10%"})
	if err != nil {
		t.Fatal(err)
	}
	got := Crossed(th, map[Signal]Left{Memory: {50 << 20, 1 << 30}, ImageFS: {14, 100}, NodeFS: {11, 100}})
	if len(got) != 2 || got[0].Signal != Memory || got[1].Signal != ImageFS {
		t.Errorf("crossed = %v, want memory then imagefs", got)
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

// disk is a node whose image file system is short until images are removed.
func TestImagesGoBeforePods(t *testing.T) {
	for _, tc := range []struct {
		name    string
		freed   int64
		evicted int
	}{{"images are enough", 50, 0}, {"images are not enough", 0, 1}} {
		t.Run(tc.name, func(t *testing.T) {
			left, evicted := int64(5), 0
			th, _ := Parse(map[string]string{"imagefs.available": "15%"})
			m := New(Config{
				Thresholds: th, Logger: slog.New(slog.DiscardHandler),
				Left:        func(context.Context) map[Signal]Left { return map[Signal]Left{ImageFS: {left, 100}} },
				Summary:     func(context.Context, bool) (*statsapi.Summary, error) { return &statsapi.Summary{}, nil },
				Active:      func() []*v1.Pod { return []*v1.Pod{pod("a", 0, ""), pod("b", 0, "")} },
				Evict:       func(*v1.Pod, string) { evicted++ },
				ReclaimDisk: func(context.Context) { left += tc.freed },
			})
			m.look(context.Background())
			if evicted != tc.evicted {
				t.Errorf("evicted %d pods, want %d", evicted, tc.evicted)
			}
			if !m.Pressure(v1.NodeDiskPressure) {
				t.Error("the node does not say that it was short")
			}
			if got := m.Refuses(pod("new", 0, "1Mi")); got != v1.NodeDiskPressure {
				t.Errorf("a new pod is refused by %q", got)
			}
		})
	}
}
