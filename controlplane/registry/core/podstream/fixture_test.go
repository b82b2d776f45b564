package podstream

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	criportforward "k8s.io/cri-streaming/pkg/streaming/portforward"
	criexec "k8s.io/cri-streaming/pkg/streaming/remotecommand"

	"github.com/reevehq/reeve/controlplane/kubeletclient"
)

// authority issues certificates for a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	dir  string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{dir: t.TempDir()}
	a.key = newKey(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (a *authority) issue(t *testing.T, name string, ips ...net.IP) tls.Certificate {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, IPAddresses: ips,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (a *authority) write(t *testing.T, name, kind string, der []byte) string {
	t.Helper()
	path := filepath.Join(a.dir, name)
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// agent is a node's agent: it demands the API server's certificate and really streams.
type agent struct {
	server *httptest.Server
	seen   chan *url.URL
}

func (a *agent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if len(r.TLS.PeerCertificates) == 0 || r.TLS.PeerCertificates[0].Subject.CommonName != "apiserver" {
		http.Error(w, "who are you", http.StatusUnauthorized)
		return
	}
	select {
	case a.seen <- r.URL:
	default:
	}
	part := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	switch part[0] {
	case "containerLogs":
		switch part[3] {
		case "gone":
			http.Error(w, "no such container", http.StatusNotFound)
		case "follow": // a line, and the next one only after the reader has had the first
			fmt.Fprintln(w, "one")
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		default:
			fmt.Fprint(w, "hello\n")
		}
	case "exec":
		o, err := criexec.NewOptions(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		criexec.ServeExec(w, r, a, part[2], "", part[3], r.URL.Query()["command"], o, time.Minute, time.Minute,
			[]string{"v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"})
	case "portForward":
		criportforward.ServePortForward(w, r, a, part[2], "", nil, time.Minute, time.Minute, []string{"portforward.k8s.io"})
	}
}

func (a *agent) ExecInContainer(_ context.Context, _, _, container string, cmd []string, in io.Reader, out, _ io.WriteCloser, _ bool, _ <-chan criexec.TerminalSize, _ time.Duration) error {
	fmt.Fprintf(out, "%s:%s:", container, strings.Join(cmd, " "))
	if in != nil {
		if _, err := io.Copy(out, in); err != nil {
			return err
		}
	}
	return nil
}

func (a *agent) PortForward(_ context.Context, _, _ string, port int32, stream io.ReadWriteCloser) error {
	b := make([]byte, 4)
	if _, err := io.ReadFull(stream, b); err != nil {
		return err
	}
	fmt.Fprintf(stream, "%s from %d", b, port)
	return nil
}

type getter map[string]runtime.Object

func (g getter) Get(_ context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	if o, ok := g[name]; ok {
		return o, nil
	}
	return nil, apierrors.NewNotFound(corev1.Resource("pods"), name)
}

func pod(name, node string, containers ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Spec: corev1.PodSpec{NodeName: node}}
	for _, c := range containers {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: c})
	}
	return p
}

type fixture struct {
	agent *agent
	nodes *kubeletclient.Client
	pods  getter
	api   *httptest.Server // the API server's side, with the handlers under /<subresource>
	allow bool
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	ca := newAuthority(t)
	f := &fixture{agent: &agent{seen: make(chan *url.URL, 8)}, allow: true}
	f.agent.server = httptest.NewUnstartedServer(f.agent)
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	f.agent.server.TLS = &tls.Config{Certificates: []tls.Certificate{ca.issue(t, "node", net.IPv4(127, 0, 0, 1))}, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: pool}
	f.agent.server.StartTLS()
	t.Cleanup(f.agent.server.Close)

	_, portText, _ := net.SplitHostPort(f.agent.server.Listener.Addr().String())
	port, _ := strconv.Atoi(portText)
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Status: corev1.NodeStatus{
		Addresses:       []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: "nowhere.invalid"}, {Type: corev1.NodeInternalIP, Address: "127.0.0.1"}},
		DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: int32(port)}}}}
	client := ca.issue(t, "apiserver")
	key, err := x509.MarshalECPrivateKey(client.PrivateKey.(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	f.nodes, err = kubeletclient.New(kubeletclient.Config{Nodes: getter{"n": node},
		CertFile: ca.write(t, "c.crt", "CERTIFICATE", client.Certificate[0]), KeyFile: ca.write(t, "c.key", "EC PRIVATE KEY", key),
		CAFile: ca.write(t, "ca.crt", "CERTIFICATE", ca.cert.Raw)})
	if err != nil {
		t.Fatal(err)
	}
	f.pods = getter{"web": pod("web", "n", "app"), "two": pod("two", "n", "app", "side"), "pending": pod("pending", "", "app")}
	f.pods["done"] = pod("done", "n", "app")
	f.pods["done"].(*corev1.Pod).Status.Phase = corev1.PodSucceeded

	authz := authorizer.AuthorizerFunc(func(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
		if f.allow && a.GetVerb() == "create" {
			return authorizer.DecisionAllow, "", nil
		}
		return authorizer.DecisionNoOpinion, "no rule", nil
	})
	handlers := map[string]rest.Connecter{
		"exec": NewExec(f.pods, f.nodes, authz), "attach": NewAttach(f.pods, f.nodes, authz), "portforward": NewPortForward(f.pods, f.nodes, authz)}
	f.api = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		var options runtime.Object
		switch r.URL.Path {
		case "/exec":
			options = &corev1.PodExecOptions{Container: q.Get("container"), Command: q["command"], Stdin: q.Has("stdin"), Stdout: true}
		case "/portforward":
			options = &corev1.PodPortForwardOptions{}
		}
		verb := "create"
		if r.Method == http.MethodGet {
			verb = "get"
		}
		ctx := request.WithNamespace(r.Context(), "shop")
		ctx = request.WithUser(ctx, &user.DefaultInfo{Name: "jane"})
		ctx = request.WithRequestInfo(ctx, &request.RequestInfo{Verb: verb})
		respond := responder{w}
		h, err := handlers[r.URL.Path[1:]].Connect(ctx, q.Get("pod"), options, respond)
		if err != nil {
			respond.Error(err)
			return
		}
		h.ServeHTTP(w, r.WithContext(ctx))
	}))
	t.Cleanup(f.api.Close)
	return f
}

type responder struct{ w http.ResponseWriter }

func (r responder) Object(int, runtime.Object) {}
func (r responder) Error(err error) {
	code := http.StatusInternalServerError
	if s, ok := err.(apierrors.APIStatus); ok {
		code = int(s.Status().Code)
	}
	http.Error(r.w, err.Error(), code)
}

func (f *fixture) url(t *testing.T, path string) *url.URL {
	t.Helper()
	u, err := url.Parse(f.api.URL + path)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func read(t *testing.T, l *Log, name string, o *corev1.PodLogOptions) (string, error) {
	t.Helper()
	obj, err := l.Get(request.WithNamespace(t.Context(), "shop"), name, o)
	if err != nil {
		return "", err
	}
	in, _, _, err := obj.(rest.ResourceStreamer).InputStream(t.Context(), "v1", "")
	if err != nil || in == nil {
		return "", err
	}
	defer in.Close()
	b, err := io.ReadAll(in)
	return string(b), err
}
