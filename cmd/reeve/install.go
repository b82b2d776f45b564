package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/reevehq/reeve/internal/datadir"
)

const (
	installedProgram = "/usr/local/bin/reeve"
	unitFolder       = "/etc/systemd/system"
	// environmentFile is the administrator's: proxies for pulls, GOMEMLIMIT. install never writes it.
	environmentFile = "/etc/default/reeve"
	// defaultWait is how long install waits for the node: seconds on a PC, minutes on a slow board with an SD card.
	defaultWait = 10 * time.Minute
)

// unitName is the service of a role.
func unitName(role string) string { return "reeve-" + role + ".service" }

var installRoles = []string{"server", "agent"}

func installCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "install server|agent [flags of that command]",
		Short: "Install this program as a systemd service and start it",
		Long: "Install this program as a systemd service, start it, and wait until the node is Ready.\n\n" +
			"It writes two files: the program as " + installedProgram + ", and " + unitFolder + "/reeve-server.service or\n" +
			"reeve-agent.service with the flags given. Everything is checked before anything is written. Packages are not\n" +
			"installed: `reeve doctor` says what is missing.\n\n" +
			"Run it again to upgrade (with the newer program) or to change flags: the service is restarted, pods keep running.\n" +
			"Run again with nothing new it changes nothing. A containerd that runs on the host is used as it is; else reeve\n" +
			"starts one of its own. `reeve uninstall` takes all of it away again, pods, rules and data included.\n\n" +
			"Variables for the service, such as HTTPS_PROXY for pulling images, go into " + environmentFile + ", one NAME=value a\n" +
			"line; it is read at each start.",
		DisableFlagsInUseLine: true,
		Example: "  reeve install server\n" +
			"  reeve install server --tls-san api.example.com --config /etc/reeve.yaml\n" +
			"  reeve install agent --server https://192.0.2.10:6443 --token-file /root/token\n" +
			"  systemctl status reeve-server; journalctl -u reeve-server -f",
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return badConfig(fmt.Errorf("cannot install %q; say reeve install server or reeve install agent", args[0]))
			}
			return badConfig(errors.New("say what to install: reeve install server, or reeve install agent; see reeve install --help"))
		},
	}
	cmd.AddCommand(installRoleCommand("server", "Install control plane and node agent as reeve-server.service",
		"  reeve install server --tls-san api.example.com --proxy-mode nftables"))
	cmd.AddCommand(installRoleCommand("agent", "Install the node agent as reeve-agent.service and join a cluster",
		"  reeve install agent --server https://192.0.2.10:6443 --token-file /root/token\n  reeve install agent --kubeconfig /root/bootstrap.kubeconfig"))
	return cmd
}

func installRoleCommand(role, short, example string) *cobra.Command {
	in := &installation{role: role, program: installedProgram, units: unitFolder}
	cmd := &cobra.Command{
		Use: role + " [--wait duration] [flags of reeve " + role + "]", DisableFlagsInUseLine: true, Short: short, Args: cobra.NoArgs, Example: example,
		Long: short + ", and wait until it is ready.\n`reeve install --help` says what is written where. All flags but --wait are those of `reeve " + role + "`.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			in.out = cmd.OutOrStdout()
			return in.run(ctx)
		},
	}
	in.flags = cmd.Flags()
	newRoleFlags(role, in.flags)
	in.flags.DurationVar(&in.wait, "wait", defaultWait, "how long to wait until the node is Ready; 0 does not wait")
	return cmd
}

// roleFlags are the flags of a role as its own command parses them.
type roleFlags struct {
	flags  *pflag.FlagSet
	server *serverOptions // of one of the two
	agent  *agentOptions
}

func newRoleFlags(role string, f *pflag.FlagSet) roleFlags {
	r := roleFlags{flags: f}
	if role == "server" {
		r.server = &serverOptions{}
		r.server.addFlags(f)
	} else {
		r.agent = &agentOptions{}
		r.agent.addFlags(f)
	}
	return r
}

// pathFlags name files. The service runs in another folder than install.
var pathFlags = []string{
	"config", "data-dir", "token-file", "kubeconfig", "etcd-cafile", "etcd-certfile", "etcd-keyfile", "resolv-conf", "static-pods",
	"root-dir", "pod-logs-dir", "registry-hosts-dir", "cni-conf-dir",
}

// serviceArgs are the arguments of the service: the flags that were given, without install's own, paths made absolute. A
// token is left out: it goes into a file that only root can read.
func serviceArgs(given *pflag.FlagSet) (args []string, token string, err error) {
	given.Visit(func(f *pflag.Flag) {
		switch {
		case f.Name == "wait" || f.Name == "help":
			return
		case f.Name == "token":
			token = f.Value.String()
			return
		case slices.Contains(pathFlags, f.Name) && f.Value.String() != "":
			abs, absErr := filepath.Abs(f.Value.String())
			err = errors.Join(err, absErr, f.Value.Set(abs))
		}
		args = append(args, flagArgs(f)...)
	})
	return args, token, err
}

// checkRole refuses what the service would refuse at its start, while nothing has been changed yet. It answers the data-dir.
func checkRole(role string, args []string, token string, portsFree bool) (datadir.Dir, error) {
	r := newRoleFlags(role, pflag.NewFlagSet(role, pflag.ContinueOnError))
	if err := r.flags.Parse(args); err != nil {
		return datadir.Dir{}, err
	}
	if config := r.flags.Lookup("config").Value.String(); config != "" {
		if err := loadConfigFile(r.flags, config); err != nil {
			return datadir.Dir{}, err
		}
	}
	dataDir, logs, node := "", logOptions{}, (*nodeOptions)(nil)
	if r.server != nil {
		dataDir, logs, node = r.server.DataDir, r.server.Log, &r.server.Node
	} else {
		dataDir, logs, node = r.agent.DataDir, r.agent.Log, &r.agent.Node
	}
	if _, err := logs.logger(); err != nil {
		return datadir.Dir{}, err
	}
	if err := needClock(time.Now()); err != nil {
		return datadir.Dir{}, err
	}
	dir, err := datadir.Open(dataDir)
	if err != nil {
		return datadir.Dir{}, err
	}
	if r.agent != nil {
		if token != "" {
			r.agent.Token = token
		}
		err = r.agent.complete(dir)
	} else {
		err = node.complete(dir.Agent())
	}
	if err != nil {
		return dir, err
	}
	if portsFree && (r.server == nil || !r.server.DisableAgent) {
		err = agentPreflight(node)
	}
	if portsFree && r.server != nil {
		err = errors.Join(err, needPort("--https-listen-port", hostPort(r.server.BindAddress, r.server.Port)))
	}
	return dir, err
}
