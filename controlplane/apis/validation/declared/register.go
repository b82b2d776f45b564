package declared

import (
	"context"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/reevehq/reeve/controlplane/apis/validation/declared/admissionregistration"
	"github.com/reevehq/reeve/controlplane/apis/validation/declared/autoscalingv1"
	"github.com/reevehq/reeve/controlplane/apis/validation/declared/autoscalingv2"
	"github.com/reevehq/reeve/controlplane/apis/validation/declared/batch"
	"github.com/reevehq/reeve/controlplane/apis/validation/declared/certificates"
	"github.com/reevehq/reeve/controlplane/apis/validation/declared/core"
	"github.com/reevehq/reeve/controlplane/apis/validation/declared/discovery"
	"github.com/reevehq/reeve/controlplane/apis/validation/declared/flowcontrol"
	"github.com/reevehq/reeve/controlplane/apis/validation/declared/networking"
	"github.com/reevehq/reeve/controlplane/apis/validation/declared/node"
	"github.com/reevehq/reeve/controlplane/apis/validation/declared/rbac"
	"github.com/reevehq/reeve/controlplane/apis/validation/declared/resource"
	"github.com/reevehq/reeve/controlplane/apis/validation/declared/storage"
)

// scheme holds the generated functions only, keyed by Go type; no kind is registered in it.
var scheme = sync.OnceValue(func() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, register := range []func(*runtime.Scheme) error{
		admissionregistration.RegisterValidations, autoscalingv1.RegisterValidations, autoscalingv2.RegisterValidations,
		batch.RegisterValidations, certificates.RegisterValidations, core.RegisterValidations, discovery.RegisterValidations,
		flowcontrol.RegisterValidations, networking.RegisterValidations, node.RegisterValidations, rbac.RegisterValidations,
		resource.RegisterValidations, storage.RegisterValidations,
	} {
		if err := register(s); err != nil {
			panic(err) // A duplicate registration: a fault of the generated code that every test sees.
		}
	}
	return s
})

// Create checks an object that is to be made.
func Create(ctx context.Context, obj runtime.Object, subresources ...string) field.ErrorList {
	return scheme().Validate(ctx, nil, obj, subresources...)
}

// Update checks an object that is to replace old.
func Update(ctx context.Context, obj, old runtime.Object, subresources ...string) field.ErrorList {
	return scheme().ValidateUpdate(ctx, nil, obj, old, subresources...)
}
