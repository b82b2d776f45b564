package podruntime

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/reevehq/reeve/agent/container"
	"github.com/reevehq/reeve/agent/image"
	"github.com/reevehq/reeve/agent/podworker"
	"github.com/reevehq/reeve/agent/podworker/podstate"
	"github.com/reevehq/reeve/cri/fake"
	"github.com/reevehq/reeve/volumes"
)

const img = "localhost/app:v1"

// noVolumes is a volume manager of pods without any.
type noVolumes struct{ removed []types.UID }

func (noVolumes) Mounts(types.UID) (map[string]volumes.Mounted, bool, error) { return nil, true, nil }
func (noVolumes) SubPath(types.UID, string, string, string, int, string) (string, error) {
	return "", nil
}
func (n *noVolumes) RemovePodDir(uid types.UID) error { n.removed = append(n.removed, uid); return nil }

func setup(t *testing.T) (*Runtime, *fake.Runtime, *[]string) {
	rt := fake.New(img)
	var events []string
	log := slog.New(slog.DiscardHandler)
	event := func(_ *v1.Pod, name, _, reason, _ string) {
		events = append(events, strings.TrimSpace(reason+" "+name))
	}
	dir := t.TempDir()
	return New(Config{
		CRI: rt, Images: image.New(image.Config{Service: rt, Event: event, Logger: log}), ClusterDNS: []netip.Addr{netip.MustParseAddr("10.96.0.10")}, Volumes: &noVolumes{}, Event: event, Logger: log,
		Node: container.Node{RootDir: filepath.Join(dir, "root"), PodLogsDir: filepath.Join(dir, "log", "pods")}, ResolvConf: filepath.Join(dir, "none"),
	}), rt, &events
}

func testPod(c v1.Container) *v1.Pod {
	c.Name, c.Image = "app", img
	p := &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{c}}}
	p.Name, p.Namespace, p.UID = "web", "default", "u1"
	return p
}

// bring starts the pod's sandbox and container and returns what to observe.
func bring(t *testing.T, r *Runtime, rt *fake.Runtime, p *v1.Pod) (podstate.Pod, error) {
	t.Helper()
	ctx := t.Context()
	if err := r.CreateSandbox(ctx, p, 0); err != nil {
		t.Fatal(err)
	}
	l, err := rt.ListPodSandbox(ctx, nil)
	if err != nil || len(l) != 1 {
		t.Fatalf("sandboxes: %v, %v", l, err)
	}
	state := podstate.Pod{UID: p.UID, Sandboxes: []podstate.Sandbox{{ID: l[0].Id, Ready: true}}}
	im, err := r.EnsureImage(ctx, p, &p.Spec.Containers[0])
	if err != nil {
		t.Fatal(err)
	}
	id, err := r.StartContainer(ctx, p, &state, podworker.Start{Name: "app", SandboxID: l[0].Id, RestartCount: 2}, im)
	state.Containers = []podstate.Container{{ID: id, Name: "app", State: podstate.Running}}
	return state, err
}

func TestLifeOfAPod(t *testing.T) {
	r, rt, events := setup(t)
	p := testPod(v1.Container{TerminationMessagePath: "/dev/termination-log"})
	state, err := bring(t, r, rt, p)
	if err != nil {
		t.Fatal(err)
	}
	id := state.Containers[0].ID
	link := filepath.Join(filepath.Dir(r.cfg.Node.PodLogsDir), "containers", "web_default_app-"+id+".log")
	if to, err := os.Readlink(link); err != nil || !strings.HasSuffix(to, "default_web_u1/app/2.log") {
		t.Errorf("log link → %q, %v", to, err)
	}
	if err := r.KillContainer(t.Context(), p, &state, podworker.Kill{Name: "app", ID: id, Grace: time.Second, Message: "Stopping"}); err != nil {
		t.Fatal(err)
	}
	for range 2 { // idempotent
		if err := r.StopSandbox(t.Context(), p, state.Sandboxes[0].ID); err != nil {
			t.Fatal(err)
		}
		if err := r.Cleanup(t.Context(), p, &state); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Lstat(link); !os.IsNotExist(err) {
		t.Errorf("log link after clean-up: %v", err)
	}
	if got, want := strings.Join(*events, ", "), "Pulled app, Created app, Started app, Killing app"; got != want {
		t.Errorf("events = %s, want %s", got, want)
	}
}

func TestPostStartThatFailsKillsTheContainer(t *testing.T) {
	r, rt, events := setup(t)
	rt.OnExec(func(context.Context, string, []string) ([]byte, []byte, int, error) { return nil, nil, 7, nil })
	p := testPod(v1.Container{Lifecycle: &v1.Lifecycle{PostStart: &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"false"}}}}})
	_, err := bring(t, r, rt, p)
	var reason *podworker.Reason
	if !asReason(err, &reason) || reason.Reason != "PostStartHookError" || !strings.Contains(reason.Message, "exited with 7") {
		t.Errorf("error = %v", err)
	}
	if got := strings.Join(*events, ", "); !strings.Contains(got, "FailedPostStartHook app, Killing app") {
		t.Errorf("events = %s", got)
	}
}

// TestExecTellsWhoIsLate: a command that outlives its time has failed, of a runtime that does not answer nobody knows.
func TestExecTellsWhoIsLate(t *testing.T) {
	r, rt, _ := setup(t)
	state, err := bring(t, r, rt, testPod(v1.Container{}))
	if err != nil {
		t.Fatal(err)
	}
	id := state.Containers[0].ID
	rt.OnExec(func(ctx context.Context, _ string, _ []string) ([]byte, []byte, int, error) {
		<-ctx.Done()
		return nil, nil, 0, ctx.Err()
	})
	if _, _, err := r.Exec(t.Context(), id, []string{"slow"}, 10*time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a command that outlives its time: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond) // the prober's patience
	defer cancel()
	if _, _, err := r.Exec(ctx, id, []string{"true"}, time.Minute); err == nil || errors.Is(err, context.DeadlineExceeded) || status.Code(err) == codes.DeadlineExceeded {
		t.Errorf("a runtime that does not answer: %v", err)
	}
}

func TestPreStopEatsTheGrace(t *testing.T) {
	r, rt, _ := setup(t)
	p := testPod(v1.Container{Lifecycle: &v1.Lifecycle{PreStop: &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"slow"}}}}})
	state, err := bring(t, r, rt, p)
	if err != nil {
		t.Fatal(err)
	}
	hooked := make(chan struct{}, 1)
	rt.OnExec(func(ctx context.Context, _ string, _ []string) ([]byte, []byte, int, error) {
		hooked <- struct{}{}
		<-ctx.Done()
		return nil, nil, 0, ctx.Err()
	})
	begin := time.Now()
	if err := r.KillContainer(t.Context(), p, &state, podworker.Kill{Name: "app", ID: state.Containers[0].ID, Grace: 300 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	if len(hooked) != 1 || time.Since(begin) < 300*time.Millisecond {
		t.Errorf("hook ran %d times, killed after %s", len(hooked), time.Since(begin))
	}
	stop := ""
	for _, c := range rt.Calls() {
		if strings.HasPrefix(c, "StopContainer") {
			stop = c
		}
	}
	if stop == "" {
		t.Error("the container was not stopped after its hook")
	}
}

func TestHTTPHook(t *testing.T) {
	var got *http.Request
	status := http.StatusOK
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { got = r; w.WriteHeader(status) }))
	defer s.Close()
	host, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	n, _ := strconv.Atoi(port)
	c := &v1.Container{Ports: []v1.ContainerPort{{Name: "web", ContainerPort: int32(n)}}}
	g := &v1.HTTPGetAction{Path: "/stop?now=1", Port: intstr.FromString("web"), HTTPHeaders: []v1.HTTPHeader{{Name: "X-A", Value: "1"}}}
	if err := httpHook(t.Context(), c, host, g); err != nil {
		t.Fatal(err)
	}
	if got.URL.Path != "/stop" || got.URL.RawQuery != "now=1" || got.Header.Get("X-A") != "1" {
		t.Errorf("request = %s %v", got.URL, got.Header)
	}
	status = http.StatusTeapot
	if err := httpHook(t.Context(), c, host, g); err == nil || !strings.Contains(err.Error(), "418") {
		t.Errorf("a failing hook: %v", err)
	}
	g.Port = intstr.FromString("none")
	if err := httpHook(t.Context(), c, host, g); err == nil || !strings.Contains(err.Error(), `no port named "none"`) {
		t.Errorf("an unknown port: %v", err)
	}
}

func TestTerminationMessage(t *testing.T) {
	r, _, _ := setup(t)
	dir := t.TempDir()
	log := filepath.Join(dir, "0.log")
	if err := os.WriteFile(log, []byte("2026-01-01T00:00:00Z stdout F first\n2026-01-01T00:00:00Z stderr P sec\n2026-01-01T00:00:00Z stderr F ond\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	c := podstate.Container{Name: "app", RestartCount: 1, ExitCode: 1, LogPath: log, TerminationMessagePath: "/dev/termination-log"}
	file := r.terminationLog(testPod(v1.Container{}), "app", 1)
	if err := writeFresh(file); err != nil {
		t.Fatal(err)
	}
	if got := r.TerminationMessage("u1", &c); got != "" {
		t.Errorf("an empty file without the fallback: %q", got)
	}
	c.TerminationMessagePolicy = "FallbackToLogsOnError"
	if got := r.TerminationMessage("u1", &c); got != "first\nsecond\n" {
		t.Errorf("the fallback: %q", got)
	}
	c.ExitCode = 0
	if got := r.TerminationMessage("u1", &c); got != "" {
		t.Errorf("the fallback without an error: %q", got)
	}
	if err := os.WriteFile(file, []byte(strings.Repeat("x", 5000)+"end"), 0o666); err != nil {
		t.Fatal(err)
	}
	if got := r.TerminationMessage("u1", &c); len(got) != maxMessageBytes || !strings.HasSuffix(got, "end") {
		t.Errorf("a long message: %d bytes", len(got))
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", file); err != nil {
		t.Fatal(err)
	}
	if got := r.TerminationMessage("u1", &c); got != "" {
		t.Errorf("a link out of the container was followed: %q", got)
	}
}

func asReason(err error, to **podworker.Reason) bool { return errors.As(err, to) }
