package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/reevehq/reeve/agent/podconfig"
	"github.com/reevehq/reeve/agent/server"
	"github.com/reevehq/reeve/internal/logkey"
)

// Run serves as this node's kubelet until ctx ends, then leaves every pod running and returns nil once all its loops
// have stopped. It returns an error at once when cfg is unusable, and when a port is taken.
func Run(ctx context.Context, cfg Config) error {
	cfg.SetDefaults()
	if err := cfg.Validate(); err != nil {
		return fmt.Errorf("use agent configuration: %w", err)
	}
	for _, d := range []string{cfg.RootDir, filepath.Join(cfg.RootDir, "pods"), cfg.StateDir} {
		if err := os.MkdirAll(d, 0o750); err != nil {
			return fmt.Errorf("make agent folder: %w", err)
		}
	}
	if p := cfg.StaticPodPath; p != "" && filepath.Ext(p) == "" {
		// A folder that is there from the start can be watched from the start.
		if err := os.MkdirAll(p, 0o755); err != nil {
			return fmt.Errorf("make staticPodPath: %w", err)
		}
	}
	if err := os.MkdirAll(cfg.PodLogsDir, 0o755); err != nil {
		return fmt.Errorf("make podLogsDir: %w", err)
	}
	a, err := assemble(ctx, &cfg)
	if err != nil {
		return err
	}
	return a.run(ctx)
}

// synced runs once every source has told what it has: what nobody asked for may now go.
func (a *agent) synced(ctx context.Context) {
	if a.mirrors != nil {
		a.mirrors.Synced()
	}
	uids, err := a.pleg.Relist(ctx)
	if err != nil {
		a.log.Warn("Failed to look for orphaned pods", logkey.Err, err)
		return
	}
	known := a.pods.all()
	set := make(map[types.UID]bool, len(known))
	for _, p := range known {
		set[p.UID] = true
	}
	for _, uid := range uids {
		if !set[uid] && !a.pool.Has(uid) {
			a.pods.orphan(uid)
		}
	}
	a.gc.Kick()
}

func (a *agent) run(ctx context.Context) error {
	defer a.volumes.Close()
	defer a.probes.Close()
	defer a.events.stop()
	if a.objects != nil {
		defer a.objects.Close()
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	loop := func(name string, f func(ctx context.Context) error) {
		wg.Go(func() {
			if err := f(ctx); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	srv, err := a.serverConfig()
	if err != nil {
		return err
	}
	a.events.node(a.cfg.NodeName, v1.EventTypeNormal, "Starting", "Starting kubelet.")
	loop("pleg", a.pleg.Run)
	loop("node", a.node.Run)
	loop("server", func(ctx context.Context) error { return server.Run(ctx, srv) })
	loop("probe checkpoint", a.saver.run)
	loop("allocation checkpoint", a.alloc.run)
	loop("image back-off checkpoint", a.pulls.run)
	loop("gc", a.gc.Run)
	a.gauge.open()
	loop("memory watch", a.gauge.run)
	loop("eviction", a.evict.Run)
	loop("troubles", a.pods.watchTroubles)
	loop("serving certificate", a.certs.run)
	if a.writer != nil {
		loop("status", a.writer.Run)
		loop("mirror", a.mirrors.Run)
		loop("services", func(ctx context.Context) error { a.services.run(ctx); return nil })
		loop("pods from the API", func(ctx context.Context) error {
			return podconfig.RunAPI(ctx, a.cfg.Client, a.cfg.NodeName, a.pods)
		})
	}
	if a.cfg.StaticPodPath != "" {
		static := &podconfig.Static{Path: a.cfg.StaticPodPath, Node: a.cfg.NodeName, To: a.pods, Logger: a.log}
		loop("static pods", static.Run)
	}
	loop("pods", a.pool.Run)
	wg.Wait()
	if err := context.Cause(ctx); err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

func (a *agent) serverConfig() (server.Config, error) {
	cfg := a.cfg
	sc := server.Config{
		NodeName: cfg.NodeName, GetCertificate: a.certs.get, Client: cfg.Client, Pods: a.pods, Runtime: cfg.Runtime, Stats: a.stats,
		Metrics: a.registry, ProbeMetrics: a.probeReg, CadvisorMetrics: a.stats.Cadvisor(), KubeletConfig: configz(cfg), SyncLoop: a.pleg.Healthy, Logger: a.log,
		LogDir:    filepath.Dir(cfg.PodLogsDir),
		Anonymous: cfg.AnonymousAuth, NoTokens: cfg.NoTokenAuth, AlwaysAllow: cfg.AlwaysAllow,
		NoDebugging: cfg.NoDebuggingHandlers, NoSystemLogs: cfg.NoSystemLogHandler, NoProfiling: cfg.NoProfilingHandler,
		TLSMinVersion: cfg.TLSMinVersion, TLSCipherSuites: cfg.TLSCipherSuites, TLSCurvePreferences: cfg.TLSCurvePreferences,
	}
	if cfg.Port > 0 {
		host := ""
		if cfg.Address.IsValid() {
			host = cfg.Address.String()
		}
		sc.Address = net.JoinHostPort(host, strconv.Itoa(cfg.Port))
	}
	if cfg.HealthzPort > 0 {
		sc.HealthzAddress = net.JoinHostPort(cfg.HealthzBindAddress.String(), strconv.Itoa(cfg.HealthzPort))
	}
	if cfg.ClientCAFile != "" {
		pool, err := server.FilePool(cfg.ClientCAFile)
		if err != nil {
			return sc, fmt.Errorf("use clientCAFile: %w", err)
		}
		sc.ClientCAs = pool
	}
	return sc, nil
}

// resolvConf returns the node's own resolver configuration: what was given, else systemd-resolved's real one where
// /etc/resolv.conf is its stub, which a pod cannot reach.
func resolvConf(given string) string {
	const stub, real = "/run/systemd/resolve/stub-resolv.conf", "/run/systemd/resolve/resolv.conf"
	if given != "" {
		return given
	}
	if to, err := filepath.EvalSymlinks("/etc/resolv.conf"); err == nil && to == stub {
		if _, err := os.Stat(real); err == nil {
			return real
		}
	}
	return "/etc/resolv.conf"
}
