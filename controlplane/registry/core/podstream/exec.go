package podstream

import (
	"context"
	"fmt"
	"net/http"
	"net/url"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	streamproxy "k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"github.com/reevehq/reeve/controlplane/kubeletclient"
)

// stream is what exec, attach and portforward share.
type stream struct {
	pods  PodGetter
	nodes Nodes
	authz authorizer.Authorizer
}

func (stream) Destroy() {}

// ConnectMethods: SPDY clients POST, WebSocket clients GET.
func (stream) ConnectMethods() []string { return []string{"GET", "POST"} }

// mayCreate closes a hole of the API: WebSocket upgrades are GETs, which reading rights would open. Who streams needs
// the verb create on the subresource, however it connects.
func (s stream) mayCreate(ctx context.Context, pod, subresource string) error {
	info, ok := request.RequestInfoFrom(ctx)
	if !ok || info.Verb == "create" || s.authz == nil {
		return nil
	}
	u, ok := request.UserFrom(ctx)
	if !ok {
		return apierrors.NewForbidden(corev1.Resource("pods/"+subresource), pod, fmt.Errorf("no user is on this request"))
	}
	decision, reason, err := s.authz.Authorize(ctx, authorizer.AttributesRecord{
		User: u, Verb: "create", Namespace: request.NamespaceValue(ctx), APIVersion: "v1", Resource: "pods",
		Subresource: subresource, Name: pod, ResourceRequest: true, Path: info.Path,
	})
	if decision == authorizer.DecisionAllow {
		return nil
	}
	if err != nil {
		reason = err.Error()
	}
	return apierrors.NewForbidden(corev1.Resource("pods/"+subresource), pod,
		fmt.Errorf("user %q cannot create pods/%s, which streaming needs: %s", u.GetName(), subresource, reason))
}

// upgraded passes the client's upgraded connection on; nothing but an upgrade is served.
func upgraded(location *url.URL, transport http.RoundTripper, responder rest.Responder) *proxy.UpgradeAwareHandler {
	return proxy.NewUpgradeAwareHandler(location, transport, false, true, proxy.NewErrorResponder(responder))
}

// command serves a stream with stdin, stdout and stderr. Today's WebSocket clients (v5.channel.k8s.io) are translated to
// SPDY; older ones and SPDY clients are passed on as they are.
func command(location *url.URL, agent *kubeletclient.Connection, responder rest.Responder, o streamproxy.Options) http.Handler {
	return streamproxy.NewTranslatingHandler(
		upgraded(location, agent.Transport, responder),
		streamproxy.NewStreamTranslatorHandler(location, agent.Transport, 0, o),
		wsstream.IsWebSocketRequestWithStreamCloseProtocol)
}

// Exec serves pods/exec.
type Exec struct{ stream }

// NewExec needs the authorizer to check that WebSocket clients may create pods/exec.
func NewExec(pods PodGetter, nodes Nodes, authz authorizer.Authorizer) *Exec {
	return &Exec{stream{pods, nodes, authz}}
}

var _, _, _ rest.Connecter = (*Exec)(nil), (*Attach)(nil), (*PortForward)(nil)

func (*Exec) New() runtime.Object { return &corev1.PodExecOptions{} }
func (*Exec) NewConnectOptions() (runtime.Object, bool, string) {
	return &corev1.PodExecOptions{}, false, ""
}

func (e *Exec) Connect(ctx context.Context, name string, options runtime.Object, responder rest.Responder) (http.Handler, error) {
	o, ok := options.(*corev1.PodExecOptions)
	if !ok {
		return nil, fmt.Errorf("exec in pod %q: options are a %T", name, options)
	}
	q := streams(o.Stdin, o.Stdout, o.Stderr, o.TTY)
	for _, c := range o.Command {
		q.Add("command", c)
	}
	return e.toContainer(ctx, "exec", name, o.Container, q, responder,
		streamproxy.Options{Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, Tty: o.TTY})
}

// toContainer hands the streams of a subresource to the pod's agent, for one of its containers.
func (s stream) toContainer(ctx context.Context, subresource, name, container string, q url.Values, responder rest.Responder, opts streamproxy.Options) (http.Handler, error) {
	if err := s.mayCreate(ctx, name, subresource); err != nil {
		return nil, err
	}
	pod, err := getPod(ctx, s.pods, name)
	if err != nil {
		return nil, err
	}
	if err := notFinished(pod); err != nil {
		return nil, err
	}
	if container, err = containerOf(pod, container); err != nil {
		return nil, err
	}
	agent, err := onNode(ctx, s.nodes, pod)
	if err != nil {
		return nil, err
	}
	return command(agent.URL(path(subresource, pod, container), q), agent, responder, opts), nil
}

// Attach serves pods/attach.
type Attach struct{ stream }

func NewAttach(pods PodGetter, nodes Nodes, authz authorizer.Authorizer) *Attach {
	return &Attach{stream{pods, nodes, authz}}
}

func (*Attach) New() runtime.Object { return &corev1.PodAttachOptions{} }
func (*Attach) NewConnectOptions() (runtime.Object, bool, string) {
	return &corev1.PodAttachOptions{}, false, ""
}

func (a *Attach) Connect(ctx context.Context, name string, options runtime.Object, responder rest.Responder) (http.Handler, error) {
	o, ok := options.(*corev1.PodAttachOptions)
	if !ok {
		return nil, fmt.Errorf("attach to pod %q: options are a %T", name, options)
	}
	return a.toContainer(ctx, "attach", name, o.Container, streams(o.Stdin, o.Stdout, o.Stderr, o.TTY), responder,
		streamproxy.Options{Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, Tty: o.TTY})
}
