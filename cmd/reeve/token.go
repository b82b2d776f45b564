package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/reevehq/reeve/internal/datadir"
)

func tokenCommand() *cobra.Command {
	var dataDir string
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Print the token with which other hosts join this server",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := datadir.Open(dataDir)
			if err != nil {
				return badConfig(err)
			}
			token, err := readToken(dir.NodeToken())
			if errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("--data-dir %q has no token: reeve server has not run with it; start it, or give its --data-dir", dataDir)
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), token)
			return err
		},
	}
	cmd.Flags().StringVar(&dataDir, "data-dir", datadir.Default, "the server's folder of all state")
	return cmd
}

func readToken(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read the join token: %w", err)
	}
	token := strings.TrimSpace(string(b))
	if token == "" {
		return "", fmt.Errorf("read the join token: %q is empty", path)
	}
	return token, nil
}
