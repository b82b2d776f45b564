package podworker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/reevehq/reeve/agent/podworker/podspec"
	"github.com/reevehq/reeve/agent/podworker/podstate"
)

// edges is everything around a pool, in memory. Calls take the time that they are told to and are recorded with the
// second at which they began.
type edges struct {
	t     *testing.T
	begin time.Time
	pool  *Pool

	mu       sync.Mutex
	state    podstate.Pod
	serial   int
	calls    []string
	reports  []Report
	delay    map[string]time.Duration // by method
	fail     map[string]error
	stubborn bool // containers ignore TERM
	exitWith *int32
	blind    bool // Observe fails
}

func newEdges(t *testing.T) *edges {
	e := &edges{t: t, begin: time.Now(), delay: map[string]time.Duration{}, fail: map[string]error{}}
	e.pool = NewPool(Config{Observer: e, Runtime: e, Volumes: e, Probes: e, Reporter: e, Logger: slog.New(slog.DiscardHandler)})
	e.pool.SetNetworkReady(true)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = e.pool.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return e
}

func (e *edges) call(ctx context.Context, method, format string, a ...any) error {
	e.mu.Lock()
	e.calls = append(e.calls, fmt.Sprintf("%ds %s", int(time.Since(e.begin).Seconds()), strings.TrimSpace(method+" "+fmt.Sprintf(format, a...))))
	d, err := e.delay[method], e.fail[method]
	e.mu.Unlock()
	if d > 0 {
		select {
		case <-time.After(d):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return err
}

func (e *edges) Observe(context.Context, types.UID) (podstate.Pod, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.blind {
		return podstate.Pod{}, errors.New("shim hangs")
	}
	s := e.state
	s.Sandboxes, s.Containers = slices.Clone(s.Sandboxes), slices.Clone(s.Containers)
	return s, nil
}

func (e *edges) id() string { e.serial++; return fmt.Sprint("id", e.serial) }

func (e *edges) CreateSandbox(ctx context.Context, _ *v1.Pod, attempt uint32) error {
	if err := e.call(ctx, "sandbox", "%d", attempt); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.state.Sandboxes = append([]podstate.Sandbox{{ID: e.id(), Ready: true, Attempt: attempt, CreatedAt: time.Now(),
		IPs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}}, e.state.Sandboxes...)
	return nil
}

func (e *edges) StopSandbox(ctx context.Context, _ *v1.Pod, id string) error {
	if err := e.call(ctx, "stop-sandbox", ""); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := range e.state.Sandboxes {
		if e.state.Sandboxes[i].ID == id {
			e.state.Sandboxes[i].Ready = false
		}
	}
	return nil
}

func (e *edges) EnsureImage(ctx context.Context, _ *v1.Pod, c *v1.Container) (Image, error) {
	return Image{Ref: "ref"}, e.call(ctx, "pull", "%s", c.Name)
}

func (e *edges) StartContainer(ctx context.Context, p *v1.Pod, _ *podstate.Pod, s Start, _ Image) (string, error) {
	if err := e.call(ctx, "start", "%s %d", s.Name, s.RestartCount); err != nil {
		return "", err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	spec, _ := podspec.Find(&p.Spec, s.Name)
	c := podstate.Container{ID: e.id(), Name: s.Name, SandboxID: s.SandboxID, State: podstate.Running, CreatedAt: time.Now(), StartedAt: time.Now(),
		RestartCount: s.RestartCount, CrashCount: s.CrashCount, Hash: podspec.Hash(spec)}
	if e.exitWith != nil {
		c.State, c.ExitCode, c.FinishedAt = podstate.Exited, *e.exitWith, time.Now()
	}
	e.state.Containers = append([]podstate.Container{c}, e.state.Containers...)
	return c.ID, nil
}

func (e *edges) Resize(ctx context.Context, pod *v1.Pod, _ *podstate.Pod, names []string) error {
	if err := e.call(ctx, "resize", "%v", names); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := range e.state.Containers {
		if c := &e.state.Containers[i]; slices.Contains(names, c.Name) {
			spec, _ := podspec.Find(&pod.Spec, c.Name)
			c.Resources = &podstate.Resources{MemoryLimitBytes: spec.Resources.Limits.Memory().Value()}
		}
	}
	return nil
}

func (e *edges) KillContainer(ctx context.Context, _ *v1.Pod, _ *podstate.Pod, k Kill) error {
	if err := e.call(ctx, "kill", "%s %s", k.Name, k.Grace.Round(time.Second)); err != nil {
		return err
	}
	if e.stubborn {
		select {
		case <-time.After(k.Grace):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.state.ByID(k.ID)
	c.State, c.ExitCode, c.FinishedAt = podstate.Exited, 143, time.Now()
	return nil
}

func (e *edges) Cleanup(ctx context.Context, _ *v1.Pod, _ *podstate.Pod) error {
	return e.call(ctx, "cleanup", "")
}
func (e *edges) Settle(ctx context.Context, _ *v1.Pod) error      { return e.call(ctx, "settle", "") }
func (e *edges) WaitMounted(ctx context.Context, _ *v1.Pod) error { return e.call(ctx, "mount", "") }
func (e *edges) Release(ctx context.Context, _ *v1.Pod) error     { return e.call(ctx, "release", "") }
func (e *edges) Set(*v1.Pod, *podstate.Pod, bool)                 {}
func (e *edges) Verdict(*v1.Container, string) Verdict            { return Verdict{Started: true} }
func (e *edges) Remove(types.UID)                                 {}
func (e *edges) Report(r Report) {
	e.mu.Lock()
	e.reports = append(e.reports, r)
	e.mu.Unlock()
}

func (e *edges) last() Report {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.reports[len(e.reports)-1]
}

// expect compares the calls so far, in any order within one second.
func (e *edges) expect(want ...string) {
	e.t.Helper()
	synctest.Wait()
	e.mu.Lock()
	got := slices.Clone(e.calls)
	e.mu.Unlock()
	slices.Sort(got)
	slices.Sort(want)
	if d := cmp.Diff(want, got); d != "" {
		e.t.Fatalf("calls differ (-want +got):\n%s", d)
	}
}

func deleted(p *v1.Pod, grace time.Duration) Stop {
	return Stop{Cause: Deleted, Since: time.Now(), Grace: grace}
}

func TestVolumesImageAndSandboxOverlap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEdges(t)
		e.delay = map[string]time.Duration{"mount": 5 * time.Second, "pull": 4 * time.Second, "sandbox": 3 * time.Second}
		e.pool.Update(pod(v1.RestartPolicyAlways, nil, app("a")))
		time.Sleep(6 * time.Second)
		e.expect("0s mount", "0s pull a", "0s sandbox 0", "5s start a 0")
	})
}

func TestCrashLoopWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEdges(t)
		e.exitWith = ptr.To[int32](1)
		e.pool.Update(pod(v1.RestartPolicyAlways, nil, app("a")))
		time.Sleep(80 * time.Second)
		e.expect("0s mount", "0s sandbox 0", "0s pull a", "0s start a 0", "0s pull a", "0s start a 1",
			"10s pull a", "10s start a 2", "30s pull a", "30s start a 3", "70s pull a", "70s start a 4")
		if got := e.last().Waiting["a"].Reason; got != "CrashLoopBackOff" {
			t.Errorf("waiting reason = %q", got)
		}
	})
}

func TestDeletionDuringPullIsImmediate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEdges(t)
		e.delay["pull"] = time.Hour
		p := pod(v1.RestartPolicyAlways, nil, app("a"))
		e.pool.Update(p)
		time.Sleep(time.Second)
		e.pool.Remove(p, deleted(p, 30*time.Second))
		e.expect("0s mount", "0s pull a", "0s sandbox 0", "1s release", "1s stop-sandbox", "1s cleanup")
		if e.pool.Has("u1") {
			t.Error("the worker is still there")
		}
	})
}

func TestShorterGraceOvertakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEdges(t)
		e.stubborn = true
		p := pod(v1.RestartPolicyAlways, nil, app("a"))
		e.pool.Update(p)
		time.Sleep(time.Second)
		e.pool.Stop(p, deleted(p, 60*time.Second))
		time.Sleep(5 * time.Second)
		e.pool.Stop(p, deleted(p, 2*time.Second))
		time.Sleep(3 * time.Second)
		e.expect("0s mount", "0s pull a", "0s sandbox 0", "0s start a 0", "1s kill a 1m0s", "6s kill a 2s", "8s release", "8s settle", "8s stop-sandbox")
		if got := e.last().Stage; got != Stopped {
			t.Errorf("stage = %s", got)
		}
	})
}

func TestFailedSandboxIsTriedAgainWithBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEdges(t)
		e.fail["sandbox"] = errors.New("no addresses left")
		e.pool.Update(pod(v1.RestartPolicyAlways, nil, app("a")))
		time.Sleep(8 * time.Second)
		e.expect("0s mount", "0s pull a", "0s sandbox 0", "1s sandbox 0", "3s sandbox 0", "7s sandbox 0")
	})
}

func TestNetworkWakesWaitingPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEdges(t)
		e.pool.SetNetworkReady(false)
		e.pool.Update(pod(v1.RestartPolicyAlways, nil, app("a")))
		time.Sleep(5 * time.Second)
		e.expect("0s mount", "0s pull a")
		e.pool.SetNetworkReady(true)
		e.expect("0s mount", "0s pull a", "5s sandbox 0", "5s start a 0")
	})
}

func TestActiveDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEdges(t)
		p := pod(v1.RestartPolicyAlways, nil, app("a"))
		p.Spec.ActiveDeadlineSeconds = ptr.To[int64](20)
		start := metav1.Now()
		p.Status.StartTime = &start
		e.pool.Update(p)
		time.Sleep(21 * time.Second)
		e.expect("0s mount", "0s pull a", "0s sandbox 0", "0s start a 0", "20s kill a 30s", "20s release", "20s stop-sandbox", "20s settle")
		if s := e.last().Stop; s == nil || s.Reason != "DeadlineExceeded" {
			t.Errorf("stop = %+v", s)
		}
	})
}

func TestAPodThatCannotBeSeenIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEdges(t)
		e.blind = true
		e.pool.Update(pod(v1.RestartPolicyAlways, nil, app("a")))
		time.Sleep(5 * time.Second)
		e.expect()
		e.mu.Lock()
		e.blind = false
		e.mu.Unlock()
		time.Sleep(2 * time.Second)
		e.expect("6s mount", "6s pull a", "6s sandbox 0", "6s start a 0")
	})
}

func TestFailedCleanupIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEdges(t)
		e.fail["cleanup"] = errors.New("busy")
		p := pod(v1.RestartPolicyAlways, nil, app("a"))
		e.pool.Remove(p, deleted(p, 0))
		time.Sleep(5 * time.Second)
		e.mu.Lock()
		delete(e.fail, "cleanup")
		e.mu.Unlock()
		time.Sleep(10 * time.Second)
		e.expect("0s release", "0s cleanup", "10s cleanup")
		if e.pool.Has("u1") {
			t.Error("the worker is still there")
		}
	})
}

func TestPoolEndsLeavingPodsRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &edges{t: t, begin: time.Now(), delay: map[string]time.Duration{}, fail: map[string]error{}}
		e.pool = NewPool(Config{Observer: e, Runtime: e, Volumes: e, Probes: e, Reporter: e})
		e.pool.SetNetworkReady(true)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = e.pool.Run(ctx) }()
		e.pool.Update(pod(v1.RestartPolicyAlways, nil, app("a")))
		time.Sleep(time.Second)
		cancel()
		<-done
		e.expect("0s mount", "0s pull a", "0s sandbox 0", "0s start a 0")
	})
}
