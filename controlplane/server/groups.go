package server

import (
	"fmt"
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"

	"github.com/reevehq/reeve/controlplane/apis"
	"github.com/reevehq/reeve/controlplane/registry"
	"github.com/reevehq/reeve/controlplane/scheme"
)

// storages collects what is served under each group version: resource, or resource/subresource.
type storages map[schema.GroupVersion]map[string]rest.Storage

func (s storages) add(gv schema.GroupVersion, path string, storage rest.Storage) {
	if s[gv] == nil {
		s[gv] = map[string]rest.Storage{}
	}
	s[gv][path] = storage
}

// buildStorages makes the storage of every kind in the table with its generic subresources, then the special ones.
func buildStorages(options generic.RESTOptionsGetter, special func(map[schema.GroupResource]*registry.Store, storages) error) (storages, error) {
	out := storages{}
	stores := map[schema.GroupResource]*registry.Store{}
	for _, kind := range apis.Kinds() {
		var main rest.Storage
		var store *registry.Store
		var err error
		var namespaces *registry.Namespaces
		if kind.GroupResource() == (schema.GroupResource{Resource: "namespaces"}) {
			namespaces, err = registry.NewNamespaces(kind, options)
			if err == nil {
				main, store = namespaces, namespaces.Store
			}
		} else {
			store, err = registry.NewStore(kind, options)
			main = store
		}
		if err != nil {
			return nil, err
		}
		stores[kind.GroupResource()] = store
		for _, gv := range kind.ServedIn() {
			out.add(gv, kind.Resource, main)
			if kind.Status {
				out.add(gv, kind.Resource+"/status", registry.NewStatus(store))
			}
			if namespaces != nil {
				out.add(gv, kind.Resource+"/finalize", registry.NewNamespaceFinalize(namespaces))
			}
		}
		switch kind.GroupResource().String() {
		case "deployments.apps", "replicasets.apps", "statefulsets.apps", "replicationcontrollers":
			out.add(kind.GroupVersion(), kind.Resource+"/scale", registry.NewScale(store))
		case "pods":
			out.add(kind.GroupVersion(), "pods/binding", registry.NewBinding(store))
			out.add(kind.GroupVersion(), "bindings", registry.NewLegacyBinding(store))
			out.add(kind.GroupVersion(), "pods/resize", registry.NewResize(store))
			out.add(kind.GroupVersion(), "pods/ephemeralcontainers", registry.NewEphemeralContainers(store))
		case "certificatesigningrequests.certificates.k8s.io":
			out.add(kind.GroupVersion(), kind.Resource+"/approval", registry.NewCSRApproval(store))
		}
	}
	if err := special(stores, out); err != nil {
		return nil, err
	}
	return out, nil
}

// install serves the storages.
func install(server *genericapiserver.GenericAPIServer, all storages) error {
	byGroup := map[string]genericapiserver.APIGroupInfo{}
	for gv, resources := range all {
		info, ok := byGroup[gv.Group]
		if !ok {
			info = genericapiserver.NewDefaultAPIGroupInfo(gv.Group, scheme.Scheme, scheme.ParameterCodec, scheme.Codecs)
		}
		info.VersionedResourcesStorageMap[gv.Version] = resources
		byGroup[gv.Group] = info
	}
	for _, name := range slices.Sorted(maps.Keys(byGroup)) {
		info := byGroup[name]
		var err error
		if name == "" {
			err = server.InstallLegacyAPIGroup(genericapiserver.DefaultLegacyAPIPrefix, &info)
		} else {
			err = server.InstallAPIGroup(&info)
		}
		if err != nil {
			return fmt.Errorf("install API group %q: %w", name, err)
		}
	}
	return nil
}
