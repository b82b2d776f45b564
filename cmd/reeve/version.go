package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/reevehq/reeve/internal/version"
)

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "reeve %s (commit %s, built %s, %s %s/%s)\n",
				version.Git(), version.Commit(), version.BuildDate(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}
