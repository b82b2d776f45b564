package node

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func runtimeStatus(runtime, network bool) *runtimeapi.StatusResponse {
	return &runtimeapi.StatusResponse{Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{
		{Type: runtimeapi.RuntimeReady, Status: runtime, Reason: "R", Message: "m"},
		{Type: runtimeapi.NetworkReady, Status: network, Reason: "NetworkPluginNotReady", Message: "no pod range yet"},
	}}}
}

func TestReadiness(t *testing.T) {
	for _, tc := range []struct {
		name         string
		rt           *runtimeapi.StatusResponse
		rtErr, other error
		ready, net   bool
		message      string
	}{
		{"all well", runtimeStatus(true, true), nil, nil, true, true, "kubelet is posting ready status"},
		{"no network", runtimeStatus(true, false), nil, nil, false, false, "NetworkReady=false reason:NetworkPluginNotReady message:no pod range yet"},
		{"runtime down", nil, errors.New("connection refused"), nil, false, false, "container runtime is down: connection refused"},
		{"runtime unwell", runtimeStatus(false, true), nil, nil, false, true, "RuntimeReady=false"},
		{"relist hangs", runtimeStatus(true, true), nil, errors.New("last listed 4m ago"), false, true, "PLEG is not healthy: last listed 4m ago"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, net := readiness(tc.rt, tc.rtErr, tc.other)
			if (c.Status == v1.ConditionTrue) != tc.ready || net != tc.net || !strings.Contains(c.Message, tc.message) {
				t.Errorf("readiness = %s %q, network %v", c.Status, c.Message, net)
			}
		})
	}
}

func TestConditionsKeepTransitionsAndOthers(t *testing.T) {
	t0 := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	first, _, _ := conditions(runtimeStatus(true, true), nil, nil, Pressure{}, nil, t0)
	old := &v1.NodeStatus{Conditions: append(first, v1.NodeCondition{Type: v1.NodeNetworkUnavailable, Status: v1.ConditionFalse})}
	next, ready, _ := conditions(runtimeStatus(true, true), nil, nil, Pressure{Disk: true}, old, t0.Add(time.Hour))
	if !ready {
		t.Error("disk pressure made the node not ready")
	}
	byType := map[v1.NodeConditionType]v1.NodeCondition{}
	for _, c := range next {
		byType[c.Type] = c
	}
	if _, ok := byType[v1.NodeNetworkUnavailable]; !ok {
		t.Error("a controller's condition was dropped")
	}
	if got := byType[v1.NodeReady].LastTransitionTime; !got.Equal(&metav1.Time{Time: t0}) {
		t.Errorf("Ready's transition moved to %s", got)
	}
	if got := byType[v1.NodeDiskPressure]; got.Status != v1.ConditionTrue || !got.LastTransitionTime.Equal(&metav1.Time{Time: t0.Add(time.Hour)}) {
		t.Errorf("DiskPressure = %+v", got)
	}
}

func TestSameIgnoresHeartbeats(t *testing.T) {
	a, _, _ := conditions(runtimeStatus(true, true), nil, nil, Pressure{}, nil, time.Unix(1000, 0))
	s := &v1.NodeStatus{Conditions: a}
	b, _, _ := conditions(runtimeStatus(true, true), nil, nil, Pressure{}, s, time.Unix(2000, 0))
	if !same(s, &v1.NodeStatus{Conditions: b}) {
		t.Error("a heartbeat alone is reported as a change")
	}
	c, _, _ := conditions(runtimeStatus(true, false), nil, nil, Pressure{}, s, time.Unix(2000, 0))
	if same(s, &v1.NodeStatus{Conditions: c}) {
		t.Error("a lost network is not reported")
	}
}

func TestExtendedResourcesOfOperatorsAreKept(t *testing.T) {
	m := New(Config{Name: "n", Logger: slog.New(slog.DiscardHandler), Capacity: v1.ResourceList{"cpu": resource.MustParse("2")}, Allocatable: v1.ResourceList{"cpu": resource.MustParse("1")}})
	if got := m.Allocatable(); len(got) != 1 {
		t.Errorf("allocatable before the node was seen = %v", got)
	}
	n := &v1.Node{}
	n.Status.Capacity = v1.ResourceList{"cpu": resource.MustParse("9"), "example.com/widget": resource.MustParse("3"), "kubernetes.io/own": resource.MustParse("1"), "hugepages-2Mi": resource.MustParse("0")}
	m.see(n)
	got := m.Allocatable()
	widget := got["example.com/widget"]
	if len(got) != 2 || got.Cpu().Value() != 1 || widget.Value() != 3 {
		t.Errorf("allocatable = %v, want the node's own cpu and the operator's widget", got)
	}
}

func TestReplaceAddresses(t *testing.T) {
	got, err := replaceAddresses([]byte(`{"status":{"$setElementOrder/addresses":[{"type":"InternalIP"}]}}`),
		[]v1.NodeAddress{{Type: v1.NodeInternalIP, Address: "192.0.2.1"}, {Type: v1.NodeInternalIP, Address: "2001:db8::1"}})
	if err != nil {
		t.Fatal(err)
	}
	want := `{"status":{"addresses":[{"address":"192.0.2.1","type":"InternalIP"},{"address":"2001:db8::1","type":"InternalIP"},{"$patch":"replace"}]}}`
	if string(got) != want {
		t.Errorf("patch = %s", got)
	}
}
