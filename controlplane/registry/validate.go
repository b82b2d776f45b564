package registry

import (
	"context"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/reevehq/reeve/controlplane/apis/validation"
)

// validateFunc validates the update of an object, or of one part of it.
type validateFunc func(ctx context.Context, obj, old runtime.Object) field.ErrorList

var (
	validateCreate = validation.Create
	validateUpdate = validateFunc(validation.Update)
	validateStatus = validateFunc(validation.UpdateStatus)
)

// validatePart validates a write through the named subresource.
func validatePart(subresource string) validateFunc {
	return func(ctx context.Context, obj, old runtime.Object) field.ErrorList {
		return validation.UpdateSubresource(ctx, subresource, obj, old)
	}
}

// warnings are what the client should know about an object that is valid all the same.
func warnings(_ context.Context, obj, old runtime.Object) []string {
	return validation.Warnings(obj, old)
}
