package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// healthTimeout is how long a change may wait for its rules before the proxy calls itself unhealthy: twice upstream's
// sync period. Tests have less patience.
var healthTimeout = 60 * time.Second

// health is what /healthz and /livez answer.
type health struct {
	metrics  *metrics
	draining func() bool

	mu          sync.Mutex
	pendingFrom time.Time // when the oldest change was queued that has no rules yet; zero: none
	lastUpdated time.Time
}

func newHealth(m *metrics, draining func() bool) *health {
	return &health{metrics: m, draining: draining}
}

func (h *health) queued() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.pendingFrom.IsZero() {
		h.pendingFrom = time.Now()
	}
}

func (h *health) updated() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pendingFrom = time.Time{}
	h.lastUpdated = time.Now()
}

// healthy reports that no change has waited too long.
func (h *health) healthy() (bool, time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.pendingFrom.IsZero() || time.Since(h.pendingFrom) < healthTimeout, h.lastUpdated
}

// healthz tells load balancers whether to send traffic here: it fails also on a node that is going away.
func (h *health) healthz(w http.ResponseWriter, _ *http.Request) {
	ok, updated := h.healthy()
	eligible := !h.draining()
	code := answer(w, ok && eligible, updated, &eligible)
	h.metrics.healthz.WithLabelValues(strconv.Itoa(code)).Inc()
}

// livez tells a supervisor whether the proxy works, whatever becomes of the node.
func (h *health) livez(w http.ResponseWriter, _ *http.Request) {
	ok, updated := h.healthy()
	code := answer(w, ok, updated, nil)
	h.metrics.livez.WithLabelValues(strconv.Itoa(code)).Inc()
}

func answer(w http.ResponseWriter, ok bool, updated time.Time, eligible *bool) int {
	now := time.Now()
	if ok && updated.IsZero() {
		updated = now
	}
	body := struct {
		LastUpdated  string `json:"lastUpdated"`
		CurrentTime  string `json:"currentTime"`
		NodeEligible *bool  `json:"nodeEligible,omitempty"`
	}{updated.String(), now.String(), eligible}
	code := http.StatusOK
	if !ok {
		code = http.StatusServiceUnavailable
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body)
	return code
}

const (
	// readTimeout bounds a request: the endpoints are open to the network.
	readTimeout = 10 * time.Second
	// closeTimeout bounds the wait for requests under way at the end.
	closeTimeout = 2 * time.Second
)

// serve opens the two servers and answers what stops them.
func serve(cfg Config, m *metrics, h *health) (stop func() error, err error) {
	var closers []func() error
	stop = func() error {
		var errs []error
		for _, c := range closers {
			errs = append(errs, c())
		}
		return errors.Join(errs...)
	}
	start := func(what, address string, handler http.Handler) error {
		if address == "-" {
			return nil
		}
		c, err := listenHTTP(address, handler)
		if err != nil {
			return fmt.Errorf("serve the proxy's %s: %w", what, err)
		}
		closers = append(closers, c)
		return nil
	}
	healthMux := http.NewServeMux()
	healthMux.HandleFunc("/healthz", h.healthz)
	healthMux.HandleFunc("/livez", h.livez)
	if err := start("health", cfg.HealthzAddress, healthMux); err != nil {
		return nil, err
	}
	metricsMux := http.NewServeMux()
	metricsMux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	metricsMux.HandleFunc("/proxyMode", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		fmt.Fprint(w, string(cfg.Mode))
	})
	metricsMux.Handle("/metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	if cfg.Profiling {
		metricsMux.HandleFunc("GET /debug/pprof/", pprof.Index)
		metricsMux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
		metricsMux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		metricsMux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		metricsMux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	if err := start("metrics", cfg.MetricsAddress, metricsMux); err != nil {
		return nil, errors.Join(err, stop())
	}
	return stop, nil
}

// listenHTTP serves handler until the answered function is called, which waits for the server's goroutine.
func listenHTTP(address string, handler http.Handler) (func() error, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", address, err)
	}
	s := &http.Server{Handler: handler, ReadTimeout: readTimeout, WriteTimeout: 4 * readTimeout, IdleTimeout: 6 * readTimeout}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	return func() error {
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		err := s.Shutdown(ctx)
		if err != nil {
			err = s.Close()
		}
		<-done
		return err
	}, nil
}
