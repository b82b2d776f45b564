package apis

import (
	"slices"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Generation says when metadata.generation rises.
type Generation int

const (
	// NoGeneration leaves metadata.generation alone.
	NoGeneration Generation = iota
	// OnSpec starts at 1 and rises when the desired state changes: the spec, or for a kind without one everything but
	// metadata.
	OnSpec
	// OnSpecAndAnnotations is OnSpec, and a change of the annotations counts too (Deployment: upstream's rollback
	// history lives there).
	OnSpecAndAnnotations
)

// Collection is the policy for dependents when a delete request names none.
type Collection int

const (
	// DeleteDependents deletes dependents in the background.
	DeleteDependents Collection = iota
	// OrphanDependents leaves dependents (Job, ReplicationController: kept from before garbage collection).
	OrphanDependents
	// Uncollected kinds never own anything; no finalizers are set on delete.
	Uncollected
)

// Kind describes one stored kind. The zero values of optional fields are the common case.
type Kind struct {
	// GroupVersionKind is the stored version, whose Go type is the hub.
	schema.GroupVersionKind
	// Resource is the plural name in paths; Singular the name kubectl also accepts.
	Resource, Singular string
	ShortNames         []string
	// Categories: "all" is what `kubectl get all` lists.
	Categories []string
	// Cluster is true for kinds outside namespaces.
	Cluster bool
	// AlsoServedIn lists further group versions of the same objects.
	AlsoServedIn []schema.GroupVersion

	New     func() runtime.Object
	NewList func() runtime.Object

	// Status is true where a status subresource is served, so that each endpoint ignores the other's half.
	Status bool
	// StatusKeepsLabels is true where the status endpoint may not change labels (the workloads).
	StatusKeepsLabels bool
	Generation        Generation
	// CreateOnUpdate lets PUT create.
	CreateOnUpdate bool
	// VersionedUpdate requires a resourceVersion on PUT.
	VersionedUpdate bool
	Collection      Collection
	// Fields gives the values of the selectable fields, besides metadata.name and metadata.namespace.
	Fields func(runtime.Object) fields.Set
	// Indexed fields are looked up by index in the watch cache; keys of Fields.
	Indexed []string
	// Cached keeps a watch cache: for kinds that many clients watch at once. Others are watched on etcd directly.
	Cached bool
	// Prefix is the key prefix below /registry where it is not the resource's name.
	Prefix string
}

// Namespaced is true for kinds inside namespaces.
func (k *Kind) Namespaced() bool { return !k.Cluster }

// GroupResource names the kind's collection.
func (k *Kind) GroupResource() schema.GroupResource {
	return schema.GroupResource{Group: k.Group, Resource: k.Resource}
}

// ServedIn lists every group version that the kind is served in, the stored one first.
func (k *Kind) ServedIn() []schema.GroupVersion {
	return append([]schema.GroupVersion{k.GroupVersion()}, k.AlsoServedIn...)
}

// StoragePrefix is the key prefix below /registry: upstream's, so that data can move both ways.
func (k *Kind) StoragePrefix() string {
	if k.Prefix != "" {
		return k.Prefix
	}
	return k.Resource
}

// Kinds returns the whole table, in the order in which discovery lists it. The slice and its entries are shared and
// must not be changed.
func Kinds() []*Kind { return table }

// Find returns the kind stored under the group and resource, or nil.
func Find(gr schema.GroupResource) *Kind {
	i := slices.IndexFunc(table, func(k *Kind) bool { return k.GroupResource() == gr })
	if i < 0 {
		return nil
	}
	return table[i]
}

var table = slices.Concat(coreKinds, appsKinds, networkKinds, policyKinds, storageKinds, admissionKinds)
