package server

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	k8stesting "k8s.io/client-go/testing"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
	criremote "k8s.io/cri-streaming/pkg/streaming/remotecommand"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// node is a server with an API server's reviews, one pod and a streaming runtime behind it, all in memory but for the
// sockets.
type node struct {
	srv     *httptest.Server
	reviews atomic.Int64 // TokenReviews
	access  atomic.Int64 // SubjectAccessReviews
	pods    *fakePods
	logDir  string
}

type fakePods struct {
	mu     sync.Mutex
	pod    *corev1.Pod
	exited chan struct{}
}

func (f *fakePods) List() []*corev1.Pod { return []*corev1.Pod{f.pod} }
func (f *fakePods) Get(ns, name string) (*corev1.Pod, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.pod, ns == f.pod.Namespace && name == f.pod.Name
}
func (f *fakePods) Running(context.Context) ([]*corev1.Pod, error) { return f.List(), nil }
func (f *fakePods) SandboxID(context.Context, *corev1.Pod) (string, error) {
	return "sandbox", nil
}
func (f *fakePods) Exited(string) <-chan struct{} { return f.exited }

// echo is the runtime's side of streams: exec answers its command and input, a port answers what it hears in capitals.
type echo struct{}

func (echo) Exec(_ context.Context, id string, cmd []string, in io.Reader, out, errOut io.WriteCloser, tty bool, _ <-chan criremote.TerminalSize) error {
	fmt.Fprintf(out, "%s ran %q tty=%v\n", id, cmd, tty)
	if in != nil {
		data, err := io.ReadAll(in)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "heard %s", data)
	}
	if errOut != nil {
		fmt.Fprint(errOut, "complaint")
	}
	return nil
}

func (e echo) Attach(ctx context.Context, id string, in io.Reader, out, errOut io.WriteCloser, tty bool, r <-chan criremote.TerminalSize) error {
	return e.Exec(ctx, id, []string{"attached"}, in, out, errOut, tty, r)
}

func (echo) PortForward(_ context.Context, id string, port int32, s io.ReadWriteCloser) error {
	buf := make([]byte, 64)
	n, err := s.Read(buf)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(s, "%s:%d %s", id, port, strings.ToUpper(string(buf[:n])))
	return err
}

type fakeRuntime struct {
	streams streaming.Server
	logs    map[string]string
}

func (f fakeRuntime) Exec(_ context.Context, r *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
	return f.streams.GetExec(r)
}
func (f fakeRuntime) Attach(_ context.Context, r *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	return f.streams.GetAttach(r)
}
func (f fakeRuntime) PortForward(_ context.Context, r *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	return f.streams.GetPortForward(r)
}
func (f fakeRuntime) ExecSync(_ context.Context, id string, cmd []string, _ time.Duration) ([]byte, []byte, error) {
	return []byte(id + " ran " + strings.Join(cmd, " ")), nil, nil
}
func (f fakeRuntime) ContainerStatus(_ context.Context, id string, _ bool) (*runtimeapi.ContainerStatusResponse, error) {
	p, ok := f.logs[id]
	if !ok {
		return nil, errors.New("unknown container " + id)
	}
	return &runtimeapi.ContainerStatusResponse{Status: &runtimeapi.ContainerStatus{Id: id, LogPath: p}}, nil
}

type fakeStats struct{}

func (fakeStats) Summary(context.Context, bool) (*statsapi.Summary, error) {
	cpu, mem := uint64(2e9), uint64(1<<20)
	at := metav1.Now()
	return &statsapi.Summary{Node: statsapi.NodeStats{NodeName: "n", CPU: &statsapi.CPUStats{Time: at, UsageCoreNanoSeconds: &cpu}},
		Pods: []statsapi.PodStats{{PodRef: statsapi.PodReference{Name: "p", Namespace: "ns"},
			Containers: []statsapi.ContainerStats{{Name: "c", StartTime: at, Memory: &statsapi.MemoryStats{Time: at, WorkingSetBytes: &mem}}}}}}, nil
}

func newNode(t *testing.T) *node {
	t.Helper()
	n := &node{logDir: t.TempDir()}
	client := fake.NewClientset()
	client.PrependReactor("create", "tokenreviews", func(a k8stesting.Action) (bool, runtime.Object, error) {
		n.reviews.Add(1)
		r := a.(k8stesting.CreateAction).GetObject().(*authenticationv1.TokenReview).DeepCopy()
		if name, ok := strings.CutPrefix(r.Spec.Token, "token-of-"); ok {
			r.Status = authenticationv1.TokenReviewStatus{Authenticated: true, User: authenticationv1.UserInfo{Username: name, Groups: []string{"g"}}}
		}
		return true, r, nil
	})
	client.PrependReactor("create", "subjectaccessreviews", func(a k8stesting.Action) (bool, runtime.Object, error) {
		n.access.Add(1)
		r := a.(k8stesting.CreateAction).GetObject().(*authorizationv1.SubjectAccessReview).DeepCopy()
		ra := r.Spec.ResourceAttributes
		r.Status.Allowed = ra.Resource == "nodes" && ra.Name == "n" && (r.Spec.User == "admin" || r.Spec.User == "scraper" && ra.Subresource == "metrics")
		return true, r, nil
	})
	mux := http.NewServeMux()
	back := httptest.NewServer(mux)
	base, err := url.Parse(back.URL)
	if err != nil {
		t.Fatal(err)
	}
	cfg := streaming.DefaultConfig
	cfg.BaseURL = base
	streams, err := streaming.NewServer(cfg, echo{})
	if err != nil {
		t.Fatal(err)
	}
	mux.Handle("/", streams)
	running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	n.pods = &fakePods{exited: make(chan struct{}), pod: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "uid"},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}, {Name: "waits"}, {Name: "ended"}, {Name: "unseen"}}},
		Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{
			{Name: "c", ContainerID: "containerd://id-c", State: running, LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ContainerID: "containerd://id-old"}}},
			{Name: "waits", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}}},
			{Name: "ended", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ContainerID: "containerd://id-ended"}}},
		}}}}
	logs := map[string]string{}
	for id, text := range map[string]string{"id-c": "now", "id-old": "before", "id-ended": "bye"} {
		dir := filepath.Join(n.logDir, id)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		logs[id] = filepath.Join(dir, "0.log")
		if err := os.WriteFile(logs[id], []byte("2026-11-22T15:00:00Z stdout F "+text+"\n2026-11-22T15:00:01Z stderr F "+text+" too\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "one_total", Help: "One."}))
	ctx, cancel := context.WithCancel(context.Background())
	h := Handler(ctx, Config{NodeName: "n", Client: client, Pods: n.pods, Runtime: fakeRuntime{streams, logs}, Stats: fakeStats{}, Metrics: reg,
		LogDir: n.logDir, KubeletConfig: map[string]int{"port": 10250}, Logger: testLogger(t), ClientCAs: func() *x509.CertPool { return nil }})
	n.srv = httptest.NewTLSServer(h)
	t.Cleanup(func() {
		cancel()
		n.srv.CloseClientConnections()
		n.srv.Close()
		back.CloseClientConnections()
		back.Close()
	})
	return n
}

func (n *node) get(t *testing.T, token, path string) (int, string) {
	t.Helper()
	return n.do(t, http.MethodGet, token, path)
}

func (n *node) do(t *testing.T, method, token, path string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, n.srv.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := n.srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

func (n *node) restConfig() *rest.Config {
	return &rest.Config{Host: n.srv.URL, BearerToken: "token-of-admin", TLSClientConfig: rest.TLSClientConfig{
		CAData: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: n.srv.Certificate().Raw})}}
}
