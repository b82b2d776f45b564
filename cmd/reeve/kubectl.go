package main

import (
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/reevehq/reeve/internal/datadir"
	"github.com/reevehq/reeve/internal/rolebin"
)

func kubectlCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "kubectl [arguments]",
		Short: "Run kubectl, with this host's admin credential unless another is given",
		// Every argument is kubectl's, --help too.
		DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error {
			return rolebin.Exec(rolebin.Kubectl, args, kubectlEnv(os.Environ(), os.Getenv("HOME"), os.Getenv("KUBECONFIG")))
		},
	}
}

// kubectlEnv points kubectl at this host's admin kubeconfig when the user has neither $KUBECONFIG nor ~/.kube/config and
// the file can be read.
func kubectlEnv(env []string, home, kubeconfig string) []string {
	if kubeconfig != "" {
		return env
	}
	if home != "" {
		if _, err := os.Stat(filepath.Join(home, ".kube", "config")); err == nil {
			return env
		}
	}
	admin := filepath.Join(datadir.Default, "admin.kubeconfig")
	f, err := os.Open(admin)
	if err != nil {
		return env
	}
	f.Close()
	return append(env, "KUBECONFIG="+admin)
}
