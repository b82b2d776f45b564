package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
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
