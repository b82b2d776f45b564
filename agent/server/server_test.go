package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
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

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	k8stesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
	criremote "k8s.io/cri-streaming/pkg/streaming/remotecommand"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

func TestAttributes(t *testing.T) {
	for _, tc := range []struct {
		method, path string
		want         []attrs
	}{
		{"GET", "/stats/summary", []attrs{{"get", "stats"}}},
		{"GET", "/metrics", []attrs{{"get", "metrics"}}},
		{"GET", "/metrics/cadvisor", []attrs{{"get", "metrics"}}},
		{"GET", "/metricsx", []attrs{{"get", "proxy"}}},
		{"GET", "/logs/messages", []attrs{{"get", "log"}}},
		{"GET", "/pods", []attrs{{"get", "pods"}, {"get", "proxy"}}},
		{"GET", "/runningpods/", []attrs{{"get", "pods"}, {"get", "proxy"}}},
		{"GET", "/healthz/ping", []attrs{{"get", "healthz"}, {"get", "proxy"}}},
		{"GET", "/configz", []attrs{{"get", "configz"}, {"get", "proxy"}}},
		{"POST", "/exec/ns/p/c", []attrs{{"create", "proxy"}}},
		{"GET", "/exec/ns/p/c", []attrs{{"get", "proxy"}}},
		{"GET", "/containerLogs/ns/p/c", []attrs{{"get", "proxy"}}},
		{"DELETE", "/pods", []attrs{{"delete", "pods"}, {"delete", "proxy"}}},
		{"GET", "/debug/pprof/heap", []attrs{{"get", "proxy"}}},
	} {
		if d := cmp.Diff(tc.want, attributes(tc.method, tc.path)); d != "" {
			t.Errorf("%s %s (-want +got):\n%s", tc.method, tc.path, d)
		}
	}
}

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

func TestWhoMayAsk(t *testing.T) {
	n := newNode(t)
	for _, path := range []string{"/healthz", "/pods", "/metrics", "/exec/ns/p/c?command=id", "/nowhere", "/debug/pprof/"} {
		if code, body := n.get(t, "", path); code != http.StatusUnauthorized {
			t.Errorf("anonymous %s: %d %s", path, code, body)
		}
		if code, body := n.get(t, "stolen", path); code != http.StatusUnauthorized {
			t.Errorf("bad token %s: %d %s", path, code, body)
		}
		if code, body := n.get(t, "token-of-nobody", path); code != http.StatusForbidden {
			t.Errorf("no rights %s: %d %s", path, code, body)
		}
	}
	if code, body := n.get(t, "token-of-nobody", "/pods"); code != 403 || !strings.Contains(body, "user=nobody, verb=get, resource=nodes, subresource(s)=[pods proxy], name=n") {
		t.Errorf("the refusal says: %s", body)
	}
	if code, _ := n.get(t, "token-of-scraper", "/metrics"); code != 200 {
		t.Errorf("scraper at /metrics: %d", code)
	}
	if code, _ := n.get(t, "token-of-scraper", "/pods"); code != 403 {
		t.Errorf("scraper at /pods: %d", code)
	}
	reviews, access := n.reviews.Load(), n.access.Load()
	for range 5 {
		n.get(t, "token-of-scraper", "/metrics")
		n.get(t, "stolen", "/metrics")
	}
	if n.reviews.Load() != reviews || n.access.Load() != access {
		t.Errorf("reviews were not remembered: %d → %d, %d → %d", reviews, n.reviews.Load(), access, n.access.Load())
	}
}

func TestPlainAnswers(t *testing.T) {
	n := newNode(t)
	for path, want := range map[string]string{
		"/healthz": "ok", "/healthz/ping": "ok", "/healthz/syncloop": "ok", "/pods": `"kind":"PodList"`, "/runningpods/": `"name":"p"`,
		"/configz": `{"kubeletconfig":{"port":10250}}`, "/metrics": "one_total 0", "/metrics/resource": `container_memory_working_set_bytes{container="c",namespace="ns",pod="p"} 1.048576e+06`,
		"/stats/summary": `"nodeName":"n"`, "/debug/pprof/cmdline": "server", "/logs/id-c/0.log": "now",
	} {
		if code, body := n.get(t, "token-of-admin", path); code != 200 || !strings.Contains(body, want) {
			t.Errorf("%s: %d %.300s, want %q", path, code, body, want)
		}
	}
	if code, body := n.do(t, http.MethodPost, "token-of-admin", "/run/ns/p/c?cmd=id"); code != 200 || body != "id-c ran /bin/sh -c id" {
		t.Errorf("/run: %d %q", code, body)
	}
	if code, _ := n.get(t, "token-of-admin", "/nowhere"); code != 404 {
		t.Errorf("/nowhere: %d", code)
	}
	code, body := n.get(t, "token-of-admin", "/pods")
	var list corev1.PodList
	if err := json.Unmarshal([]byte(body), &list); code != 200 || err != nil || len(list.Items) != 1 {
		t.Errorf("/pods is no PodList: %v", err)
	}
}

func TestContainerLogs(t *testing.T) {
	n := newNode(t)
	for _, tc := range []struct {
		path string
		code int
		want string
	}{
		{"ns/p/c", 200, "now\nnow too\n"},
		{"ns/p/c?previous=true", 200, "before\nbefore too\n"},
		{"ns/p/c?tailLines=1", 200, "now too\n"},
		{"ns/p/c?stream=Stdout", 200, "now\n"},
		{"ns/p/c?timestamps=true&limitBytes=25", 200, "2026-11-22T15:00:00Z now\n"},
		{"ns/p/c?sinceTime=2026-11-22T15:00:01Z", 200, "now too\n"},
		{"ns/p/ended?follow=true&previous=false", 200, "bye\nbye too\n"},
		{"ns/p/ended?previous=true", 400, `previous terminated container "ended" in pod "p" not found`},
		{"ns/p/waits", 400, `container "waits" in pod "p" is waiting to start: ContainerCreating`},
		{"ns/p/unseen", 400, `container "unseen" in pod "p" is not available`},
		{"ns/p/none", 404, "none"},
		{"ns/none/c", 404, "none"},
		{"ns/p/c?tailLines=x", 400, "tailLines"},
		{"ns/p/c?tailLines=-1", 400, "tailLines"},
		{"ns/p/c?limitBytes=0", 400, "limitBytes"},
		{"ns/p/c?sinceSeconds=0", 400, "sinceSeconds"},
		{"ns/p/c?sinceTime=yesterday", 400, "sinceTime"},
		{"ns/p/c?sinceSeconds=5&sinceTime=2026-11-22T15:00:01Z", 400, "sinceTime"},
		{"ns/p/c?stream=both", 400, "stream"},
	} {
		if strings.Contains(tc.path, "follow") {
			close(n.pods.exited)
		}
		code, body := n.get(t, "token-of-admin", "/containerLogs/"+tc.path)
		if code != tc.code || tc.code == 200 && body != tc.want || !strings.Contains(body, tc.want) {
			t.Errorf("%s: %d %q, want %d %q", tc.path, code, body, tc.code, tc.want)
		}
	}
}

func (n *node) restConfig() *rest.Config {
	return &rest.Config{Host: n.srv.URL, BearerToken: "token-of-admin", TLSClientConfig: rest.TLSClientConfig{
		CAData: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: n.srv.Certificate().Raw})}}
}

// exec and attach pass through by SPDY and by WebSocket.
func TestStreams(t *testing.T) {
	n := newNode(t)
	cfg := n.restConfig()
	for _, path := range []string{"/exec/ns/p/c?command=id&command=-u", "/exec/ns/p/uid/c?command=id&command=-u", "/attach/ns/p/c"} {
		u, err := url.Parse(n.srv.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		cmd := `["id" "-u"]`
		if strings.HasPrefix(path, "/attach") {
			cmd = `["attached"]`
		}
		for name, make := range map[string]func(u *url.URL) (remotecommand.Executor, error){
			"SPDY": func(u *url.URL) (remotecommand.Executor, error) { return remotecommand.NewSPDYExecutor(cfg, "POST", u) },
			"WebSocket": func(u *url.URL) (remotecommand.Executor, error) {
				return remotecommand.NewWebSocketExecutorForProtocols(cfg, "GET", u.String(), "v4.channel.k8s.io")
			},
		} {
			q := u.Query()
			q.Set("output", "1")
			q.Set("error", "1")
			o := remotecommand.StreamOptions{}
			want := "id-c ran " + cmd + " tty=false\nheard "
			if name == "SPDY" { // this version of the WebSocket protocol cannot say that input has ended
				q.Set("input", "1")
				o.Stdin = strings.NewReader("hello")
				want += "hello"
			}
			to := *u
			to.RawQuery = q.Encode()
			ex, err := make(&to)
			if err != nil {
				t.Fatal(err)
			}
			var out, errOut bytes.Buffer
			o.Stdout, o.Stderr = &out, &errOut
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			err = ex.StreamWithContext(ctx, o)
			cancel()
			if err != nil {
				t.Errorf("%s %s: %v", name, path, err)
				continue
			}
			if out.String() != want || errOut.String() != "complaint" {
				t.Errorf("%s %s: out %q, err %q, want %q", name, path, out.String(), errOut.String(), want)
			}
		}
	}
	for path, want := range map[string]string{
		"/exec/ns/p/c?output=1": "command", "/exec/ns/p/c?command=id": "stdin", "/exec/ns/p/waits?command=id&output=1": "not running",
		"/portForward/ns/p?port=x": "port",
	} {
		if code, body := n.do(t, http.MethodPost, "token-of-admin", path); code != 400 || !strings.Contains(body, want) {
			t.Errorf("%s: %d %q, want 400 that says %q", path, code, body, want)
		}
	}
	if code, _ := n.do(t, http.MethodPost, "token-of-admin", "/exec/ns/p/other-uid/c?command=id&output=1"); code != 404 {
		t.Errorf("another pod's UID: %d", code)
	}
}

func TestPortForward(t *testing.T) {
	n := newNode(t)
	rt, up, err := spdy.RoundTripperFor(n.restConfig())
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(n.srv.URL + "/portForward/ns/p")
	if err != nil {
		t.Fatal(err)
	}
	stop, ready := make(chan struct{}), make(chan struct{})
	pf, err := portforward.New(spdy.NewDialer(up, &http.Client{Transport: rt}, "POST", u), []string{"0:8080"}, stop, ready, io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- pf.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-done:
		t.Fatal(err)
	}
	ports, err := pf.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := (&tlsLess{}).dial(t.Context(), fmt.Sprintf("127.0.0.1:%d", ports[0].Local))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(conn, "hello")
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(conn)
	if err != nil || string(data) != "sandbox:8080 HELLO" {
		t.Errorf("through the forwarded port: %q, %v", data, err)
	}
	close(stop)
	<-done
}

// A certificate of the client CA says who asks; one of another CA, or for servers, says nothing.
func TestClientCertificates(t *testing.T) {
	ca, other := newCA(t), newCA(t)
	a := newAuthenticator(Config{ClientCAs: func() *x509.CertPool { return ca.pool }})
	for _, tc := range []struct {
		name string
		cert *x509.Certificate
		want string
	}{
		{"ours", ca.leaf(t, "admin", []string{"system:masters"}, x509.ExtKeyUsageClientAuth, time.Hour), "admin"},
		{"another CA's", other.leaf(t, "admin", []string{"system:masters"}, x509.ExtKeyUsageClientAuth, time.Hour), ""},
		{"a server's", ca.leaf(t, "admin", nil, x509.ExtKeyUsageServerAuth, time.Hour), ""},
		{"expired", ca.leaf(t, "admin", nil, x509.ExtKeyUsageClientAuth, -time.Minute), ""},
		{"nameless", ca.leaf(t, "", []string{"system:masters"}, x509.ExtKeyUsageClientAuth, time.Hour), ""},
	} {
		r := httptest.NewRequest(http.MethodGet, "/pods", nil)
		r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{tc.cert}}
		u, err := a.authenticate(r)
		if (err == nil) != (tc.want != "") || u.Name != tc.want {
			t.Errorf("%s: %+v, %v", tc.name, u, err)
		}
	}
	z := newAuthorizer(Config{NodeName: "n"})
	if ok, _, err := z.authorize(t.Context(), user{Name: "x", Groups: []string{"system:masters"}}, []attrs{{"get", "proxy"}}); !ok || err != nil {
		t.Errorf("standalone, system:masters: %v, %v", ok, err)
	}
	if ok, _, err := z.authorize(t.Context(), user{Name: "x"}, []attrs{{"get", "proxy"}}); ok || err != nil {
		t.Errorf("standalone, anybody else: %v, %v", ok, err)
	}
	none := newAuthenticator(Config{ClientCAs: func() *x509.CertPool { return nil }})
	r := httptest.NewRequest(http.MethodGet, "/pods", nil)
	r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{ca.leaf(t, "admin", nil, x509.ExtKeyUsageClientAuth, time.Hour)}}
	if _, err := none.authenticate(r); err == nil {
		t.Error("without a loaded CA the system's roots were used")
	}
}

// Who has no credential is nobody, or anonymous where that is allowed; a wrong token is never taken for none.
func TestAnonymousAndAlwaysAllow(t *testing.T) {
	ask := func(a *authenticator, header string) (user, error) {
		r := httptest.NewRequest(http.MethodGet, "/pods", nil)
		if header != "" {
			r.Header.Set("Authorization", header)
		}
		return a.authenticate(r)
	}
	if u, err := ask(newAuthenticator(Config{}), ""); err == nil {
		t.Errorf("without credentials: %+v", u)
	}
	open := newAuthenticator(Config{Anonymous: true, NoTokens: true})
	if u, err := ask(open, ""); err != nil || u.Name != "system:anonymous" {
		t.Errorf("anonymous: %+v, %v", u, err)
	}
	if u, err := ask(open, "Bearer x"); err == nil || !strings.Contains(err.Error(), "turned off") {
		t.Errorf("a token where they are turned off: %+v, %v", u, err)
	}
	z := newAuthorizer(Config{NodeName: "n", AlwaysAllow: true})
	if ok, _, err := z.authorize(t.Context(), anonymousUser, []attrs{{"get", "proxy"}}); !ok || err != nil {
		t.Errorf("AlwaysAllow: %v, %v", ok, err)
	}
	if ok, _, _ := newAuthorizer(Config{NodeName: "n"}).authorize(t.Context(), anonymousUser, []attrs{{"get", "proxy"}}); ok {
		t.Error("anonymous was allowed without AlwaysAllow")
	}
}

func TestDebuggingHandlersCanBeTurnedOff(t *testing.T) {
	for _, tc := range []struct {
		cfg Config
		off []string
		on  []string
	}{
		{Config{NoDebugging: true}, []string{"/exec/ns/pod/c", "/containerLogs/ns/pod/c", "/portForward/ns/pod", "/logs/x", "/configz", "/runningpods/", "/debug/pprof/"}, []string{"/healthz"}},
		{Config{NoSystemLogs: true, NoProfiling: true}, []string{"/logs/x", "/debug/pprof/"}, []string{"/healthz", "/configz"}},
		{Config{}, nil, []string{"/debug/pprof/", "/configz"}},
	} {
		tc.cfg.NodeName, tc.cfg.Anonymous, tc.cfg.AlwaysAllow, tc.cfg.Logger = "n", true, true, slog.New(slog.DiscardHandler)
		h := Handler(t.Context(), tc.cfg)
		code := func(path string) int {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
			return w.Code
		}
		for _, path := range tc.off {
			if got := code(path); got != http.StatusMethodNotAllowed {
				t.Errorf("%+v: %s answers %d, want 405", tc.cfg, path, got)
			}
		}
		for _, path := range tc.on {
			if got := code(path); got != http.StatusOK {
				t.Errorf("%+v: %s answers %d, want 200", tc.cfg, path, got)
			}
		}
	}
}

// A self-signed certificate is the same after a restart, and another one when it nears its end.
func TestSelfSignedCertificateIsKept(t *testing.T) {
	dir := t.TempDir()
	files := func() (string, string) { return filepath.Join(dir, "pki", "k.crt"), filepath.Join(dir, "pki", "k.key") }
	serve := func() []byte {
		fresh, err := SelfSigned("n")
		if err != nil {
			t.Fatal(err)
		}
		cert, key := files()
		get, err := KeptSelfSigned(cert, key, fresh)
		if err != nil {
			t.Fatal(err)
		}
		pair, err := get(nil)
		if err != nil {
			t.Fatal(err)
		}
		return pair.Certificate[0]
	}
	first := serve()
	if !bytes.Equal(first, serve()) {
		t.Error("a restart made another certificate")
	}
	cert, key := files()
	if st, err := os.Stat(key); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("key %v, %v; want mode 0600", st, err)
	}
	if err := os.WriteFile(cert, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(first, serve()) {
		t.Error("a broken file was served")
	}
}
