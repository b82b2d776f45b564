package proxy

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"sync/atomic"

	"github.com/reevehq/reeve/internal/logkey"
	"github.com/reevehq/reeve/proxy/plan"
)

// healthChecks serves the health check node ports of Services with external traffic policy Local: load balancers ask
// there whether this node has an endpoint. Owned by the loop.
type healthChecks struct {
	log     *slog.Logger
	health  *health
	events  *events
	servers map[plan.Name]*healthCheck
}

type healthCheck struct {
	port  uint16
	local atomic.Int64
	close func() error
}

func newHealthChecks(log *slog.Logger, h *health, e *events) *healthChecks {
	return &healthChecks{log: log, health: h, events: e, servers: map[plan.Name]*healthCheck{}}
}

// set opens, changes and closes servers as the plans say. A port that is taken is tried again at the next change.
func (c *healthChecks) set(planned map[plan.Name]*plan.Planned) {
	for name, s := range c.servers {
		if p := planned[name]; p == nil || p.Health == nil || p.Health.NodePort != s.port {
			_ = s.close()
			delete(c.servers, name)
		}
	}
	for name, p := range planned {
		if p.Health == nil {
			continue
		}
		s := c.servers[name]
		if s == nil {
			s = &healthCheck{port: p.Health.NodePort}
			closeServer, err := listenHTTP(":"+strconv.Itoa(int(s.port)), c.handler(name, s))
			if err != nil {
				c.log.Warn("Failed to serve a Service's health check node port", logkey.Service, name.String(), logkey.Err, err)
				c.events.service(name, "FailedToStartServiceHealthcheck", err.Error())
				continue
			}
			s.close = closeServer
			c.servers[name] = s
		}
		s.local.Store(int64(p.Health.LocalEndpoints))
	}
}

func (c *healthChecks) handler(name plan.Name, s *healthCheck) http.Handler {
	type service struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	}
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		ok, _ := c.health.healthy()
		local := s.local.Load()
		code := http.StatusOK
		if local == 0 || !ok {
			code = http.StatusServiceUnavailable
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.FormatInt(local, 10))
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(struct {
			Service             service `json:"service"`
			LocalEndpoints      int64   `json:"localEndpoints"`
			ServiceProxyHealthy bool    `json:"serviceProxyHealthy"`
		}{service{name.Namespace, name.Name}, local, ok})
	})
}

func (c *healthChecks) close() error {
	var errs []error
	for _, s := range c.servers {
		errs = append(errs, s.close())
	}
	return errors.Join(errs...)
}
