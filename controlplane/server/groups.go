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

// buildStorages makes the store of every kind in the table, lets attach hook into them, and serves them with their
// generic subresources.
func buildStorages(options generic.RESTOptionsGetter, attach func(stores) error) (storages, stores, error) {
	all := stores{}
	var namespaces *registry.Namespaces
	for _, kind := range apis.Kinds() {
		var err error
		if kind.GroupResource() == (schema.GroupResource{Resource: "namespaces"}) {
			if namespaces, err = registry.NewNamespaces(kind, options); err == nil {
				all[kind.GroupResource()] = namespaces.Store
			}
		} else {
			all[kind.GroupResource()], err = registry.NewStore(kind, options)
		}
		if err != nil {
			return nil, nil, err
		}
	}
	if err := attach(all); err != nil {
		return nil, nil, err
	}
	out := storages{}
	for _, kind := range apis.Kinds() {
		store := all[kind.GroupResource()]
		for _, gv := range kind.ServedIn() {
			out.add(gv, kind.Resource, store)
			if kind.Status {
				out.add(gv, kind.Resource+"/status", registry.NewStatus(store))
			}
		}
		gv := kind.GroupVersion()
		switch kind.GroupResource().String() {
		case "deployments.apps", "replicasets.apps", "statefulsets.apps", "replicationcontrollers":
			out.add(gv, kind.Resource+"/scale", registry.NewScale(store))
		case "namespaces":
			out.add(gv, kind.Resource, namespaces)
			out.add(gv, kind.Resource+"/finalize", registry.NewNamespaceFinalize(namespaces))
		case "pods":
			out.add(gv, "bindings", registry.NewLegacyBinding(store))
			out.add(gv, "pods/binding", registry.NewBinding(store))
			out.add(gv, "pods/resize", registry.NewResize(store))
			out.add(gv, "pods/ephemeralcontainers", registry.NewEphemeralContainers(store))
		case "certificatesigningrequests.certificates.k8s.io":
			out.add(gv, kind.Resource+"/approval", registry.NewCSRApproval(store))
		}
	}
	return out, all, nil
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
