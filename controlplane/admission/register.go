package admission

import (
	"io"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/namespace/lifecycle"
	mutatingpolicy "k8s.io/apiserver/pkg/admission/plugin/policy/mutating"
	validatingpolicy "k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/resourcequota"
	webhookinit "k8s.io/apiserver/pkg/admission/plugin/webhook/initializer"
	mutatingwebhook "k8s.io/apiserver/pkg/admission/plugin/webhook/mutating"
	validatingwebhook "k8s.io/apiserver/pkg/admission/plugin/webhook/validating"
	"k8s.io/apiserver/pkg/cel/openapi/resolver"
	quotav1 "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/server/options"
	"k8s.io/apiserver/pkg/util/webhook"
)

// Order lists every plugin in the order in which upstream runs them. Mutating halves run first in this order, then
// validating halves in this order.
func Order() []string {
	return []string{
		lifecycle.PluginName,
		LimitRangerName,
		ServiceAccountName,
		NodeRestrictionName,
		TaintNodesByConditionName,
		AlwaysPullImagesName,
		PodSecurityName,
		PriorityName,
		DefaultTolerationSecondsName,
		ExtendedResourceTolerationName,
		DefaultStorageClassName,
		StorageObjectInUseProtectionName,
		OwnerReferencesPermissionEnforcementName,
		PersistentVolumeClaimResizeName,
		RuntimeClassName,
		CertificateApprovalName,
		CertificateSigningName,
		CertificateSubjectRestrictionName,
		DefaultIngressClassName,
		PodTopologyLabelsName,
		mutatingpolicy.PluginName,
		mutatingwebhook.PluginName,
		validatingpolicy.PluginName,
		validatingwebhook.PluginName,
		resourcequota.PluginName,
	}
}

// DefaultOff names the plugins that run only where the user enables them.
func DefaultOff() sets.Set[string] {
	return sets.New(AlwaysPullImagesName, ExtendedResourceTolerationName, OwnerReferencesPermissionEnforcementName)
}

// RegisterAll registers the factories of reeve's plugins and of ResourceQuota. The five plugins that
// options.NewAdmissionOptions registers by itself are not registered here.
func RegisterAll(plugins *admission.Plugins) {
	for name, build := range map[string]func() admission.Interface{
		LimitRangerName:                          newLimitRanger,
		ServiceAccountName:                       newServiceAccount,
		NodeRestrictionName:                      newNodeRestriction,
		TaintNodesByConditionName:                newTaintNodesByCondition,
		AlwaysPullImagesName:                     newAlwaysPullImages,
		PriorityName:                             newPriority,
		DefaultTolerationSecondsName:             newDefaultTolerationSeconds,
		ExtendedResourceTolerationName:           newExtendedResourceToleration,
		DefaultStorageClassName:                  newDefaultStorageClass,
		StorageObjectInUseProtectionName:         newStorageProtection,
		OwnerReferencesPermissionEnforcementName: newOwnerReferences,
		PersistentVolumeClaimResizeName:          newClaimResize,
		RuntimeClassName:                         newRuntimeClass,
		CertificateApprovalName:                  newCertificateApproval,
		CertificateSigningName:                   newCertificateSigning,
		CertificateSubjectRestrictionName:        newCertificateSubject,
		DefaultIngressClassName:                  newDefaultIngressClass,
		PodTopologyLabelsName:                    newPodTopologyLabels,
	} {
		plugins.Register(name, func(io.Reader) (admission.Interface, error) { return build(), nil })
	}
	plugins.Register(PodSecurityName, newPodSecurity)
	resourcequota.Register(plugins)
}

// NewOptions returns admission options with everything registered, in upstream's order, with upstream's defaults on.
func NewOptions() *options.AdmissionOptions {
	o := options.NewAdmissionOptions()
	RegisterAll(o.Plugins)
	o.RecommendedPluginOrder = Order()
	o.DefaultOffPlugins = DefaultOff()
	return o
}

// Config is what the plugins need beyond clients, informers and authorizer, which AdmissionOptions.ApplyTo passes.
type Config struct {
	// Webhooks authenticates the API server to admission webhooks; nil leaves them to their configuration alone.
	Webhooks webhook.AuthenticationInfoResolverWrapper
	// Services turns a webhook's Service into an address; required for webhooks behind Services.
	Services webhook.ServiceResolver
	// Quota holds the evaluators of ResourceQuota: quota.NewConfiguration. Required while ResourceQuota is on.
	Quota quotav1.Configuration
	// Schemas resolves the OpenAPI schema of kinds for policies' type checking; required while
	// MutatingAdmissionPolicy is on.
	Schemas resolver.SchemaResolver
	// ExcludedResources are never shown to webhooks and policies: those of authentication and authorization reviews.
	ExcludedResources []schema.GroupResource
}

// Initializers wires what Config carries into the plugins that want it.
func Initializers(c Config) []admission.PluginInitializer {
	return []admission.PluginInitializer{
		webhookinit.NewPluginInitializer(c.Webhooks, c.Services),
		initializer{c},
	}
}

type initializer struct{ Config }

// Initialize implements admission.PluginInitializer.
func (i initializer) Initialize(plugin admission.Interface) {
	if p, ok := plugin.(interface {
		SetQuotaConfiguration(quotav1.Configuration)
	}); ok && i.Quota != nil {
		p.SetQuotaConfiguration(i.Quota)
	}
	if p, ok := plugin.(interface {
		SetSchemaResolver(resolver.SchemaResolver)
	}); ok && i.Schemas != nil {
		p.SetSchemaResolver(i.Schemas)
	}
	if p, ok := plugin.(interface {
		SetExcludedAdmissionResources([]schema.GroupResource)
	}); ok && len(i.ExcludedResources) > 0 {
		p.SetExcludedAdmissionResources(i.ExcludedResources)
	}
}
