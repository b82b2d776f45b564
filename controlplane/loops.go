package controlplane

import (
	"context"

	"k8s.io/client-go/rest"

	"github.com/reevehq/reeve/controlplane/pki"
)

// loops are the parts of the control plane that work through the API.
func (c *Config) loops(loopback *rest.Config, keys *pki.PKI) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{}
}
