package server

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/proxy"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// runTimeout bounds a command of /run, which unlike exec has nobody on a stream to stop it.
const runTimeout = 10 * time.Minute

// target resolves the pod and, where the path has one, the container of a streaming request.
func (a *api) target(r *http.Request) (*corev1.Pod, *corev1.ContainerStatus, error) {
	ns, name, container := r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("container")
	pod, ok := a.cfg.Pods.Get(ns, name)
	if !ok || r.PathValue("uid") != "" && pod.UID != types.UID(r.PathValue("uid")) {
		return nil, nil, apierrors.NewNotFound(corev1.Resource("pods"), name)
	}
	if container == "" {
		return pod, nil, nil
	}
	cs := findStatus(pod, container)
	if cs == nil {
		return nil, nil, apierrors.NewNotFound(corev1.Resource("containers"), container)
	}
	return pod, cs, nil
}

// findStatus answers the container's status, an empty one for a container of the spec that has none yet, else nil.
func findStatus(pod *corev1.Pod, name string) *corev1.ContainerStatus {
	for _, list := range [][]corev1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses, pod.Status.EphemeralContainerStatuses} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	known := false
	for i := range pod.Spec.Containers {
		known = known || pod.Spec.Containers[i].Name == name
	}
	for i := range pod.Spec.InitContainers {
		known = known || pod.Spec.InitContainers[i].Name == name
	}
	for i := range pod.Spec.EphemeralContainers {
		known = known || pod.Spec.EphemeralContainers[i].Name == name
	}
	if known {
		return &corev1.ContainerStatus{Name: name}
	}
	return nil
}

func (a *api) running(r *http.Request) (*corev1.Pod, string, error) {
	pod, cs, err := a.target(r)
	if err != nil {
		return nil, "", err
	}
	id := bareID(cs.ContainerID)
	if id == "" || cs.State.Running == nil {
		return nil, "", apierrors.NewBadRequest(fmt.Sprintf("container %q in pod %q is not running", cs.Name, pod.Name))
	}
	return pod, id, nil
}

// bareID cuts "containerd://" off.
func bareID(id string) string {
	if u, err := url.Parse(id); err == nil && u.Scheme != "" {
		return u.Host
	}
	return id
}

func (a *api) exec(w http.ResponseWriter, r *http.Request) {
	_, id, err := a.running(r)
	if err != nil {
		writeError(w, err)
		return
	}
	q := r.URL.Query()
	in, out, errOut, tty := streamFlags(q)
	if len(q["command"]) == 0 {
		writeError(w, apierrors.NewBadRequest("exec needs at least one command parameter"))
		return
	}
	if !in && !out && !errOut {
		writeError(w, apierrors.NewBadRequest("exec needs at least one of stdin, stdout, stderr"))
		return
	}
	res, err := a.cfg.Runtime.Exec(r.Context(), &runtimeapi.ExecRequest{ContainerId: id, Cmd: q["command"], Tty: tty, Stdin: in, Stdout: out, Stderr: errOut && !tty})
	if err != nil {
		writeError(w, fromRuntime(err))
		return
	}
	hand(w, r, res.Url)
}

func (a *api) attach(w http.ResponseWriter, r *http.Request) {
	_, id, err := a.running(r)
	if err != nil {
		writeError(w, err)
		return
	}
	in, out, errOut, tty := streamFlags(r.URL.Query())
	if !in && !out && !errOut {
		writeError(w, apierrors.NewBadRequest("attach needs at least one of stdin, stdout, stderr"))
		return
	}
	res, err := a.cfg.Runtime.Attach(r.Context(), &runtimeapi.AttachRequest{ContainerId: id, Tty: tty, Stdin: in, Stdout: out, Stderr: errOut && !tty})
	if err != nil {
		writeError(w, fromRuntime(err))
		return
	}
	hand(w, r, res.Url)
}

func (a *api) portForward(w http.ResponseWriter, r *http.Request) {
	pod, _, err := a.target(r)
	if err != nil {
		writeError(w, err)
		return
	}
	var ports []int32
	for _, p := range append(r.URL.Query()["port"], r.URL.Query()["ports"]...) {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			writeError(w, apierrors.NewBadRequest(fmt.Sprintf("port %q is not a number within 1-65535", p)))
			return
		}
		ports = append(ports, int32(n))
	}
	id, err := a.cfg.Pods.SandboxID(r.Context(), pod)
	if err != nil {
		writeError(w, err)
		return
	}
	res, err := a.cfg.Runtime.PortForward(r.Context(), &runtimeapi.PortForwardRequest{PodSandboxId: id, Port: ports})
	if err != nil {
		writeError(w, fromRuntime(err))
		return
	}
	hand(w, r, res.Url)
}

// run executes a command and answers its output, without streams.
func (a *api) run(w http.ResponseWriter, r *http.Request) {
	_, id, err := a.running(r)
	if err != nil {
		writeError(w, err)
		return
	}
	cmd := r.URL.Query()["cmd"]
	if len(cmd) == 0 {
		writeError(w, apierrors.NewBadRequest("run needs a cmd parameter"))
		return
	}
	if len(cmd) == 1 {
		cmd = []string{"/bin/sh", "-c", cmd[0]}
	}
	stdout, stderr, err := a.cfg.Runtime.ExecSync(r.Context(), id, cmd, runTimeout)
	if err != nil {
		writeError(w, fromRuntime(err))
		return
	}
	_, _ = w.Write(stdout)
	_, _ = w.Write(stderr)
}

func streamFlags(q url.Values) (in, out, errOut, tty bool) {
	return isOne(q.Get("input")) || isOne(q.Get("stdin")), isOne(q.Get("output")) || isOne(q.Get("stdout")),
		isOne(q.Get("error")) || isOne(q.Get("stderr")), isOne(q.Get("tty"))
}

// hand passes the upgrade, SPDY or WebSocket, on to the runtime's streaming server and copies both ways until one ends.
func hand(w http.ResponseWriter, r *http.Request, to string) {
	u, err := url.Parse(to)
	if err != nil || u.Host == "" {
		writeError(w, fmt.Errorf("the runtime answered %q, which is no streaming URL", to))
		return
	}
	h := proxy.NewUpgradeAwareHandler(u, nil, false, true, responder{})
	h.ServeHTTP(w, r)
}

type responder struct{}

func (responder) Error(w http.ResponseWriter, _ *http.Request, err error) { writeError(w, err) }

// fromRuntime turns a CRI error into one with an HTTP status.
func fromRuntime(err error) error {
	var st apierrors.APIStatus
	if errors.As(err, &st) {
		return err
	}
	s := status.Convert(err)
	switch s.Code() {
	case codes.NotFound:
		e := apierrors.NewNotFound(corev1.Resource("containers"), "")
		e.ErrStatus.Message = s.Message()
		return e
	case codes.InvalidArgument, codes.FailedPrecondition:
		return apierrors.NewBadRequest(s.Message())
	case codes.Unavailable:
		return apierrors.NewServiceUnavailable(s.Message())
	}
	return err
}
