package controlplane

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"k8s.io/apiserver/pkg/admission/plugin/resourcequota"
	"k8s.io/client-go/kubernetes"

	"github.com/reevehq/reeve/controlplane/bootstrap"
	"github.com/reevehq/reeve/controlplane/etcd"
	"github.com/reevehq/reeve/controlplane/pki"
	"github.com/reevehq/reeve/controlplane/server"
)

const (
	// renewEvery is how often certificates are looked at while running.
	renewEvery = 12 * time.Hour
	// kubeconfigName is the name of cluster, context and user in admin.kubeconfig.
	kubeconfigName = "reeve"
)

// Run runs the whole control plane until ctx ends and everything has stopped: etcd, the API server, then, over the
// loopback connection, scheduler and controllers. An error names what failed; nothing is left running.
func Run(ctx context.Context, c Config) error {
	if err := c.complete(); err != nil {
		return &ConfigError{err}
	}
	tuneMemory()
	bridgeKlog(c.Logger)

	serverDir := filepath.Join(c.DataDir, "server")
	if err := os.MkdirAll(serverDir, 0o700); err != nil {
		return fmt.Errorf("create folder %q: %w", serverDir, err)
	}
	// The port first: a second server on one host should say so, and not touch the first one's data.
	listener, err := c.listen()
	if err != nil {
		return &ConfigError{err}
	}
	defer listener.Close()

	keys, err := c.ensureKeys(serverDir)
	if err != nil {
		return err
	}
	store := server.Etcd{Servers: c.EtcdServers, CAFile: c.EtcdCAFile, CertFile: c.EtcdCertFile, KeyFile: c.EtcdKeyFile}
	var storeFailed <-chan error
	if len(store.Servers) == 0 {
		embedded, err := etcd.Start(ctx, etcd.Config{Dir: filepath.Join(serverDir, "etcd"), Logger: c.Logger})
		if err != nil {
			return err
		}
		defer embedded.Stop()
		store.Servers = embedded.Endpoints()
		storeFailed = embedded.Err()
	}

	api, err := server.New(server.Config{
		Logger: c.Logger, Listener: listener, AdvertiseIP: c.AdvertiseIP, PKI: keys, Etcd: store,
		ServiceCIDRs: []netip.Prefix{c.ServiceCIDR}, NodePorts: c.NodePorts, Issuer: c.Issuer, ClusterDomain: c.ClusterDomain,
		EnableAdmission: c.EnableAdmissionPlugins, DisableAdmission: c.disabledAdmission(),
	})
	if err != nil {
		return err
	}
	return c.serve(ctx, api, keys, serverDir, storeFailed)
}

func (c *Config) listen() (net.Listener, error) {
	if c.Listener != nil {
		return c.Listener, nil
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(c.BindAddress.String(), strconv.Itoa(c.Port)))
	if err != nil {
		return nil, fmt.Errorf("listen for the API: %w: choose another --https-listen-port or stop what uses it", err)
	}
	return listener, nil
}

// serve runs the API server and, when it is ready, everything that works through it. The parts end before the server
// does, and the server before etcd.
func (c *Config) serve(ctx context.Context, api *server.Server, keys *pki.PKI, serverDir string, storeFailed <-chan error) error {
	serverCtx, stopServer := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServer()
	served := make(chan error, 1)
	go func() { served <- api.Run(serverCtx) }()

	partsCtx, stopParts := context.WithCancelCause(ctx)
	defer stopParts(nil)
	parts := make(chan error, 1)
	go func() { parts <- c.runParts(partsCtx, api, keys, serverDir) }()

	var err error
	select {
	case err = <-served:
		// Cannot serve, or stopped by itself: the parts have nothing to talk to.
		stopParts(errors.New("API server has stopped"))
		<-parts
		return err
	case err = <-parts:
	case cause, ok := <-storeFailed:
		if ok {
			err = fmt.Errorf("etcd has stopped: %w", cause)
		}
		stopParts(err)
		<-parts
	}
	stopServer()
	if ctx.Err() != nil && err != nil && errors.Is(err, ctx.Err()) {
		err = nil // told to stop, and did
	}
	return errors.Join(err, <-served)
}

// runParts waits for the API, makes the bootstrap objects and runs scheduler, controllers and certificate renewal.
func (c *Config) runParts(ctx context.Context, api *server.Server, keys *pki.PKI, serverDir string) error {
	select {
	case <-api.Ready():
	case <-ctx.Done():
		return ctx.Err()
	}
	client, err := kubernetes.NewForConfig(api.Loopback())
	if err != nil {
		return fmt.Errorf("make loopback client: %w", err)
	}
	if err := bootstrap.Run(ctx, bootstrap.Config{
		Client: client, Logger: c.Logger, PKI: keys, AdvertiseIP: c.AdvertiseIP, Port: c.Port, ServerURL: c.serverURL(c.AdvertiseIP),
		ServiceCIDRs: []netip.Prefix{c.ServiceCIDR}, ClusterDNS: c.ClusterDNS, TokenFile: filepath.Join(serverDir, "node-token"),
	}); err != nil {
		return err
	}
	if c.AdvertiseIP.IsLoopback() {
		c.Logger.Warn("Advertised a loopback address: pods and other nodes cannot reach the API", "address", c.AdvertiseIP.String())
	}
	c.Logger.Info("Control plane is ready", "address", c.serverURL(c.AdvertiseIP))
	if c.OnReady != nil {
		c.OnReady()
	}
	return c.runLoops(ctx, api, keys)
}

// disabledAdmission are the plugins to leave out. A quota refuses what it would count until a controller has counted what
// is there, so it is on only where the controllers run, or where it is asked for.
func (c *Config) disabledAdmission() []string {
	if c.DisableControllers && !slices.Contains(c.EnableAdmissionPlugins, resourcequota.PluginName) {
		return append(slices.Clone(c.DisableAdmissions), resourcequota.PluginName)
	}
	return c.DisableAdmissions
}

// runLoops runs everything that watches the API, each in its own goroutine, until ctx ends or one fails.
func (c *Config) runLoops(ctx context.Context, api *server.Server, keys *pki.PKI) error {
	loops, err := c.loops(api, keys)
	if err != nil {
		return err
	}
	loops["memory return"] = returnMemory
	loops["certificate renewal"] = func(ctx context.Context) error { return c.renew(ctx) }
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	type end struct {
		name string
		err  error
	}
	ended := make(chan end, len(loops))
	for name, run := range loops {
		go func() { ended <- end{name, run(ctx)} }()
	}
	var errs []error
	for range loops {
		e := <-ended
		if ctx.Err() == nil {
			if e.err == nil {
				e.err = errors.New("ended by itself")
			}
			errs = append(errs, fmt.Errorf("run %s: %w", e.name, e.err))
		}
		stop()
	}
	return errors.Join(errs...)
}

func (c *Config) ensureKeys(serverDir string) (*pki.PKI, error) {
	config := pki.Config{
		Dir: filepath.Join(serverDir, "pki"), Addresses: []netip.Addr{c.AdvertiseIP, c.BindAddress, c.ServiceCIDR.Addr().Next()},
		ClusterDomain: c.ClusterDomain,
	}
	if name, err := os.Hostname(); err == nil {
		config.Names = append(config.Names, name)
	}
	for _, name := range c.TLSNames {
		if ip, err := netip.ParseAddr(name); err == nil {
			config.Addresses = append(config.Addresses, ip)
		} else {
			config.Names = append(config.Names, name)
		}
	}
	keys, err := pki.Ensure(config)
	if err != nil {
		return nil, err
	}
	local := netip.MustParseAddr("127.0.0.1")
	if !c.BindAddress.IsUnspecified() {
		local = c.BindAddress
	}
	return keys, keys.WriteKubeconfig(filepath.Join(c.DataDir, "admin.kubeconfig"), c.serverURL(local), kubeconfigName, keys.Admin)
}

func (c *Config) serverURL(ip netip.Addr) string {
	return "https://" + net.JoinHostPort(ip.String(), strconv.Itoa(c.Port))
}

// renew renews certificates that near their end while the process runs. The server reads its files again by itself.
func (c *Config) renew(ctx context.Context) error {
	ticker := time.NewTicker(renewEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		if _, err := c.ensureKeys(filepath.Join(c.DataDir, "server")); err != nil {
			c.Logger.Error("Could not renew certificates", "err", err)
		}
	}
}
