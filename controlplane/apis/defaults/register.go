package defaults

import (
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/reevehq/reeve/controlplane/apis/defaults/admissionregistration"
	"github.com/reevehq/reeve/controlplane/apis/defaults/apps"
	"github.com/reevehq/reeve/controlplane/apis/defaults/authentication"
	"github.com/reevehq/reeve/controlplane/apis/defaults/autoscalingv1"
	"github.com/reevehq/reeve/controlplane/apis/defaults/autoscalingv2"
	"github.com/reevehq/reeve/controlplane/apis/defaults/batch"
	"github.com/reevehq/reeve/controlplane/apis/defaults/core"
	"github.com/reevehq/reeve/controlplane/apis/defaults/discovery"
	"github.com/reevehq/reeve/controlplane/apis/defaults/flowcontrol"
	"github.com/reevehq/reeve/controlplane/apis/defaults/networking"
	"github.com/reevehq/reeve/controlplane/apis/defaults/rbac"
	"github.com/reevehq/reeve/controlplane/apis/defaults/resource"
	"github.com/reevehq/reeve/controlplane/apis/defaults/scheduling"
	"github.com/reevehq/reeve/controlplane/apis/defaults/storage"
)

var builder = runtime.NewSchemeBuilder(
	admissionregistration.RegisterDefaults,
	apps.RegisterDefaults,
	authentication.RegisterDefaults,
	autoscalingv1.RegisterDefaults,
	autoscalingv2.RegisterDefaults,
	batch.RegisterDefaults,
	core.RegisterDefaults,
	discovery.RegisterDefaults,
	flowcontrol.RegisterDefaults,
	networking.RegisterDefaults,
	rbac.RegisterDefaults,
	resource.RegisterDefaults,
	scheduling.RegisterDefaults,
	storage.RegisterDefaults,
)

// AddToScheme registers the defaulting functions of all kinds, and of their lists, keyed by Go type. The kinds
// themselves may be registered before or after. It fails only if a group's registration does.
func AddToScheme(scheme *runtime.Scheme) error {
	return builder.AddToScheme(scheme)
}
