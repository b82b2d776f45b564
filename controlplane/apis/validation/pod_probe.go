package validation

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func probes(r *report, p *field.Path, c *corev1.Container, s *podScope) {
	if c.LivenessProbe != nil {
		at := p.Child("livenessProbe")
		probe(r, at, c.LivenessProbe, s)
		onlyOneSuccess(r, at, c.LivenessProbe)
	}
	if c.StartupProbe != nil {
		at := p.Child("startupProbe")
		probe(r, at, c.StartupProbe, s)
		onlyOneSuccess(r, at, c.StartupProbe)
	}
	if c.ReadinessProbe != nil {
		at := p.Child("readinessProbe")
		probe(r, at, c.ReadinessProbe, s)
		if t := c.ReadinessProbe.TerminationGracePeriodSeconds; t != nil {
			// A container is never stopped for not being ready.
			r.invalid(at.Child("terminationGracePeriodSeconds"), *t, "must not be set for readinessProbes")
		}
	}
}

func onlyOneSuccess(r *report, p *field.Path, probe *corev1.Probe) {
	if probe.SuccessThreshold != 1 {
		r.invalid(p.Child("successThreshold"), probe.SuccessThreshold, "must be 1")
	}
}

func probe(r *report, p *field.Path, probe *corev1.Probe, s *podScope) {
	h := &probe.ProbeHandler
	handlers(r, p, handlerSet{exec: h.Exec, httpGet: h.HTTPGet, tcp: h.TCPSocket, grpc: h.GRPC}, s)
	r.nonNegative(p.Child("initialDelaySeconds"), int64(probe.InitialDelaySeconds))
	r.nonNegative(p.Child("timeoutSeconds"), int64(probe.TimeoutSeconds))
	r.nonNegative(p.Child("periodSeconds"), int64(probe.PeriodSeconds))
	r.nonNegative(p.Child("successThreshold"), int64(probe.SuccessThreshold))
	r.nonNegative(p.Child("failureThreshold"), int64(probe.FailureThreshold))
	if t := probe.TerminationGracePeriodSeconds; t != nil && *t <= 0 {
		r.invalid(p.Child("terminationGracePeriodSeconds"), *t, "must be greater than 0")
	}
}

func lifecycle(r *report, p *field.Path, l *corev1.Lifecycle, s *podScope) {
	for name, h := range sorted(map[string]*corev1.LifecycleHandler{"postStart": l.PostStart, "preStop": l.PreStop}) {
		if h != nil {
			handlers(r, p.Child(name), handlerSet{exec: h.Exec, httpGet: h.HTTPGet, tcp: h.TCPSocket, sleep: h.Sleep}, s)
		}
	}
	if l.StopSignal != nil {
		stopSignal(r, p.Child("stopSignal"), *l.StopSignal, s)
	}
}

// windowsSignals are the two that Windows can send.
var windowsSignals = sets.New[corev1.Signal]("SIGTERM", "SIGKILL")

func stopSignal(r *report, p *field.Path, signal corev1.Signal, s *podScope) {
	switch {
	case s.spec.OS == nil || s.spec.OS.Name == "":
		r.forbidden(p, "may not be set for containers with empty `spec.os.name`")
	case s.spec.OS.Name == corev1.Windows && !windowsSignals.Has(signal):
		r.add(field.NotSupported(p, signal, sortedSet(windowsSignals)))
	case s.spec.OS.Name == corev1.Linux && !linuxSignals.Has(signal):
		r.add(field.NotSupported(p, signal, sortedSet(linuxSignals)))
	}
}

// linuxSignals are the names that Linux knows, realtime signals among them.
var linuxSignals = func() sets.Set[corev1.Signal] {
	out := sets.New[corev1.Signal](
		"SIGABRT", "SIGALRM", "SIGBUS", "SIGCHLD", "SIGCLD", "SIGCONT", "SIGFPE", "SIGHUP", "SIGILL", "SIGINT", "SIGIO",
		"SIGIOT", "SIGKILL", "SIGPIPE", "SIGPOLL", "SIGPROF", "SIGPWR", "SIGQUIT", "SIGSEGV", "SIGSTKFLT", "SIGSTOP",
		"SIGSYS", "SIGTERM", "SIGTRAP", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGURG", "SIGUSR1", "SIGUSR2", "SIGVTALRM",
		"SIGWINCH", "SIGXCPU", "SIGXFSZ", "SIGRTMIN", "SIGRTMAX",
	)
	for i := 1; i <= 15; i++ {
		out.Insert(corev1.Signal(fmt.Sprintf("SIGRTMIN+%d", i)))
	}
	for i := 1; i <= 14; i++ {
		out.Insert(corev1.Signal(fmt.Sprintf("SIGRTMAX-%d", i)))
	}
	return out
}()

// handlerSet is the union of what probes and lifecycle hooks can do.
type handlerSet struct {
	exec    *corev1.ExecAction
	httpGet *corev1.HTTPGetAction
	tcp     *corev1.TCPSocketAction
	grpc    *corev1.GRPCAction
	sleep   *corev1.SleepAction
}

// handlers wants exactly one, and checks it.
func handlers(r *report, p *field.Path, h handlerSet, s *podScope) {
	n := 0
	first := func(name string, set bool) bool {
		if !set {
			return false
		}
		n++
		if n > 1 {
			r.forbidden(p.Child(name), "may not specify more than 1 handler type")
			return false
		}
		return true
	}
	if first("exec", h.exec != nil) && len(h.exec.Command) == 0 {
		r.required(p.Child("exec", "command"), "")
	}
	if first("httpGet", h.httpGet != nil) {
		httpGet(r, p.Child("httpGet"), h.httpGet)
	}
	if first("tcpSocket", h.tcp != nil) {
		portNumberOrName(r, p.Child("tcpSocket", "port"), h.tcp.Port)
	}
	if first("grpc", h.grpc != nil) {
		r.each(p.Child("grpc", "port"), h.grpc.Port, validation.IsValidPortNum(int(h.grpc.Port)))
	}
	if first("sleep", h.sleep != nil) && (h.sleep.Seconds < 0 || h.sleep.Seconds > s.gracePeriod()) {
		r.invalid(p.Child("sleep"), h.sleep.Seconds, fmt.Sprintf("must be non-negative and less than terminationGracePeriodSeconds (%d)", s.gracePeriod()))
	}
	if n == 0 {
		r.required(p, "must specify a handler type")
	}
}

func httpGet(r *report, p *field.Path, a *corev1.HTTPGetAction) {
	if a.Path == "" {
		r.required(p.Child("path"), "")
	}
	portNumberOrName(r, p.Child("port"), a.Port)
	oneOf(r, p.Child("scheme"), a.Scheme, true, corev1.URISchemeHTTP, corev1.URISchemeHTTPS)
	for i, h := range a.HTTPHeaders {
		r.each(p.Child("httpHeaders").Index(i).Child("name"), h.Name, validation.IsHTTPHeaderName(h.Name))
	}
}
