package controllers

import (
	"github.com/reevehq/reeve/controlplane/controllers/deployment"
	"github.com/reevehq/reeve/controlplane/controllers/loop"
	"github.com/reevehq/reeve/controlplane/controllers/replicaset"
	"github.com/reevehq/reeve/controlplane/controllers/replication"
)

// made turns a constructor of a concrete controller into the manager's; a nil pointer must not become a non-nil runner.
func made[T runner](c T, err error) (runner, error) {
	if err != nil {
		return nil, err
	}
	return c, nil
}

// all lists the controllers under upstream's names. Order is the order of starting; none depends on it.
func all() []spec {
	return []spec{
		{"replicaset-controller", func(_ *Config, e loop.Env) (runner, error) { return made(replicaset.New(e)) }},
		{"replicationcontroller-controller", func(_ *Config, e loop.Env) (runner, error) { return made(replication.New(e)) }},
		{"deployment-controller", func(_ *Config, e loop.Env) (runner, error) { return made(deployment.New(e)) }},
	}
}
