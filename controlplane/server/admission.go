package server

import (
	"fmt"
	"sync"
	"time"

	apiextensionsserver "k8s.io/apiextensions-apiserver/pkg/apiserver"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/cel/openapi/resolver"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	aggregatorscheme "k8s.io/kube-aggregator/pkg/apiserver/scheme"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/reevehq/reeve/controlplane/admission"
	"github.com/reevehq/reeve/controlplane/admission/quota"
	"github.com/reevehq/reeve/controlplane/openapi"
	"github.com/reevehq/reeve/controlplane/scheme"
)

// unseen are the questions about identity and rights that webhooks and policies are never shown: a webhook that had to
// answer them could lock everyone out.
var unseen = []schema.GroupResource{
	{Group: "authentication.k8s.io", Resource: "selfsubjectreviews"},
	{Group: "authentication.k8s.io", Resource: "tokenreviews"},
	{Group: "authorization.k8s.io", Resource: "localsubjectaccessreviews"},
	{Group: "authorization.k8s.io", Resource: "selfsubjectaccessreviews"},
	{Group: "authorization.k8s.io", Resource: "selfsubjectrulesreviews"},
	{Group: "authorization.k8s.io", Resource: "subjectaccessreviews"},
}

// applyAdmission builds the one admission chain that all three servers share.
func (s *Server) applyAdmission(base *genericapiserver.Config, client kubernetes.Interface, dynamicClient dynamic.Interface, services webhook.ServiceResolver, auth webhook.AuthenticationInfoResolverWrapper) error {
	o := admission.NewOptions()
	o.EnablePlugins, o.DisablePlugins = s.config.EnableAdmission, s.config.DisableAdmission
	initializers := admission.Initializers(admission.Config{
		Webhooks: auth, Services: services, ExcludedResources: unseen, Quota: quota.NewConfiguration(nil, time.Now),
		Schemas: &lazySchemas{discovery: &resolver.ClientDiscoveryResolver{Discovery: client.Discovery()}},
	})
	if err := o.ApplyTo(base, s.informers, client, dynamicClient, base.FeatureGate, base.EffectiveVersion, initializers...); err != nil {
		return fmt.Errorf("configure admission: %w", err)
	}
	return nil
}

// lazySchemas reads the built-in kinds' schemas when the first policy is compiled: most clusters have none, and the
// schemas are large.
type lazySchemas struct {
	once      sync.Once
	resolver  resolver.SchemaResolver
	discovery resolver.SchemaResolver
}

func (l *lazySchemas) ResolveSchema(gvk schema.GroupVersionKind) (*spec.Schema, error) {
	l.once.Do(func() {
		l.resolver = resolver.NewDefinitionsSchemaResolver(openapi.GetOpenAPIDefinitions,
			scheme.Scheme, apiextensionsserver.Scheme, aggregatorscheme.Scheme).Combine(l.discovery)
	})
	return l.resolver.ResolveSchema(gvk)
}
