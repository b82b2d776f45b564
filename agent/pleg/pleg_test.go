package pleg

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubelettypes "k8s.io/kubelet/pkg/types"

	"github.com/reevehq/reeve/agent/container"
	"github.com/reevehq/reeve/agent/podworker/podstate"
	"github.com/reevehq/reeve/cri/fake"
)

const img = "localhost/app:v1"

// run starts one sandbox with one container in the runtime.
func run(t *testing.T, rt *fake.Runtime, uid string) (sandbox, ctr string) {
	t.Helper()
	ctx := context.Background()
	sc := &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Name: "web", Namespace: "default", Uid: uid},
		Labels: map[string]string{kubelettypes.KubernetesPodUIDLabel: uid}, Linux: &runtimeapi.LinuxPodSandboxConfig{}}
	sandbox, err := rt.RunPodSandbox(ctx, sc, "")
	if err != nil {
		t.Fatal(err)
	}
	ctr, err = rt.CreateContainer(ctx, sandbox, &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: "app"}, Image: &runtimeapi.ImageSpec{Image: img},
		Labels:      map[string]string{kubelettypes.KubernetesPodUIDLabel: uid, kubelettypes.KubernetesContainerNameLabel: "app"},
		Annotations: map[string]string{container.RestartCountAnnotation: "3", container.CrashCountAnnotation: "2"},
	}, sc)
	if err != nil {
		t.Fatal(err)
	}
	if err := rt.StartContainer(ctx, ctr); err != nil {
		t.Fatal(err)
	}
	return sandbox, ctr
}

// deaf is a runtime whose event stream does not exist.
type deaf struct{ *fake.Runtime }

func (deaf) GetContainerEvents(context.Context, chan *runtimeapi.ContainerEventResponse, func(runtimeapi.RuntimeService_GetContainerEventsClient)) error {
	return errors.New("not implemented")
}

func start(t *testing.T, rt Runtime) (*Generator, chan types.UID) {
	woken := make(chan types.UID, 100)
	g := New(rt, func(uid types.UID) { woken <- uid }, nil, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = g.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return g, woken
}

func drain(ch chan types.UID) (n int) {
	for {
		select {
		case <-ch:
			n++
		default:
			return n
		}
	}
}

func TestEventsWakeAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := fake.New(img)
		g, woken := start(t, rt)
		synctest.Wait()
		_, id := run(t, rt, "u1")
		synctest.Wait()
		if drain(woken) == 0 {
			t.Fatal("nobody was woken by a new pod")
		}
		if _, err := g.Observe(t.Context(), "u1"); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		rt.Exit(id, 1)
		if uid := <-woken; uid != "u1" || time.Since(begin) != 0 {
			t.Errorf("woke %s after %s", uid, time.Since(begin))
		}
	})
}

func TestRelistFindsWhatNoEventTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := fake.New(img)
		_, woken := start(t, deaf{rt})
		synctest.Wait()
		begin := time.Now()
		run(t, rt, "u1")
		if uid := <-woken; uid != "u1" || time.Since(begin) > relistWithout {
			t.Errorf("woke %s after %s", uid, time.Since(begin))
		}
	})
}

func TestQuietRuntimeWakesNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := fake.New(img)
		g, woken := start(t, deaf{rt})
		run(t, rt, "u1")
		time.Sleep(2 * time.Second)
		drain(woken)
		if _, err := g.Observe(t.Context(), "u1"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if n := drain(woken); n != 0 {
			t.Errorf("woken %d times by nothing", n)
		}
	})
}

func TestObserve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := fake.New(img)
		g, _ := start(t, rt)
		g.Message = func(types.UID, *podstate.Container) string { return "last words" }
		sandbox, id := run(t, rt, "u1")
		run(t, rt, "other")
		p, err := g.Observe(t.Context(), "u1")
		if err != nil {
			t.Fatal(err)
		}
		if len(p.Sandboxes) != 1 || p.Sandboxes[0].ID != sandbox || !p.Sandboxes[0].Ready || len(p.Sandboxes[0].IPs) != 1 || p.Name != "web" {
			t.Errorf("pod = %+v", p)
		}
		if len(p.Containers) != 1 || p.Containers[0].State != podstate.Running || p.Containers[0].RestartCount != 3 || p.Containers[0].CrashCount != 2 {
			t.Errorf("containers = %+v", p.Containers)
		}
		rt.OOMKill(id)
		if p, err = g.Observe(t.Context(), "u1"); err != nil {
			t.Fatal(err)
		}
		if c := p.Containers[0]; c.State != podstate.Exited || c.ExitCode != 137 || c.Reason != "OOMKilled" || c.Message != "last words" {
			t.Errorf("dead container = %+v", c)
		}
	})
}

// hung never answers about one container.
type hung struct {
	*fake.Runtime
	id string
}

func (h hung) ContainerStatus(ctx context.Context, id string, verbose bool) (*runtimeapi.ContainerStatusResponse, error) {
	if id == h.id {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return h.Runtime.ContainerStatus(ctx, id, verbose)
}

func TestAHungShimIsOnePodsMatter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := fake.New(img)
		_, bad := run(t, rt, "bad")
		run(t, rt, "good")
		g, _ := start(t, hung{rt, bad})
		synctest.Wait()
		begin := time.Now()
		if _, err := g.Observe(t.Context(), "bad"); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != ObserveTimeout {
			t.Errorf("the hung pod: %v after %s", err, time.Since(begin))
		}
		begin = time.Now()
		if _, err := g.Observe(t.Context(), "good"); err != nil || time.Since(begin) != 0 {
			t.Errorf("its neighbour: %v after %s", err, time.Since(begin))
		}
		time.Sleep(10 * time.Minute)
		if err := g.Healthy(); err != nil {
			t.Errorf("the node: %v", err)
		}
	})
}

func TestUnansweredListsAreUnhealthy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := fake.New(img)
		g, _ := start(t, rt)
		synctest.Wait()
		if err := g.Healthy(); err != nil {
			t.Fatalf("at first: %v", err)
		}
		rt.FailOn("ListPodSandbox", errors.New("down"))
		time.Sleep(10 * time.Minute)
		if g.Healthy() == nil {
			t.Error("ten minutes without a list are called healthy")
		}
	})
}
