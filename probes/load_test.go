package probes

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Fifty containers that are asked every second, by each network kind: nothing fails, nothing is skipped, and little is
// spent. The figures are in the log.
func TestFiftyContainersEverySecond(t *testing.T) {
	if testing.Short() {
		t.Skip("takes four seconds, and -short was given")
	}
	web := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer web.Close()
	host, port := hostPort(t, web.URL)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	healthpb.RegisterHealthServer(srv, health.NewServer())
	go srv.Serve(ln)
	defer srv.Stop()
	kinds := []corev1.ProbeHandler{
		{HTTPGet: &corev1.HTTPGetAction{Path: "/", Port: intstr.FromInt(port)}},
		{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt(port)}},
		{GRPC: &corev1.GRPCAction{Port: int32(ln.Addr().(*net.TCPAddr).Port)}},
	}
	var changes, failed atomic.Int64
	m := NewManager(Config{
		OnResult: func(u Update) {
			changes.Add(1)
			if u.Result != Success {
				failed.Add(1)
			}
		},
		OnEvent: func(_ *corev1.Pod, _, _, reason, msg string) { failed.Add(1); t.Logf("%s: %s", reason, msg) },
	})
	defer m.Close()
	counted := &counting{prober: m.prober}
	m.prober = counted
	before := cpu(t)
	const containers, run = 50, 4 * time.Second
	for i := range containers {
		p := &corev1.Probe{ProbeHandler: kinds[i%len(kinds)], PeriodSeconds: 1, TimeoutSeconds: 1, FailureThreshold: 1}
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: fmt.Sprint("p", i), UID: types.UID(fmt.Sprint(i))},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", ReadinessProbe: p, LivenessProbe: p}}}}
		m.SetPod(pod, PodState{IP: host, Containers: map[string]ContainerState{"c": {ID: fmt.Sprint("id", i), StartedAt: time.Now()}}})
	}
	time.Sleep(run)
	spent := cpu(t) - before
	n := counted.n.Load()
	t.Logf("%d probes in %v took %v of processor time, both ends: %v each", n, run, spent, spent/time.Duration(max(n, 1)))
	if failed.Load() != 0 {
		t.Errorf("%d probes failed", failed.Load())
	}
	if changes.Load() != containers {
		t.Errorf("%d results changed, want %d (each became ready once)", changes.Load(), containers)
	}
	// Two probes a container a second, readiness at once and liveness after the first; one beat of each may be still to come.
	if want := int64(containers * (2*int(run/time.Second) - 3)); n < want {
		t.Errorf("%d probes, want at least %d", n, want)
	}
}

type counting struct {
	prober
	n atomic.Int64
}

func (c *counting) probe(ctx context.Context, tg target, spec *corev1.Probe, timeout time.Duration) (answer, error) {
	c.n.Add(1)
	return c.prober.probe(ctx, tg, spec, timeout)
}

func cpu(t *testing.T) time.Duration {
	t.Helper()
	var ru unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &ru); err != nil {
		t.Fatal(err)
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}
