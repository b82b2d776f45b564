package agent

import (
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/reevehq/reeve/tests/node"
)

// responder is the image of tests/agent/responder, what probes and hooks talk to.
const responder = "localhost/responder:v1"

func responderImage(n *node.Node) {
	n.T.Helper()
	n.WriteImage(responder, v1.Config{Entrypoint: []string{"/responder"}}, []node.Entry{
		{Name: "responder", Mode: 0o755, Body: node.GoProgram(n.T, "github.com/reevehq/reeve/tests/agent/responder")},
	})
}
