package agent

import (
	"os"
	"os/exec"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/reevehq/reeve/tests/node"
)

// responder is the image of tests/agent/responder, what probes and hooks talk to, with a shell beside it. again is its
// name where a test needs another image than busybox.
const (
	responder = "localhost/responder:v1"
	again     = responder
)

func responderImage(n *node.Node) {
	n.T.Helper()
	path, err := exec.LookPath("busybox")
	if err != nil {
		n.T.Fatalf("needs busybox-static: %v", err)
	}
	busybox, err := os.ReadFile(path)
	if err != nil {
		n.T.Fatal(err)
	}
	n.WriteImage(responder, v1.Config{Env: []string{"PATH=/bin"}, Entrypoint: []string{"/bin/responder"}}, []node.Entry{
		{Name: "bin/", Mode: 0o755, Dir: true},
		{Name: "bin/responder", Mode: 0o755, Body: node.GoProgram(n.T, "github.com/reevehq/reeve/tests/agent/responder")},
		{Name: "bin/busybox", Mode: 0o755, Body: busybox},
		{Name: "bin/sh", Mode: 0o777, Link: "busybox"}, {Name: "bin/sleep", Mode: 0o777, Link: "busybox"},
	})
}
