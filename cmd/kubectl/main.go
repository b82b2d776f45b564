// Command kubectl is the real kubectl of the Kubernetes release that reeve speaks. `reeve kubectl` runs it from memory,
// in a process of its own: its package initialisation would cost every other role.
package main

import (
	"os"

	"k8s.io/component-base/cli"
	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"

	// Exec-based and OIDC credentials, as the released kubectl has them.
	_ "k8s.io/client-go/plugin/pkg/client/auth"
)

func main() {
	command := cmd.NewDefaultKubectlCommand()
	if err := cli.RunNoErrOutput(command); err != nil {
		// CheckErr prints as kubectl does and ends with its exit code.
		util.CheckErr(err)
	}
	os.Exit(0)
}
