package validation

import (
	"context"
	"fmt"
	"reflect"
	"strings"

	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/reevehq/reeve/controlplane/apis/validation/declared"
)

// Create checks a defaulted object that is to be stored for the first time: its metadata, its kind's hand-written rules
// and the markers of its Go type. A nil result means that it may be stored. Kinds that this package does not know
// (listed in doc.go) get metadata and markers only. obj is not changed.
func Create(ctx context.Context, obj runtime.Object) field.ErrorList {
	k, known := kindOf(obj)
	errs := k.metadata(obj)
	if known && k.create != nil {
		errs = append(errs, k.create(obj)...)
	}
	return merge(errs, declared.Create(ctx, obj))
}

// Update checks a defaulted object that is to replace old through the main resource: what Create checks, and what may
// not change. Neither object is changed.
func Update(ctx context.Context, obj, old runtime.Object) field.ErrorList {
	k, known := kindOf(obj)
	errs := k.metadataUpdate(obj, old)
	if known && k.update != nil {
		errs = append(errs, k.update(obj, old)...)
	}
	return merge(errs, declared.Update(ctx, obj, old))
}

// UpdateStatus checks an object that is to replace old through its status subresource. The spec in obj is expected to
// have been reset to old's by the strategy.
func UpdateStatus(ctx context.Context, obj, old runtime.Object) field.ErrorList {
	return UpdateSubresource(ctx, "status", obj, old)
}

// UpdateSubresource checks an object that is to replace old through a subresource that takes the whole object:
// "status", "resize" and "ephemeralcontainers" of pods, "approval" of certificate signing requests, "finalize" of
// namespaces. Any other name gets the checks of metadata only.
func UpdateSubresource(ctx context.Context, subresource string, obj, old runtime.Object) field.ErrorList {
	k, _ := kindOf(obj)
	errs := metadataUpdateOnly(obj, old)
	if check := k.subresources[subresource]; check != nil {
		errs = append(errs, check(obj, old)...)
	}
	return merge(errs, supported(declared.Update(ctx, obj, old, subresource)))
}

// supported drops the marker validation's complaint that a subresource is unknown to it: such a write is checked by hand.
func supported(errs field.ErrorList) field.ErrorList {
	if len(errs) == 1 && errs[0].Type == field.ErrorTypeInternal && strings.HasPrefix(errs[0].Detail, "no validation found") {
		return nil
	}
	return errs
}

// merge adds to errs what the markers found that hand-written rules did not: the same type of error at the same field is
// told once.
func merge(errs, marked field.ErrorList) field.ErrorList {
	for _, m := range supported(marked) {
		told := false
		for _, e := range errs {
			if e.Type == m.Type && e.Field == m.Field {
				told = true
				break
			}
		}
		if !told {
			errs = append(errs, m)
		}
	}
	return errs
}

// rules is what this package knows of a kind, with its Go type erased.
type rules struct {
	clusterScoped bool
	// name checks metadata.name; nil means any path segment.
	name           apivalidation.ValidateNameFunc
	create         func(obj runtime.Object) field.ErrorList
	update         func(obj, old runtime.Object) field.ErrorList
	subresources   map[string]func(obj, old runtime.Object) field.ErrorList
	ownMetadata    bool
	scopeFromValue bool
}

// kind is rules with its Go type, as the table states them.
type kind[P runtime.Object] struct {
	clusterScoped bool
	name          apivalidation.ValidateNameFunc
	// create checks everything but metadata.
	create func(obj P) field.ErrorList
	// update checks everything but metadata; where it is nil, create is what an update is checked with.
	update func(obj, old P) field.ErrorList
	status func(obj, old P) field.ErrorList
	// other holds checks of further subresources.
	other map[string]func(obj, old P) field.ErrorList
	// ownMetadata leaves the metadata to create and update.
	ownMetadata bool
}

type table map[reflect.Type]rules

func register[P runtime.Object](t table, k kind[P]) {
	var zero P
	r := rules{clusterScoped: k.clusterScoped, name: k.name, ownMetadata: k.ownMetadata, subresources: map[string]func(obj, old runtime.Object) field.ErrorList{}}
	if k.create != nil {
		r.create = func(obj runtime.Object) field.ErrorList { return k.create(obj.(P)) }
		r.update = func(obj, _ runtime.Object) field.ErrorList { return k.create(obj.(P)) }
	}
	erase := func(check func(obj, old P) field.ErrorList) func(obj, old runtime.Object) field.ErrorList {
		return func(obj, old runtime.Object) field.ErrorList { return check(obj.(P), old.(P)) }
	}
	if k.update != nil {
		r.update = erase(k.update)
	}
	if k.status != nil {
		r.subresources["status"] = erase(k.status)
	}
	for name, check := range k.other {
		r.subresources[name] = erase(check)
	}
	typ := reflect.TypeOf(zero)
	if _, twice := t[typ]; twice {
		panic(fmt.Sprintf("validation of %s is registered twice", typ))
	}
	t[typ] = r
}

func kindOf(obj runtime.Object) (rules, bool) {
	r, known := kinds()[reflect.TypeOf(obj)]
	if !known {
		r.scopeFromValue = true
	}
	return r, known
}

func (k rules) metadata(obj runtime.Object) field.ErrorList {
	m, ok := obj.(metav1.Object)
	if !ok || k.ownMetadata {
		return nil
	}
	namespaced := !k.clusterScoped
	if k.scopeFromValue {
		namespaced = m.GetNamespace() != ""
	}
	name := k.name
	if name == nil {
		name = path.ValidatePathSegmentName
	}
	return apivalidation.ValidateObjectMetaAccessor(m, namespaced, name, field.NewPath("metadata"))
}

// metadataUpdate checks the metadata of a stored object's successor. The name is not checked against its kind's rule
// again: it cannot change, and rules may have been tightened since.
func (k rules) metadataUpdate(obj, old runtime.Object) field.ErrorList {
	if k.ownMetadata {
		return nil
	}
	return metadataUpdateOnly(obj, old)
}

func metadataUpdateOnly(obj, old runtime.Object) field.ErrorList {
	m, ok := obj.(metav1.Object)
	if !ok {
		return nil
	}
	o, ok := old.(metav1.Object)
	if !ok {
		return nil
	}
	p := field.NewPath("metadata")
	errs := apivalidation.ValidateObjectMetaAccessorUpdate(m, o, p)
	return merge(errs, apivalidation.ValidateObjectMetaAccessor(m, m.GetNamespace() != "", path.ValidatePathSegmentName, p))
}
