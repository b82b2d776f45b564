// Command reeve is a Kubernetes node agent for containerd with the control plane that it registers with: one program,
// whose roles are processes of their own. This package turns flags and configuration files into the configuration of a
// role and runs it; it decides nothing that a role could decide.
package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/reevehq/reeve/internal/version"
)

// Exit codes. exitConfig follows sysexits.h's EX_CONFIG: starting again with the same input is not likely to help, so the
// supervisor does not, and install tells it at once. systemd does: a clock may be set, or an address come, later.
const (
	exitFailure = 1
	exitConfig  = 78
)

// configError marks an error that the user has to mend before another start can work.
type configError struct{ error }

func (e configError) Unwrap() error { return e.error }

// badConfig wraps err as one; nil stays nil.
func badConfig(err error) error {
	if err == nil {
		return nil
	}
	return configError{err}
}

func main() {
	root := commandFor(startedAs())
	if err := root.Execute(); err != nil {
		// One line that names the thing and the fix.
		fmt.Fprintln(os.Stderr, root.Name()+": "+strings.ReplaceAll(err.Error(), "\n", "; "))
		if code := exitCode(0); errors.As(err, &code) {
			os.Exit(int(code))
		}
		if errors.As(err, new(configError)) {
			os.Exit(exitConfig)
		}
		os.Exit(exitFailure)
	}
}

// commandFor is the program that stands behind a name: reeve, or one of upstream's that it stands in for.
func commandFor(name string) *cobra.Command {
	switch name {
	case "kubelet":
		return kubeletCommand()
	case "kube-proxy":
		return kubeProxyCommand()
	}
	return rootCommand()
}

// exitCode is an error that only carries the code to end with.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("ended with exit code %d", int(c)) }

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "reeve",
		Short:         "A Kubernetes node agent for containerd, with the control plane it registers with",
		Version:       version.Git(),
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return badConfig(fmt.Errorf("%w; see %s --help", err, cmd.CommandPath()))
	})
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(serverCommand(), agentCommand(), criCommand(), kubectlCommand(), tokenCommand(), cleanupCommand(),
		proxyCommand(), installCommand(), uninstallCommand(), doctorCommand(), versionCommand())
	return root
}
