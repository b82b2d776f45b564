package pod

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

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	kubescheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/utils/ptr"

	"github.com/reevehq/reeve/tests/integration/apiserver"
)

// admin is a configuration of an administrator by certificate, over the network as kubectl.
func admin(t *testing.T) *rest.Config {
	t.Helper()
	return shared.UserConfig(t, "root", "system:masters")
}

func TestLogsStreamWithEveryOption(t *testing.T) {
	ns, a := namespace(t, "logs"), newAgent(t, "logs-node")
	running(t, ns, "web", a.name, "", true)
	stream, err := shared.Admin.CoreV1().Pods(ns).GetLogs("web", &corev1.PodLogOptions{
		Follow: true, Timestamps: true, SinceSeconds: ptr.To(int64(60)), TailLines: ptr.To(int64(5)), LimitBytes: ptr.To(int64(100)), Previous: true}).Stream(t.Context())
	must(t, "follow the log", err)
	defer stream.Close()
	b := make([]byte, 4) // comes while the agent still holds its answer open
	if _, err := io.ReadFull(stream, b); err != nil || string(b) != "one\n" {
		t.Fatalf("first line %q, %v", b, err)
	}
	want := url.Values{"follow": {"true"}, "timestamps": {"true"}, "sinceSeconds": {"60"}, "tailLines": {"5"}, "limitBytes": {"100"}, "previous": {"true"}}
	if got := <-a.asks; got.Path != "/containerLogs/logs/web/app" || got.Query().Encode() != want.Encode() {
		t.Errorf("the agent was asked %s", got)
	}
	person, err := kubernetes.NewForConfig(admin(t))
	must(t, "make client", err)
	_, err = person.CoreV1().Pods(ns).GetLogs("web", &corev1.PodLogOptions{Container: "nope"}).Stream(t.Context())
	if !apierrors.IsBadRequest(err) || !strings.Contains(err.Error(), "container nope is not valid for pod web") {
		t.Errorf("an unknown container: %v", err)
	}
}

func execURL(t *testing.T, config *rest.Config, ns, sub string, o any) *url.URL {
	t.Helper()
	k, err := kubernetes.NewForConfig(config)
	must(t, "make client", err)
	r := k.CoreV1().RESTClient().Post().Resource("pods").Namespace(ns).Name("web").SubResource(sub)
	switch o := o.(type) {
	case *corev1.PodExecOptions:
		r = r.VersionedParams(o, kubescheme.ParameterCodec)
	case *corev1.PodAttachOptions:
		r = r.VersionedParams(o, kubescheme.ParameterCodec)
	}
	return r.URL()
}

func stream(ctx context.Context, t *testing.T, config *rest.Config, u *url.URL, protocol string, in io.Reader) (string, error) {
	t.Helper()
	var e remotecommand.Executor
	var err error
	if protocol == "websocket" {
		e, err = remotecommand.NewWebSocketExecutor(config, "GET", u.String())
	} else {
		e, err = remotecommand.NewSPDYExecutor(config, "POST", u)
	}
	must(t, "make executor", err)
	var out bytes.Buffer
	err = e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: in, Stdout: &out})
	return out.String(), err
}

func TestExecAndAttach(t *testing.T) {
	ns, a := namespace(t, "exec"), newAgent(t, "exec-node")
	running(t, ns, "web", a.name, "", true)
	config := admin(t)
	for _, protocol := range []string{"spdy", "websocket"} {
		u := execURL(t, config, ns, "exec", &corev1.PodExecOptions{Command: []string{"sh", "-c", "a b"}, Stdin: true, Stdout: true})
		out, err := stream(t.Context(), t, config, u, protocol, strings.NewReader("input"))
		if err != nil || out != `app ["sh" "-c" "a b"] input` {
			t.Errorf("exec over %s: %q, %v", protocol, out, err)
		}
		u = execURL(t, config, ns, "attach", &corev1.PodAttachOptions{Container: "app", Stdout: true})
		out, err = stream(t.Context(), t, config, u, protocol, nil)
		if err != nil || out != "attached to app" {
			t.Errorf("attach over %s: %q, %v", protocol, out, err)
		}
	}
}

// Reading rights on pods/exec must not run anything, even though a WebSocket upgrade is a GET.
func TestReaderMayNotExec(t *testing.T) {
	ctx := t.Context()
	ns, a := namespace(t, "reader"), newAgent(t, "reader-node")
	running(t, ns, "web", a.name, "", true)
	_, err := shared.Admin.RbacV1().Roles(ns).Create(ctx, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "r"}, Rules: []rbacv1.PolicyRule{
		{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods", "pods/exec"}}}}, metav1.CreateOptions{})
	must(t, "create role", err)
	_, err = shared.Admin.RbacV1().RoleBindings(ns).Create(ctx, &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "r"},
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "r"}, Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: "reader"}}}, metav1.CreateOptions{})
	must(t, "bind role", err)
	config := shared.UserConfig(t, "reader")
	k, err := kubernetes.NewForConfig(config)
	must(t, "make client", err)
	apiserver.Eventually(t, "the reader may read", func(ctx context.Context) error {
		_, err := k.CoreV1().Pods(ns).Get(ctx, "web", metav1.GetOptions{})
		return err
	})
	u := execURL(t, config, ns, "exec", &corev1.PodExecOptions{Command: []string{"id"}, Stdout: true})
	for _, protocol := range []string{"websocket", "spdy"} {
		if out, err := stream(ctx, t, config, u, protocol, nil); err == nil {
			t.Errorf("exec over %s ran: %q", protocol, out)
		}
	}
	select {
	case got := <-a.asks:
		t.Errorf("the agent was asked %s", got)
	default:
	}
}

func TestPortForward(t *testing.T) {
	ns, a := namespace(t, "forward"), newAgent(t, "forward-node")
	running(t, ns, "web", a.name, "", true)
	config := admin(t)
	u := execURL(t, config, ns, "portforward", nil)
	for _, protocol := range []string{"spdy", "websocket"} {
		t.Run(protocol, func(t *testing.T) {
			stop, ready := make(chan struct{}), make(chan struct{})
			defer close(stop)
			var f *portforward.PortForwarder
			if protocol == "spdy" {
				transport, upgrader, err := spdy.RoundTripperFor(config)
				must(t, "make transport", err)
				f, err = portforward.New(spdy.NewDialer(upgrader, &http.Client{Transport: transport}, "POST", u), []string{"0:8080"}, stop, ready, io.Discard, io.Discard)
				must(t, "make forwarder", err)
			} else {
				d, err := portforward.NewSPDYOverWebsocketDialer(u, config)
				must(t, "make dialer", err)
				f, err = portforward.New(d, []string{"0:8080"}, stop, ready, io.Discard, io.Discard)
				must(t, "make forwarder", err)
			}
			failed := make(chan error, 1)
			go func() { failed <- f.ForwardPorts() }()
			select {
			case <-ready:
			case err := <-failed:
				t.Fatal(err)
			}
			ports, err := f.GetPorts()
			must(t, "learn port", err)
			conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", ports[0].Local))
			must(t, "dial", err)
			defer conn.Close()
			fmt.Fprint(conn, "ping")
			if b, err := io.ReadAll(conn); err != nil || string(b) != "ping from 8080" {
				t.Errorf("answer %q, %v", b, err)
			}
		})
	}
}

func TestProxies(t *testing.T) {
	ctx := t.Context()
	ns, a := namespace(t, "proxy"), newAgent(t, "proxy-node")
	raw, err := shared.Admin.CoreV1().RESTClient().Get().AbsPath("/api/v1/nodes/" + a.name + "/proxy/stats/summary").DoRaw(ctx)
	if err != nil || string(raw) != "agent /stats/summary" {
		t.Errorf("node proxy: %q, %v", raw, err)
	}
	// The server's own addresses stay out of reach, whatever a pod or node says.
	running(t, ns, "self", a.name, "127.0.0.1", true)
	for _, path := range []string{"/api/v1/namespaces/proxy/pods/self:2379/proxy/", "/api/v1/nodes/" + a.name + ":2379/proxy/"} {
		if _, err := shared.Admin.CoreV1().RESTClient().Get().AbsPath(path).DoRaw(ctx); !apierrors.IsBadRequest(err) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
