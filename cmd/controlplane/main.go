// Command controlplane is the bundled control plane as a process of its own: etcd, API server, scheduler and
// controllers. `reeve server` starts it; it can also be run by hand.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	utilnet "k8s.io/apimachinery/pkg/util/net"

	"github.com/reevehq/reeve/controlplane"
	"github.com/reevehq/reeve/internal/datadir"
	"github.com/reevehq/reeve/internal/supervise"
	"github.com/reevehq/reeve/systemd"
)

// exitConfig is sysexits.h's EX_CONFIG: the user has to mend something, starting again would not help.
const exitConfig = 78

func main() {
	ctx, release := supervise.WithLifeline(context.Background())
	defer release()
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := command().ExecuteContext(ctx)
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "reeve-controlplane: "+strings.ReplaceAll(err.Error(), "\n", "; "))
	if errors.As(err, new(*controlplane.ConfigError)) || errors.Is(err, datadir.ErrHeld) || errors.Is(err, syscall.EADDRINUSE) {
		os.Exit(exitConfig)
	}
	os.Exit(1)
}

func command() *cobra.Command {
	c := controlplane.Config{}
	var level slog.Level
	var format string
	nodePorts := utilnet.PortRange{Base: 30000, Size: 2768}
	cmd := &cobra.Command{
		Use:           "reeve-controlplane",
		Short:         "Run etcd, API server, scheduler and controllers in one process",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			options := &slog.HandlerOptions{Level: level}
			switch format {
			case "text":
				c.Logger = slog.New(slog.NewTextHandler(os.Stderr, options))
			case "json":
				c.Logger = slog.New(slog.NewJSONHandler(os.Stderr, options))
			default:
				return &controlplane.ConfigError{Err: fmt.Errorf("--log-format %q is unknown; use text or json", format)}
			}
			c.NodePorts = nodePorts
			// The API server's library would report readiness before the bootstrap objects exist.
			socket := os.Getenv("NOTIFY_SOCKET")
			os.Unsetenv("NOTIFY_SOCKET")
			c.OnReady = func() {
				supervise.NotifyReady()
				os.Setenv("NOTIFY_SOCKET", socket)
				systemd.NewNotifier(c.Logger).Ready("control plane is ready")
			}
			dir, err := datadir.Open(c.DataDir)
			if err != nil {
				return &controlplane.ConfigError{Err: err}
			}
			release, err := dir.Hold("controlplane")
			if err != nil {
				return err
			}
			defer release()
			return controlplane.Run(cmd.Context(), c)
		},
	}
	f := cmd.Flags()
	f.StringVar(&c.DataDir, "data-dir", "/var/lib/reeve", "folder of all state")
	f.TextVar(&c.BindAddress, "bind-address", netip.IPv4Unspecified(), "address to listen on")
	f.IntVar(&c.Port, "https-listen-port", controlplane.DefaultPort, "port to listen on")
	f.TextVar(&c.AdvertiseIP, "advertise-address", netip.Addr{}, "address that nodes and pods reach the API by (default: the one of the default route)")
	f.StringSliceVar(&c.TLSNames, "tls-san", nil, "further host names and addresses of the API")
	f.TextVar(&c.ServiceCIDR, "service-cluster-ip-range", netip.MustParsePrefix("10.96.0.0/16"), "range of ClusterIPs")
	f.TextVar(&c.PodCIDR, "cluster-cidr", netip.MustParsePrefix("10.244.0.0/16"), "range of pod addresses, a /24 a node")
	f.Var(&nodePorts, "service-node-port-range", "range of node ports")
	f.TextVar(&c.ClusterDNS, "cluster-dns", netip.Addr{}, "address of the cluster DNS (default: the tenth of the service range)")
	f.StringVar(&c.ClusterDomain, "cluster-domain", controlplane.DefaultClusterDomain, "domain of the cluster")
	f.StringVar(&c.Issuer, "service-account-issuer", "", "issuer of service-account tokens (default https://kubernetes.default.svc.<domain>)")
	f.StringSliceVar(&c.EtcdServers, "etcd-servers", nil, "external etcd (default: an embedded one)")
	f.StringVar(&c.EtcdCAFile, "etcd-cafile", "", "authority of the external etcd")
	f.StringVar(&c.EtcdCertFile, "etcd-certfile", "", "client certificate for the external etcd")
	f.StringVar(&c.EtcdKeyFile, "etcd-keyfile", "", "key of the client certificate for the external etcd")
	f.StringSliceVar(&c.EnableAdmissionPlugins, "enable-admission-plugins", nil, "admission plugins to add")
	f.StringSliceVar(&c.DisableAdmissions, "disable-admission-plugins", nil, "admission plugins to leave out")
	f.DurationVar(&c.SigningDuration, "cluster-signing-duration", 365*24*time.Hour, "how long certificates that are signed for nodes and users hold, at most")
	f.StringVar(&c.LocalNode, "local-node", "", "name of the node on this host, which alone may serve under the API's addresses")
	f.BoolVar(&c.DisableScheduler, "disable-scheduler", false, "do not run the scheduler")
	f.BoolVar(&c.DisableControllers, "disable-controllers", false, "do not run the controllers")
	f.TextVar(&level, "log-level", slog.LevelInfo, "debug, info, warn or error")
	f.StringVar(&format, "log-format", "text", "text or json")
	return cmd
}
