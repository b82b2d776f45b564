package server

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/pprof"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/reevehq/reeve/internal/logkey"
)

// api is the handlers' shared state.
type api struct {
	cfg   Config
	authn *authenticator
	authz *authorizer
}

// Handler is all of :10250 as a handler; requests pass authentication and authorization first. ctx bounds the clean-up
// of its caches.
func Handler(ctx context.Context, cfg Config) http.Handler {
	a := &api{cfg: cfg, authn: newAuthenticator(cfg), authz: newAuthorizer(cfg)}
	mux := http.NewServeMux()
	addHealthz(mux.HandleFunc, cfg.SyncLoop)
	mux.HandleFunc("GET /pods", a.pods)
	mux.HandleFunc("GET /pods/", a.pods)
	a.debugging(mux)
	if cfg.Stats != nil {
		mux.HandleFunc("GET /stats/summary", a.summary)
		mux.Handle("GET /metrics/resource", promHandler(resourceGatherer(cfg.Stats)))
	}
	for path, g := range map[string]prometheus.Gatherer{"/metrics": cfg.Metrics, "/metrics/probes": cfg.ProbeMetrics, "/metrics/cadvisor": cfg.CadvisorMetrics} {
		if g != nil {
			mux.Handle("GET "+path, promHandler(g))
		}
	}
	return a.guard(mux)
}

// debugging adds what enableDebuggingHandlers, enableSystemLogHandler and enableProfilingHandler are about; what is turned
// off answers 405, as kubelet.
func (a *api) debugging(mux *http.ServeMux) {
	off := func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "Debug endpoints are disabled.", http.StatusMethodNotAllowed)
	}
	if a.cfg.NoDebugging {
		for _, p := range []string{"/runningpods/", "/containerLogs/", "/exec/", "/attach/", "/portForward/", "/run/", "/configz", "/logs/", "/debug/pprof/"} {
			mux.HandleFunc(p, off)
		}
		return
	}
	mux.HandleFunc("GET /runningpods", a.runningPods)
	mux.HandleFunc("GET /runningpods/", a.runningPods)
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", a.containerLogs)
	for _, m := range []string{"GET", "POST"} {
		mux.HandleFunc(m+" /exec/{namespace}/{pod}/{container}", a.exec)
		mux.HandleFunc(m+" /exec/{namespace}/{pod}/{uid}/{container}", a.exec)
		mux.HandleFunc(m+" /attach/{namespace}/{pod}/{container}", a.attach)
		mux.HandleFunc(m+" /attach/{namespace}/{pod}/{uid}/{container}", a.attach)
		mux.HandleFunc(m+" /portForward/{namespace}/{pod}", a.portForward)
		mux.HandleFunc(m+" /portForward/{namespace}/{pod}/{uid}", a.portForward)
	}
	mux.HandleFunc("POST /run/{namespace}/{pod}/{container}", a.run)
	mux.HandleFunc("POST /run/{namespace}/{pod}/{uid}/{container}", a.run)
	mux.HandleFunc("GET /configz", a.configz)
	if a.cfg.NoSystemLogs {
		mux.HandleFunc("/logs/", off)
	} else {
		mux.Handle("GET /logs/", http.StripPrefix("/logs/", http.FileServer(http.Dir(a.cfg.LogDir))))
	}
	if a.cfg.NoProfiling {
		mux.HandleFunc("/debug/pprof/", off)
		return
	}
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
}

// guard lets a request pass once it is known who asks and that they may.
func (a *api) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, err := a.authn.authenticate(r)
		if err != nil {
			a.cfg.Logger.Debug("Refused unauthenticated request", "remote", r.RemoteAddr, logkey.Path, r.URL.Path, logkey.Err, err)
			http.Error(w, "Unauthorized", http.StatusUnauthorized)
			return
		}
		attrs := attributes(r.Method, r.URL.Path)
		allowed, reason, err := a.authz.authorize(r.Context(), user, attrs)
		if err != nil {
			a.cfg.Logger.Warn("Request could not be authorized", "user", user.Name, logkey.Path, r.URL.Path, logkey.Err, err)
			http.Error(w, "Authorization error", http.StatusInternalServerError)
			return
		}
		if !allowed {
			http.Error(w, forbidden(user, attrs, a.cfg.NodeName, reason), http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func addHealthz(handle func(string, func(http.ResponseWriter, *http.Request)), syncLoop func() error) {
	ok := func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok")) }
	check := func(w http.ResponseWriter, _ *http.Request) {
		if syncLoop != nil {
			if err := syncLoop(); err != nil {
				http.Error(w, "[-]syncloop failed: "+err.Error(), http.StatusInternalServerError)
				return
			}
		}
		_, _ = w.Write([]byte("ok"))
	}
	handle("GET /healthz", check)
	handle("GET /healthz/ping", ok)
	handle("GET /healthz/log", ok)
	handle("GET /healthz/syncloop", check)
}

func promHandler(g prometheus.Gatherer) http.Handler {
	return promhttp.HandlerFor(g, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})
}

func (a *api) pods(w http.ResponseWriter, _ *http.Request) {
	writePods(w, a.cfg.Pods.List())
}

func (a *api) runningPods(w http.ResponseWriter, r *http.Request) {
	pods, err := a.cfg.Pods.Running(r.Context())
	if err != nil {
		writeError(w, err)
		return
	}
	writePods(w, pods)
}

func writePods(w http.ResponseWriter, pods []*corev1.Pod) {
	list := corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, Items: make([]corev1.Pod, 0, len(pods))}
	for _, p := range pods {
		list.Items = append(list.Items, *p)
	}
	writeJSON(w, list)
}

func (a *api) configz(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, map[string]any{"kubeletconfig": a.cfg.KubeletConfig})
}

func (a *api) summary(w http.ResponseWriter, r *http.Request) {
	s, err := a.cfg.Stats.Summary(r.Context(), isOne(r.URL.Query().Get("only_cpu_and_memory")))
	if err != nil {
		writeError(w, err)
		return
	}
	writeJSON(w, s)
}

func writeJSON(w http.ResponseWriter, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(data)
}

// writeError answers err with the HTTP status that it carries, or 500.
func writeError(w http.ResponseWriter, err error) {
	code := http.StatusInternalServerError
	var st apierrors.APIStatus
	if errors.As(err, &st) && st.Status().Code != 0 {
		code = int(st.Status().Code)
	}
	http.Error(w, err.Error(), code)
}

// isOne reads the flags of the kubelet's API: "1" and "true" are true.
func isOne(s string) bool { return s == "1" || strings.EqualFold(s, "true") }
