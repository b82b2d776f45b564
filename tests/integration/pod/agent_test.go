package pod

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	criportforward "k8s.io/cri-streaming/pkg/streaming/portforward"
	criexec "k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/utils/ptr"

	"github.com/reevehq/reeve/tests/integration/apiserver"
)

var shared *apiserver.Cluster

func TestMain(m *testing.M) { os.Exit(apiserver.Main(m, &shared)) }

// agent plays a node's agent: it really streams, and demands the API server's certificate.
type agent struct {
	name string
	asks chan *url.URL
}

func newAgent(t *testing.T, name string) *agent {
	t.Helper()
	a := &agent{name: name, asks: make(chan *url.URL, 16)}
	server := httptest.NewUnstartedServer(a)
	cert, clients := shared.Serving(t, name, net.IPv4(127, 0, 0, 1))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients}
	server.StartTLS()
	t.Cleanup(server.Close)
	_, text, _ := net.SplitHostPort(server.Listener.Addr().String())
	port, err := strconv.Atoi(text)
	must(t, "read port", err)
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{
		Addresses:       []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "127.0.0.1"}},
		DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: int32(port)}}}}
	_, err = shared.Admin.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{})
	must(t, "create node", err)
	return a
}

func (a *agent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if groups := r.TLS.PeerCertificates[0].Subject.Organization; !slices.Contains(groups, "system:kubelet-api-admins") || slices.Contains(groups, "system:masters") {
		http.Error(w, fmt.Sprintf("the API server came as %v", groups), http.StatusForbidden)
		return
	}
	select {
	case a.asks <- r.URL:
	default:
	}
	part := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	switch part[0] {
	case "containerLogs":
		fmt.Fprintln(w, "one")
		w.(http.Flusher).Flush()
		if r.URL.Query().Get("follow") == "true" {
			<-r.Context().Done()
		}
	case "exec", "attach":
		o, err := criexec.NewOptions(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		protocols := []string{"v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"}
		if part[0] == "attach" {
			criexec.ServeAttach(w, r, a, part[2], "", part[3], o, time.Minute, time.Minute, protocols)
			return
		}
		criexec.ServeExec(w, r, a, part[2], "", part[3], r.URL.Query()["command"], o, time.Minute, time.Minute, protocols)
	case "portForward":
		criportforward.ServePortForward(w, r, a, part[2], "", nil, time.Minute, time.Minute, []string{"portforward.k8s.io"})
	default:
		fmt.Fprintf(w, "agent %s", r.URL.Path)
	}
}

func (a *agent) ExecInContainer(_ context.Context, _, _, container string, cmd []string, in io.Reader, out, _ io.WriteCloser, _ bool, _ <-chan criexec.TerminalSize, _ time.Duration) error {
	fmt.Fprintf(out, "%s %q ", container, cmd)
	if in == nil {
		return nil
	}
	_, err := io.Copy(out, in)
	return err
}

func (a *agent) AttachContainer(_ context.Context, _, _, container string, _ io.Reader, out, _ io.WriteCloser, _ bool, _ <-chan criexec.TerminalSize) error {
	_, err := fmt.Fprintf(out, "attached to %s", container)
	return err
}

func (a *agent) PortForward(_ context.Context, _, _ string, port int32, stream io.ReadWriteCloser) error {
	b := make([]byte, 4)
	if _, err := io.ReadFull(stream, b); err != nil {
		return err
	}
	_, err := fmt.Fprintf(stream, "%s from %d", b, port)
	return err
}

func must(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func namespace(t *testing.T, name string) string {
	t.Helper()
	_, err := shared.Admin.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	must(t, "create namespace", err)
	_, err = shared.Admin.CoreV1().ServiceAccounts(name).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
	must(t, "create service account", err)
	return name
}

// running is a pod that its node has reported as running, ready or not.
func running(t *testing.T, ns, name, node, ip string, ready bool) *corev1.Pod {
	t.Helper()
	p, err := shared.Admin.CoreV1().Pods(ns).Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "web"}},
		Spec: corev1.PodSpec{NodeName: node, TerminationGracePeriodSeconds: ptr.To(int64(1)),
			Containers: []corev1.Container{{Name: "app", Image: "i", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}}}}}}, metav1.CreateOptions{})
	must(t, "create pod", err)
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	p.Status.Phase = corev1.PodRunning
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: status}}
	if ip != "" {
		p.Status.PodIP, p.Status.PodIPs = ip, []corev1.PodIP{{IP: ip}}
	}
	p, err = shared.Admin.CoreV1().Pods(ns).UpdateStatus(t.Context(), p, metav1.UpdateOptions{})
	must(t, "report pod", err)
	return p
}
