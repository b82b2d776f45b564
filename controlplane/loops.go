package controlplane

import (
	"context"
	"fmt"
	"net/netip"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/reevehq/reeve/controlplane/controllers"
	"github.com/reevehq/reeve/controlplane/pki"
	"github.com/reevehq/reeve/controlplane/scheduler"
	"github.com/reevehq/reeve/controlplane/server"
)

// loops are the parts of the control plane that work through the API. They share the server's informers: each object is
// watched and kept once.
func (c *Config) loops(api *server.Server, keys *pki.PKI) (map[string]func(context.Context) error, error) {
	config := api.Loopback()
	config.UserAgent = "kube-controller-manager"
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make loopback client: %w", err)
	}
	shared := api.Informers()
	out := map[string]func(context.Context) error{}
	if !c.DisableControllers {
		out["controllers"] = func(ctx context.Context) error {
			return controllers.Run(ctx, controllers.Config{
				RESTConfig: jsonOnly(config), Client: client, Informers: shared,
				RootCA: keys.CA.CertPEM, SigningCert: keys.CA.Cert, SigningKey: keys.CA.Key, CertDuration: c.SigningDuration,
				LocalNode: c.LocalNode, ServerNames: keys.Serving.Cert.DNSNames, ServerIPs: keys.Serving.Cert.IPAddresses,
				ClusterCIDRs: []netip.Prefix{c.PodCIDR}, ServiceCIDRs: []netip.Prefix{c.ServiceCIDR},
				Log: c.Logger.With("component", "controllers"),
			})
		}
	}
	if !c.DisableScheduler {
		own := api.Loopback()
		own.UserAgent = "kube-scheduler"
		schedulerClient, err := kubernetes.NewForConfig(own)
		if err != nil {
			return nil, fmt.Errorf("make loopback client: %w", err)
		}
		out["scheduler"] = func(ctx context.Context) error {
			return scheduler.Run(ctx, scheduler.Config{
				Client: schedulerClient, Informers: shared, KubeConfig: own, Log: c.Logger.With("component", "scheduler"),
			})
		}
	}
	return out, nil
}

// jsonOnly is for clients of arbitrary kinds: custom resources have no protobuf form.
func jsonOnly(config *rest.Config) *rest.Config {
	config = rest.CopyConfig(config)
	config.ContentType, config.AcceptContentTypes = "application/json", "application/json"
	return config
}
