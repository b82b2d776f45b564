package probes

import (
	"context"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// scripted answers probes from a script by port, and notes when it was asked.
type scripted struct {
	mu    sync.Mutex
	start time.Time
	asked map[int][]time.Duration
	say   func(port int, n int) (answer, error)
	takes time.Duration
}

func (s *scripted) probe(ctx context.Context, _ target, spec *corev1.Probe, timeout time.Duration) (answer, error) {
	port := int(spec.GRPC.Port)
	s.mu.Lock()
	s.asked[port] = append(s.asked[port], time.Since(s.start))
	n := len(s.asked[port])
	s.mu.Unlock()
	if s.takes > 0 {
		select {
		case <-time.After(s.takes):
		case <-ctx.Done():
			return answer{}, ctx.Err()
		}
	}
	return s.say(port, n)
}

const (
	startupPort = iota + 1
	livenessPort
	readinessPort
)

type world struct {
	m       *Manager
	s       *scripted
	updates []Update
	mu      sync.Mutex
}

func newWorld(t *testing.T, say func(port, n int) (answer, error)) *world {
	w := &world{s: &scripted{start: time.Now(), asked: map[int][]time.Duration{}, say: say}}
	w.m = NewManager(Config{OnResult: func(u Update) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.updates = append(w.updates, u)
	}})
	w.m.prober = w.s
	t.Cleanup(w.m.Close)
	return w
}

func (w *world) told() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for _, u := range w.updates {
		out = append(out, u.ContainerID+" "+u.Type.String()+" "+u.Result.String())
	}
	return out
}

func (w *world) asked(port int) []time.Duration {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	return append([]time.Duration(nil), w.s.asked[port]...)
}

func good() (answer, error) { return answer{result: Success}, nil }
func bad() (answer, error)  { return answer{result: Failure, message: "no"}, nil }

func probe(port int32, delay, period, success, failure int32) *corev1.Probe {
	return &corev1.Probe{ProbeHandler: corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: port}},
		InitialDelaySeconds: delay, PeriodSeconds: period, TimeoutSeconds: 1, SuccessThreshold: success, FailureThreshold: failure}
}

func pod(c corev1.Container) *corev1.Pod {
	c.Name = "c"
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u"}, Spec: corev1.PodSpec{Containers: []corev1.Container{c}}}
}

func running(id string) PodState {
	return PodState{IP: "10.0.0.1", Containers: map[string]ContainerState{"c": {ID: id, StartedAt: time.Now()}}}
}

func seconds[N int | float64](n ...N) []time.Duration {
	var out []time.Duration
	for _, s := range n {
		out = append(out, time.Duration(float64(s)*1000)*time.Millisecond)
	}
	return out
}
