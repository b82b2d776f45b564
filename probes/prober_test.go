package probes

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func hostPort(t *testing.T, s string) (string, int) {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	p, err := strconv.Atoi(u.Port())
	if err != nil {
		t.Fatal(err)
	}
	return u.Hostname(), p
}

func TestHTTP(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("fine")) })
	mux.HandleFunc("/500", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-time.After(20 * time.Second):
		}
	})
	mux.HandleFunc("/here", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/ok", http.StatusFound) })
	mux.HandleFunc("/away", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://192.0.2.1/", http.StatusFound)
	})
	mux.HandleFunc("/round", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/round", http.StatusFound) })
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		_, hasAccept := r.Header["Accept"]
		_, _ = w.Write([]byte(strings.Join([]string{r.Host, r.UserAgent(), r.Header.Get("Accept"), strconv.FormatBool(hasAccept), strings.Join(r.Header["X-Two"], "+"), r.URL.RawQuery}, "|")))
	})
	mux.HandleFunc("/big", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 1<<20)) })
	srv := httptest.NewServer(mux)
	defer srv.Close()
	tlsSrv := httptest.NewTLSServer(mux)
	defer tlsSrv.Close()
	host, port := hostPort(t, srv.URL)
	_, tlsPort := hostPort(t, tlsSrv.URL)
	p := newNetProber(Config{})
	c := &corev1.Container{Name: "c", Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: int32(port)}}}
	for _, tc := range []struct {
		name    string
		a       corev1.HTTPGetAction
		want    Result
		warning bool
		says    string
	}{
		{name: "ok", a: corev1.HTTPGetAction{Path: "/ok"}, want: Success, says: "fine"},
		{name: "no leading slash", a: corev1.HTTPGetAction{Path: "ok"}, want: Success},
		{name: "named port", a: corev1.HTTPGetAction{Path: "/ok", Port: intstr.FromString("web")}, want: Success},
		{name: "server error", a: corev1.HTTPGetAction{Path: "/500"}, want: Failure, says: "HTTP probe failed with statuscode: 500"},
		{name: "not found", a: corev1.HTTPGetAction{Path: "/none"}, want: Failure, says: "404"},
		{name: "https without verification", a: corev1.HTTPGetAction{Path: "/ok", Scheme: corev1.URISchemeHTTPS, Port: intstr.FromInt(tlsPort)}, want: Success},
		{name: "redirect within", a: corev1.HTTPGetAction{Path: "/here"}, want: Success, says: "fine"},
		{name: "redirect elsewhere is not followed", a: corev1.HTTPGetAction{Path: "/away"}, want: Success, warning: true},
		{name: "redirect without end", a: corev1.HTTPGetAction{Path: "/round"}, want: Failure, says: "10 redirects"},
		{name: "time-out", a: corev1.HTTPGetAction{Path: "/slow"}, want: Failure},
		{name: "defaults", a: corev1.HTTPGetAction{Path: "/echo?a=b"}, want: Success, says: net.JoinHostPort(host, strconv.Itoa(port)) + "|kube-probe/1.36|*/*|true||a=b"},
		{name: "headers", a: corev1.HTTPGetAction{Path: "/echo", HTTPHeaders: []corev1.HTTPHeader{{Name: "host", Value: "virtual"}, {Name: "User-Agent", Value: "me"},
			{Name: "Accept", Value: ""}, {Name: "X-Two", Value: "1"}, {Name: "x-two", Value: "2"}}}, want: Success, says: "virtual|me||false|1+2|"},
		{name: "long body", a: corev1.HTTPGetAction{Path: "/big"}, want: Success},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.a.Port == (intstr.IntOrString{}) {
				tc.a.Port = intstr.FromInt(port)
			}
			timeout := 10 * time.Second
			if tc.name == "time-out" {
				timeout = 50 * time.Millisecond
			}
			got, err := p.probe(t.Context(), target{container: c, ip: host, userAgent: "kube-probe/1.36"}, &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &tc.a}}, timeout)
			if err != nil {
				t.Fatal(err)
			}
			if got.result != tc.want || got.warning != tc.warning || !strings.Contains(got.message, tc.says) {
				t.Errorf("answer %+v, want %v (warning %v) that says %q", got, tc.want, tc.warning, tc.says)
			}
			if got.timedOut != (tc.name == "time-out") {
				t.Errorf("timedOut = %v", got.timedOut)
			}
			if len(got.message) > maxOutput+100 {
				t.Errorf("the message is %d bytes long", len(got.message))
			}
		})
	}
}

func TestBadPorts(t *testing.T) {
	p := newNetProber(Config{})
	for _, port := range []intstr.IntOrString{intstr.FromString("nope"), intstr.FromInt(0), intstr.FromInt(70000)} {
		_, err := p.probe(t.Context(), target{container: &corev1.Container{Name: "c"}, ip: "127.0.0.1"}, &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: port}}}, time.Second)
		if err == nil || !strings.Contains(err.Error(), port.String()) {
			t.Errorf("port %v: %v", port.String(), err)
		}
	}
}

func TestTCP(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := ln.Addr().(*net.TCPAddr).Port
	ask := func() answer {
		t.Helper()
		a, err := newNetProber(Config{}).probe(t.Context(), target{container: &corev1.Container{}, ip: "127.0.0.1"}, &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt(port)}}}, 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	if a := ask(); a.result != Success {
		t.Errorf("open port: %+v", a)
	}
	ln.Close()
	if a := ask(); a.result != Failure || a.timedOut {
		t.Errorf("closed port: %+v", a)
	}
}

func TestGRPC(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	hs := health.NewServer()
	hs.SetServingStatus("sick", healthpb.HealthCheckResponse_NOT_SERVING)
	srv := grpc.NewServer()
	healthpb.RegisterHealthServer(srv, hs)
	go srv.Serve(ln)
	defer srv.Stop()
	bare, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	none := grpc.NewServer()
	go none.Serve(bare)
	defer none.Stop()
	ask := func(port int, service string) answer {
		t.Helper()
		a, err := newNetProber(Config{}).probe(t.Context(), target{container: &corev1.Container{}, ip: "127.0.0.1", userAgent: "kube-probe/1.36"},
			&corev1.Probe{ProbeHandler: corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: int32(port), Service: &service}}}, 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	port := ln.Addr().(*net.TCPAddr).Port
	if a := ask(port, ""); a.result != Success {
		t.Errorf("serving: %+v", a)
	}
	if a := ask(port, "sick"); a.result != Failure || !strings.Contains(a.message, "NOT_SERVING") {
		t.Errorf("not serving: %+v", a)
	}
	if a := ask(port, "unknown"); a.result != Failure {
		t.Errorf("unknown service: %+v", a)
	}
	if a := ask(bare.Addr().(*net.TCPAddr).Port, ""); a.result != Failure || !strings.Contains(a.message, "does not implement") {
		t.Errorf("no health service: %+v", a)
	}
}

func TestExec(t *testing.T) {
	var ran []string
	p := newNetProber(Config{Exec: func(ctx context.Context, id string, cmd []string, timeout time.Duration) (int, []byte, error) {
		ran = cmd
		switch cmd[0] {
		case "true":
			return 0, []byte("yes"), nil
		case "false":
			return 7, []byte("no"), nil
		case "slow":
			return 0, nil, context.DeadlineExceeded
		}
		return 0, nil, errors.New("no such shim")
	}})
	ask := func(cmd ...string) (answer, error) {
		return p.probe(t.Context(), target{container: &corev1.Container{Name: "c", Env: []corev1.EnvVar{{Name: "V", Value: "x"}}}, containerID: "id"},
			&corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: cmd}}}, time.Second)
	}
	if a, err := ask("true", "$(V)-$$(V)"); err != nil || a.result != Success || ran[1] != "x-$(V)" {
		t.Errorf("true: %+v, %v, ran %q", a, err, ran)
	}
	if a, err := ask("false"); err != nil || a.result != Failure || a.message != "no" {
		t.Errorf("false: %+v, %v", a, err)
	}
	if a, err := ask("slow"); err != nil || a.result != Failure || !strings.Contains(a.message, "timed out") {
		t.Errorf("slow: %+v, %v", a, err)
	}
	if _, err := ask("broken"); err == nil {
		t.Error("a command that could not be run is no answer")
	}
}
