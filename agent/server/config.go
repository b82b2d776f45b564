package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// Pods is what the server asks about pods.
type Pods interface {
	// List is every pod that this node is to run, with the agent's own newest status. Read only.
	List() []*corev1.Pod
	// Get finds one of them; mirror pods are found by their static pod's name. Read only.
	Get(namespace, name string) (*corev1.Pod, bool)
	// Running is what the runtime runs, as pods with names, namespace, UID and containers only.
	Running(ctx context.Context) ([]*corev1.Pod, error)
	// SandboxID is the pod's ready sandbox.
	SandboxID(ctx context.Context, pod *corev1.Pod) (string, error)
	// Exited is closed once the container no longer runs; at once for one that does not run or is not known.
	Exited(containerID string) <-chan struct{}
}

// Runtime is the part of CRI that the server uses.
type Runtime interface {
	Exec(ctx context.Context, req *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error)
	Attach(ctx context.Context, req *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error)
	PortForward(ctx context.Context, req *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error)
	ExecSync(ctx context.Context, containerID string, cmd []string, timeout time.Duration) (stdout, stderr []byte, err error)
	ContainerStatus(ctx context.Context, containerID string, verbose bool) (*runtimeapi.ContainerStatusResponse, error)
}

// Stats is what /stats/summary and /metrics/resource show.
type Stats interface {
	Summary(ctx context.Context, onlyCPUAndMemory bool) (*statsapi.Summary, error)
}

// Config is what a server serves. NodeName, Pods, Runtime and GetCertificate are required.
type Config struct {
	NodeName string
	// Address is host:port of the TLS server, empty for none; HealthzAddress that of the plain one, empty for none.
	Address        string
	HealthzAddress string
	// GetCertificate is asked at each handshake, so that a renewed certificate needs no restart; see FileCertificate.
	GetCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// ClientCAs answers the roots for client certificates at each handshake; nil: tokens only. See FilePool.
	ClientCAs func() *x509.CertPool
	// Client does TokenReview and SubjectAccessReview. nil (standalone): only client certificates of system:masters pass,
	// unless AlwaysAllow is set.
	Client kubernetes.Interface
	// Anonymous lets clients without credentials in as system:anonymous; NoTokens refuses bearer tokens; AlwaysAllow
	// authorizes whoever got in.
	Anonymous, NoTokens, AlwaysAllow bool
	// NoDebugging turns exec, attach, port-forward, logs and profiles off, NoSystemLogs /logs/ and NoProfiling profiles
	// alone.
	NoDebugging, NoSystemLogs, NoProfiling bool
	// TLSMinVersion (default TLS 1.2), TLSCipherSuites and TLSCurvePreferences are crypto/tls's.
	TLSMinVersion       uint16
	TLSCipherSuites     []uint16
	TLSCurvePreferences []tls.CurveID

	Pods    Pods
	Runtime Runtime
	Stats   Stats // optional

	// What /metrics, /metrics/probes and /metrics/cadvisor gather; nil leaves the path out.
	Metrics, ProbeMetrics, CadvisorMetrics prometheus.Gatherer
	// KubeletConfig is shown by /configz as "kubeletconfig". Optional.
	KubeletConfig any
	// SyncLoop says why the agent's loops are not healthy, nil when they are. Optional.
	SyncLoop func() error
	// LogDir is served under /logs/ (default /var/log).
	LogDir string
	Logger *slog.Logger
}

func (c *Config) validate() error {
	var errs []error
	need := func(ok bool, field string) {
		if !ok {
			errs = append(errs, fmt.Errorf("%s: required", field))
		}
	}
	need(c.NodeName != "", "nodeName")
	need(c.Pods != nil, "pods")
	need(c.Runtime != nil, "runtime")
	need(c.Address == "" || c.GetCertificate != nil, "getCertificate")
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.LogDir == "" {
		c.LogDir = "/var/log"
	}
	return errors.Join(errs...)
}
