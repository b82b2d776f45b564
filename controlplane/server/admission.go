package server

import (
	"fmt"

	"k8s.io/apiserver/pkg/admission"
	webhookinit "k8s.io/apiserver/pkg/admission/plugin/webhook/initializer"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/options"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
)

// applyAdmission builds the one admission chain that all three servers share.
func (s *Server) applyAdmission(base *genericapiserver.Config, client kubernetes.Interface, dynamicClient dynamic.Interface, services webhook.ServiceResolver, auth webhook.AuthenticationInfoResolverWrapper) error {
	o := options.NewAdmissionOptions()
	o.EnablePlugins, o.DisablePlugins = s.config.EnableAdmission, s.config.DisableAdmission
	initializers := []admission.PluginInitializer{webhookinit.NewPluginInitializer(auth, services)}
	if err := o.ApplyTo(base, s.informers, client, dynamicClient, base.FeatureGate, base.EffectiveVersion, initializers...); err != nil {
		return fmt.Errorf("configure admission: %w", err)
	}
	return nil
}
