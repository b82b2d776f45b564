package probes

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// target is what a probe is aimed at.
type target struct {
	pod         *corev1.Pod
	container   *corev1.Container
	containerID string
	ip          string
	userAgent   string
}

// answer is one probe's outcome. warning is a success that deserves an event (a redirect elsewhere).
type answer struct {
	result   Result
	message  string
	warning  bool
	timedOut bool
}

func failure(format string, args ...any) answer {
	return answer{result: Failure, message: fmt.Sprintf(format, args...)}
}

// prober carries one probe out. An error means that no answer was to be had; a container that does not answer is a
// Failure, not an error.
type prober interface {
	probe(ctx context.Context, t target, spec *corev1.Probe, timeout time.Duration) (answer, error)
}

// netProber is the real prober. It is stateless but for a shared HTTP transport that keeps no connection.
type netProber struct {
	exec   func(context.Context, string, []string, time.Duration) (int, []byte, error)
	dialer *net.Dialer
	http   *http.Client
}

func newNetProber(cfg Config) *netProber {
	// Probes at 1 s over many containers leave many closed sockets behind; with SO_LINGER 0 they end by reset and skip
	// TIME_WAIT, so that neither ports nor conntrack entries run out.
	d := &net.Dialer{KeepAlive: -1, Control: func(_, _ string, c syscall.RawConn) error {
		var serr error
		err := c.Control(func(fd uintptr) {
			serr = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 0})
		})
		if err != nil {
			return err
		}
		return serr
	}}
	return &netProber{exec: cfg.Exec, dialer: d, http: newHTTPClient(d)}
}

func (p *netProber) probe(ctx context.Context, t target, spec *corev1.Probe, timeout time.Duration) (answer, error) {
	switch {
	case spec.Exec != nil:
		return p.probeExec(ctx, t, spec.Exec, timeout)
	case spec.HTTPGet != nil:
		return p.probeHTTP(ctx, t, spec.HTTPGet, timeout)
	case spec.TCPSocket != nil:
		return p.probeTCP(ctx, t, spec.TCPSocket, timeout)
	case spec.GRPC != nil:
		return p.probeGRPC(ctx, t, spec.GRPC, timeout)
	}
	return answer{}, fmt.Errorf("probe container %q: the probe names none of exec, httpGet, tcpSocket, grpc", t.container.Name)
}

// hostOf is the host that a network probe names itself, empty for the pod's own address.
func hostOf(spec *corev1.Probe) string {
	switch {
	case spec.HTTPGet != nil:
		return spec.HTTPGet.Host
	case spec.TCPSocket != nil:
		return spec.TCPSocket.Host
	}
	return ""
}

// portOf resolves a port number or the name of one of the container's ports.
func portOf(p intstr.IntOrString, c *corev1.Container) (string, error) {
	port := 0
	switch p.Type {
	case intstr.Int:
		port = p.IntValue()
	case intstr.String:
		for i := range c.Ports {
			if c.Ports[i].Name == p.StrVal {
				port = int(c.Ports[i].ContainerPort)
			}
		}
		if port == 0 {
			n, err := strconv.Atoi(p.StrVal)
			if err != nil {
				return "", fmt.Errorf("probe container %q: port %q is neither a number nor one of the container's port names", c.Name, p.StrVal)
			}
			port = n
		}
	}
	if port < 1 || port > 65535 {
		return "", fmt.Errorf("probe container %q: port %d is outside 1-65535", c.Name, port)
	}
	return strconv.Itoa(port), nil
}
