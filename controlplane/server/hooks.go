package server

import (
	"context"
	"fmt"

	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/kubernetes"

	"github.com/reevehq/reeve/controlplane/authz"
)

// addHooks adds what the server does through its own API once it serves. /readyz waits for all of it.
func (s *Server) addHooks(server *genericapiserver.GenericAPIServer, client kubernetes.Interface) {
	add := func(name string, hook func(context.Context) error) {
		server.AddPostStartHookOrDie(name, func(h genericapiserver.PostStartHookContext) error {
			if err := hook(h); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			return nil
		})
	}
	policy := make(chan struct{})
	add("rbac/bootstrap-roles", func(ctx context.Context) error {
		defer close(policy)
		return authz.Reconcile(ctx, client, s.config.Logger)
	})
	add("authorization-known", func(ctx context.Context) error {
		select {
		case <-policy:
			return s.openWhenKnown(ctx, client)
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	add("priority-and-fairness-config-producer", func(ctx context.Context) error { return ensureFlowControl(ctx, client) })
}
