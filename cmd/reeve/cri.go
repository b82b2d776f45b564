package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"

	"github.com/reevehq/reeve/internal/datadir"
	"github.com/reevehq/reeve/systemd"
)

func criCommand() *cobra.Command {
	var dataDir, config, podCIDR string
	var logs logOptions
	var o nodeOptions
	cmd := &cobra.Command{
		Use:   "cri",
		Short: "Serve the native runtime alone, as CRI v1 on a unix socket",
		Long: "Serve the native runtime alone, as CRI v1 on a unix socket of mode 0600: for crictl, and for other agents. Stopping\n" +
			"it leaves the pods running; the next start takes them over.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			if config != "" {
				if err := loadConfigFile(cmd.Flags(), config); err != nil {
					return badConfig(err)
				}
			}
			return runCRI(ctx, dataDir, podCIDR, &logs, &o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&dataDir, "data-dir", datadir.Default, "folder of all state")
	f.StringVar(&config, "config", "", "YAML file with this command's flags as keys; the command line wins")
	f.StringVar(&o.CRISocket, "listen", "unix:///run/reeve/cri.sock", "socket to serve on")
	f.StringVar(&podCIDR, "pod-cidr", "10.88.0.0/16", "range of the pods' addresses; for --network=builtin")
	o.addRuntimeFlags(f, networkCNI)
	logs.addFlags(f)
	return cmd
}

// runCRI serves the runtime until ctx ends.
func runCRI(ctx context.Context, dataDir, podCIDR string, logs *logOptions, o *nodeOptions) error {
	log, err := logs.logger()
	if err != nil {
		return badConfig(err)
	}
	if err := needRoot("reeve cri"); err != nil {
		return err
	}
	dir, err := datadir.Open(dataDir)
	if err != nil {
		return badConfig(err)
	}
	o.ClusterCIDR, o.ProxyMode = podCIDR, "none"
	ranges, err := prefixes("--pod-cidr", podCIDR)
	if err != nil {
		return badConfig(err)
	}
	if err := o.completeRuntime(dir.Agent()); err != nil {
		return badConfig(err)
	}
	release, err := takeNode(dir, nil)
	if err != nil {
		return err
	}
	defer release()
	if err := instanceOf(o).write(dir); err != nil {
		return err
	}
	klog.SetSlogLogger(log)
	rt, err := openRuntime(ctx, log, dir, o)
	if err != nil {
		return err
	}
	defer rt.close(log)
	rt.setPodCIDRs(ranges)
	run, runCtx := errgroup.WithContext(ctx)
	rt.run(partsOf(runCtx, run))
	systemd.NewNotifier(log).Ready("serving CRI on " + o.CRISocket)
	return run.Wait()
}
