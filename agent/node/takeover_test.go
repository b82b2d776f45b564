package node

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

type readyRuntime struct{}

func (readyRuntime) Version(context.Context, string) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{RuntimeName: "containerd", RuntimeVersion: "1.6.20"}, nil
}

func (readyRuntime) Status(context.Context, bool) (*runtimeapi.StatusResponse, error) {
	return &runtimeapi.StatusResponse{Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{
		{Type: runtimeapi.RuntimeReady, Status: true}, {Type: runtimeapi.NetworkReady, Status: true},
	}}}, nil
}

func (readyRuntime) ListImages(context.Context, *runtimeapi.ImageFilter) ([]*runtimeapi.Image, error) {
	return nil, nil
}

// A restarted agent on a slow CRI socket called its node not ready before its first list of the pods had come back.
func TestRestartDoesNotFlipReady(t *testing.T) {
	object := &v1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "a", UID: "1"},
		Status:     v1.NodeStatus{Conditions: []v1.NodeCondition{{Type: v1.NodeReady, Status: v1.ConditionTrue}}},
	}
	client := fake.NewClientset(object)
	notYet := errors.New("the runtime has not been listed yet")
	m := New(Config{Client: client, Runtime: readyRuntime{}, Name: "a", Check: time.Minute, Report: time.Minute,
		Healthy: func() error { return notYet }, Logger: slog.New(slog.DiscardHandler)})
	close(m.registered)
	m.see(object)
	ready := func() bool {
		t.Helper()
		n, err := client.CoreV1().Nodes().Get(t.Context(), "a", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return isReady(n.Status.Conditions)
	}
	if wait := m.check(t.Context()); !ready() || wait != lookAgain {
		t.Errorf("before the first list: ready %v, next look in %s", ready(), wait)
	}
	m.started = time.Now().Add(-lookTimeout)
	if m.check(t.Context()); ready() {
		t.Error("a runtime that is not listed for too long: still ready")
	}
	notYet = nil
	if m.check(t.Context()); !ready() {
		t.Error("after the first list: not ready")
	}
}
