package controllers

import (
	"github.com/reevehq/reeve/controlplane/controllers/bootstrap"
	"github.com/reevehq/reeve/controlplane/controllers/clusterroleaggregation"
	"github.com/reevehq/reeve/controlplane/controllers/cronjob"
	"github.com/reevehq/reeve/controlplane/controllers/csr"
	"github.com/reevehq/reeve/controlplane/controllers/daemonset"
	"github.com/reevehq/reeve/controlplane/controllers/deployment"
	"github.com/reevehq/reeve/controlplane/controllers/disruption"
	"github.com/reevehq/reeve/controlplane/controllers/endpoints"
	"github.com/reevehq/reeve/controlplane/controllers/endpointslice"
	"github.com/reevehq/reeve/controlplane/controllers/endpointslicemirroring"
	"github.com/reevehq/reeve/controlplane/controllers/garbage"
	"github.com/reevehq/reeve/controlplane/controllers/job"
	"github.com/reevehq/reeve/controlplane/controllers/loop"
	"github.com/reevehq/reeve/controlplane/controllers/namespace"
	"github.com/reevehq/reeve/controlplane/controllers/nodeipam"
	"github.com/reevehq/reeve/controlplane/controllers/nodelifecycle"
	"github.com/reevehq/reeve/controlplane/controllers/podgc"
	"github.com/reevehq/reeve/controlplane/controllers/replicaset"
	"github.com/reevehq/reeve/controlplane/controllers/replication"
	"github.com/reevehq/reeve/controlplane/controllers/resourcequota"
	"github.com/reevehq/reeve/controlplane/controllers/rootca"
	"github.com/reevehq/reeve/controlplane/controllers/serviceaccount"
	"github.com/reevehq/reeve/controlplane/controllers/statefulset"
	"github.com/reevehq/reeve/controlplane/controllers/tainteviction"
	"github.com/reevehq/reeve/controlplane/controllers/ttlafterfinished"
)

// plain is a controller that needs nothing but the environment. A nil pointer must not become a non-nil runner.
func plain[T runner](name string, make func(loop.Env) (T, error)) spec {
	return spec{name, func(_ *Config, e loop.Env) (runner, error) { return made(make(e)) }}
}

func made[T runner](c T, err error) (runner, error) {
	if err != nil {
		return nil, err
	}
	return c, nil
}

// all lists the controllers under upstream's names. Order is the order of starting; none depends on it.
func all() []spec {
	return []spec{
		{"node-ipam-controller", func(c *Config, e loop.Env) (runner, error) {
			if len(c.ClusterCIDRs) == 0 {
				return nil, nil
			}
			return made(nodeipam.New(e, nodeipam.Config{
				ClusterCIDRs: c.ClusterCIDRs, MaskIPv4: c.NodeMaskIPv4, MaskIPv6: c.NodeMaskIPv6, Reserved: c.ServiceCIDRs,
			}))
		}},
		{"node-lifecycle-controller", func(c *Config, e loop.Env) (runner, error) { return made(nodelifecycle.New(e, c.NodeGracePeriod)) }},
		{"certificatesigningrequest-approving-controller", func(c *Config, e loop.Env) (runner, error) {
			return made(csr.NewApprover(e, csr.Guarded{Names: c.ServerNames, IPs: c.ServerIPs, LocalNode: c.LocalNode}))
		}},
		{"certificatesigningrequest-signing-controller", func(c *Config, e loop.Env) (runner, error) {
			if c.SigningCert == nil {
				return nil, nil
			}
			return made(csr.NewSigner(e, c.SigningCert, c.SigningKey, c.CertDuration))
		}},
		plain("certificatesigningrequest-cleaner-controller", csr.NewCleaner),
		plain("serviceaccount-controller", serviceaccount.New),
		{"root-ca-certificate-publisher-controller", func(c *Config, e loop.Env) (runner, error) {
			if len(c.RootCA) == 0 {
				return nil, nil
			}
			return made(rootca.New(e, c.RootCA))
		}},
		plain("endpointslice-controller", endpointslice.New),
		plain("endpoints-controller", endpoints.New),
		plain("endpointslice-mirroring-controller", endpointslicemirroring.New),
		plain("replicaset-controller", replicaset.New),
		plain("replicationcontroller-controller", replication.New),
		plain("deployment-controller", deployment.New),
		plain("daemonset-controller", daemonset.New),
		plain("statefulset-controller", statefulset.New),
		plain("job-controller", job.New),
		plain("cronjob-controller", cronjob.New),
		plain("ttl-after-finished-controller", ttlafterfinished.New),
		plain("namespace-controller", namespace.New),
		plain("garbage-collector-controller", garbage.New),
		plain("taint-eviction-controller", tainteviction.New),
		{"pod-garbage-collector-controller", func(c *Config, e loop.Env) (runner, error) { return made(podgc.New(e, c.TerminatedPodThreshold)) }},
		{"disruption-controller", func(c *Config, e loop.Env) (runner, error) { return made(disruption.New(e, nil, nil)) }},
		plain("resourcequota-controller", resourcequota.New),
		plain("clusterrole-aggregation-controller", clusterroleaggregation.New),
		plain("bootstrap-signer-controller", bootstrap.NewSigner),
		plain("token-cleaner-controller", bootstrap.NewCleaner),
	}
}
