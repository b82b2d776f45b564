package podstream

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/registry/rest"
	restclient "k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/utils/ptr"
)

func TestLog(t *testing.T) {
	f := newFixture(t)
	l := NewLog(f.pods, f.nodes)
	since := metav1.NewTime(time.Unix(1_700_000_000, 0).UTC())
	text, err := read(t, l, "web", &corev1.PodLogOptions{Previous: true, Timestamps: true, SinceTime: &since, TailLines: ptr.To(int64(0)), LimitBytes: ptr.To(int64(5))})
	if err != nil || text != "hello\n" {
		t.Fatalf("text %q, err %v", text, err)
	}
	got := <-f.agent.seen
	want := url.Values{"previous": {"true"}, "timestamps": {"true"}, "sinceTime": {"2023-11-14T22:13:20Z"}, "tailLines": {"0"}, "limitBytes": {"5"}}
	if got.Path != "/containerLogs/shop/web/app" || got.Query().Encode() != want.Encode() {
		t.Errorf("the agent was asked %s", got)
	}
	if text, err := read(t, l, "pending", &corev1.PodLogOptions{}); text != "" || err != nil {
		t.Errorf("pending pod: %q, %v", text, err)
	}
	f.pods["lost"] = pod("lost", "n", "gone")
	if _, err := read(t, l, "lost", &corev1.PodLogOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the agent's 404 becomes %v", err)
	}
	for name, o := range map[string]*corev1.PodLogOptions{
		"a container name must be specified for pod two, choose one of: [app side]": {},
		"container x is not valid for pod two":                                      {Container: "x"},
		"tailLines":                                                                 {Container: "app", TailLines: ptr.To(int64(-1))},
		"limitBytes":                                                                {Container: "app", LimitBytes: ptr.To(int64(0))},
		"at most one of `sinceTime` or `sinceSeconds`":                              {Container: "app", SinceSeconds: ptr.To(int64(1)), SinceTime: &since},
	} {
		if _, err := l.Get(t.Context(), "two", o); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("want %q, got %v", name, err)
		}
	}
}

func TestFollowedLogArrivesAsItIsWritten(t *testing.T) {
	f := newFixture(t)
	f.pods["live"] = pod("live", "n", "follow")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	obj, err := NewLog(f.pods, f.nodes).Get(ctx, "live", &corev1.PodLogOptions{Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	in, flush, mime, err := obj.(rest.ResourceStreamer).InputStream(ctx, "v1", "")
	if err != nil || !flush || mime != "text/plain" {
		t.Fatalf("flush %v, type %q, err %v", flush, mime, err)
	}
	defer in.Close()
	b := make([]byte, 4)
	if _, err := io.ReadFull(in, b); err != nil || string(b) != "one\n" {
		t.Fatalf("first line %q, err %v", b, err)
	}
}

func TestUnverifiedAgentIsRefused(t *testing.T) {
	f := newFixture(t)
	other := newFixture(t) // same shape, another authority
	f.nodes = other.nodes
	conn, err := other.nodes.Connection(t.Context(), "n")
	if err != nil {
		t.Fatal(err)
	}
	u, _ := url.Parse(f.agent.server.URL + "/containerLogs/shop/web/app")
	if _, err := conn.Transport.RoundTrip(&http.Request{Method: "GET", URL: u, Header: http.Header{}}); err == nil || !strings.Contains(err.Error(), "x509") {
		t.Errorf("an agent with a stranger's certificate must be refused, got %v", err)
	}
}

func TestExec(t *testing.T) {
	f := newFixture(t)
	u := f.url(t, "/exec?pod=web&command=echo&command=hi&stdin=1&stdout=1")
	config := &restclient.Config{Host: f.api.URL}
	executors := map[string]func() (remotecommand.Executor, error){
		"spdy": func() (remotecommand.Executor, error) { return remotecommand.NewSPDYExecutor(config, "POST", u) },
		"websocket": func() (remotecommand.Executor, error) {
			return remotecommand.NewWebSocketExecutor(config, "GET", u.String())
		},
	}
	for name, build := range executors {
		t.Run(name, func(t *testing.T) {
			e, err := build()
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			if err := e.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: strings.NewReader("input"), Stdout: &out}); err != nil {
				t.Fatal(err)
			}
			if out.String() != "app:echo hi:input" {
				t.Errorf("output is %q", out.String())
			}
		})
	}
}

// A WebSocket upgrade is a GET; who may only read must not exec by it.
func TestReadingRightsDoNotStream(t *testing.T) {
	f := newFixture(t)
	f.allow = false
	u := f.url(t, "/exec?pod=web&command=id&stdout=1")
	e, err := remotecommand.NewWebSocketExecutor(&restclient.Config{Host: f.api.URL}, "GET", u.String())
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := e.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdout: &out}); err == nil || out.Len() > 0 {
		t.Errorf("exec went through: %q, %v", out.String(), err)
	}
}

func TestStreamsThatCannotBe(t *testing.T) {
	f := newFixture(t)
	for path, want := range map[string]string{
		"/exec?pod=done&command=id":    "cannot exec in or attach to a container in a completed pod; current phase is Succeeded",
		"/exec?pod=pending&command=id": "pod pending does not have a host assigned",
		"/exec?pod=two&command=id":     "a container name must be specified",
		"/exec?pod=web&command=id":     "Upgrade request required",
		"/portforward?pod=pending":     "pod pending does not have a host assigned",
	} {
		resp, err := http.Post(f.url(t, path).String(), "", nil)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest || !strings.Contains(string(body), want) {
			t.Errorf("%s: %d %s", path, resp.StatusCode, body)
		}
	}
}

func TestPortForward(t *testing.T) {
	f := newFixture(t)
	u := f.url(t, "/portforward?pod=web")
	config := &restclient.Config{Host: f.api.URL}
	dialers := map[string]func() (*portforward.PortForwarder, error){}
	stop := make(chan struct{})
	defer close(stop)
	ready := map[string]chan struct{}{"spdy": make(chan struct{}), "websocket": make(chan struct{})}
	dialers["spdy"] = func() (*portforward.PortForwarder, error) {
		transport, upgrader, err := spdy.RoundTripperFor(config)
		if err != nil {
			return nil, err
		}
		return portforward.New(spdy.NewDialer(upgrader, &http.Client{Transport: transport}, "POST", u), []string{"0:8080"}, stop, ready["spdy"], io.Discard, io.Discard)
	}
	dialers["websocket"] = func() (*portforward.PortForwarder, error) {
		d, err := portforward.NewSPDYOverWebsocketDialer(u, config)
		if err != nil {
			return nil, err
		}
		return portforward.New(d, []string{"0:8080"}, stop, ready["websocket"], io.Discard, io.Discard)
	}
	for name, build := range dialers {
		t.Run(name, func(t *testing.T) {
			p, err := build()
			if err != nil {
				t.Fatal(err)
			}
			failed := make(chan error, 1)
			go func() { failed <- p.ForwardPorts() }()
			select {
			case <-ready[name]:
			case err := <-failed:
				t.Fatal(err)
			}
			ports, err := p.GetPorts()
			if err != nil {
				t.Fatal(err)
			}
			conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", ports[0].Local))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			fmt.Fprint(conn, "ping")
			b, err := io.ReadAll(conn)
			if err != nil || string(b) != "ping from 8080" {
				t.Errorf("answer %q, err %v", b, err)
			}
		})
	}
}
