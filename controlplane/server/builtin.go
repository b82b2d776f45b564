package server

import (
	"fmt"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	storagefactory "k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/kubernetes"

	"github.com/reevehq/reeve/controlplane/authz"
	"github.com/reevehq/reeve/controlplane/kubeletclient"
	"github.com/reevehq/reeve/controlplane/registry"
	"github.com/reevehq/reeve/controlplane/registry/authentication"
	"github.com/reevehq/reeve/controlplane/registry/authorization"
	"github.com/reevehq/reeve/controlplane/registry/core/allocator"
	"github.com/reevehq/reeve/controlplane/registry/core/podeviction"
	"github.com/reevehq/reeve/controlplane/registry/core/podstream"
	"github.com/reevehq/reeve/controlplane/registry/core/proxy"
	"github.com/reevehq/reeve/controlplane/registry/core/satoken"
	"github.com/reevehq/reeve/controlplane/registry/rbac"
)

// stores finds kinds' stores by group and resource.
type stores map[schema.GroupResource]*registry.Store

func (s stores) core(resource string) *registry.Store {
	return s[schema.GroupResource{Resource: resource}]
}

// builtinStorages makes everything that the built-in server serves: the table's kinds, and what needs code of its own.
func (s *Server) builtinStorages(options generic.RESTOptionsGetter, config *genericapiserver.Config, client kubernetes.Interface, rules *authz.Rules) (storages, error) {
	out, all, err := buildStorages(options, func(all stores) error { return s.attachAllocator(options, all) })
	if err != nil {
		return nil, err
	}
	if err := s.addPodStorages(out, all, config, client); err != nil {
		return nil, err
	}

	prober, err := storagefactory.CreateProber(etcdOptions(&s.config).StorageConfig)
	if err != nil {
		return nil, fmt.Errorf("build component statuses: %w", err)
	}
	out.add(corev1.SchemeGroupVersion, "componentstatuses",
		registry.NewComponentStatuses(registry.ComponentCheck{Name: "etcd-0", Check: prober.Probe}))

	token, err := satoken.New(satoken.Config{
		Signer: s.signer, Accounts: all.core("serviceaccounts"), Pods: all.core("pods"), Secrets: all.core("secrets"),
		Nodes: all.core("nodes"), Audiences: config.Authentication.APIAudiences, Extend: true,
	})
	if err != nil {
		return nil, fmt.Errorf("build token endpoint: %w", err)
	}
	out.add(corev1.SchemeGroupVersion, "serviceaccounts/token", token)

	guard := rbac.NewGuard(config.Authorization.Authorizer, rules)
	for _, resource := range []string{"roles", "rolebindings", "clusterroles", "clusterrolebindings"} {
		store := all[schema.GroupResource{Group: rbacv1.GroupName, Resource: resource}]
		out.add(rbacv1.SchemeGroupVersion, resource, guard.Wrap(store))
	}

	authenticationGV, authorizationGV := authenticationv1.SchemeGroupVersion, authorizationv1.SchemeGroupVersion
	out.add(authenticationGV, "tokenreviews", authentication.NewTokenReview(config.Authentication.Authenticator, config.Authentication.APIAudiences))
	out.add(authenticationGV, "selfsubjectreviews", authentication.NewSelfSubjectReview())
	out.add(authorizationGV, "subjectaccessreviews", authorization.NewSubjectAccessReview(config.Authorization.Authorizer))
	out.add(authorizationGV, "localsubjectaccessreviews", authorization.NewLocalSubjectAccessReview(config.Authorization.Authorizer))
	out.add(authorizationGV, "selfsubjectaccessreviews", authorization.NewSelfSubjectAccessReview(config.Authorization.Authorizer))
	out.add(authorizationGV, "selfsubjectrulesreviews", authorization.NewSelfSubjectRulesReview(rules))
	return out, nil
}

// attachAllocator gives Services their addresses and ports, before anything is copied from their store.
func (s *Server) attachAllocator(options generic.RESTOptionsGetter, all stores) error {
	ports, err := allocator.NewEtcdRange(options)
	if err != nil {
		return err
	}
	network := func(resource string) *registry.Store {
		return all[schema.GroupResource{Group: "networking.k8s.io", Resource: resource}]
	}
	a, err := allocator.New(allocator.Config{
		CIDRs: s.config.ServiceCIDRs, NodePorts: s.config.NodePorts,
		Services: all.core("services"), IPAddresses: network("ipaddresses"), ServiceCIDRs: network("servicecidrs"),
		Ports: ports, Logger: s.config.Logger,
	})
	if err != nil {
		return fmt.Errorf("configure Service addresses: %w", err)
	}
	a.Attach(all.core("services").Store)
	s.allocator = a
	return nil
}

// addPodStorages adds what reaches into nodes and pods.
func (s *Server) addPodStorages(out storages, all stores, config *genericapiserver.Config, client kubernetes.Interface) error {
	keys := s.config.PKI
	nodes, err := kubeletclient.New(kubeletclient.Config{
		Nodes: all.core("nodes"), CertFile: keys.KubeletClient.CertFile, KeyFile: keys.KubeletClient.KeyFile, CAFile: keys.CA.CertFile,
	})
	if err != nil {
		return fmt.Errorf("configure client of nodes: %w", err)
	}
	pods, authorizer, transport := all.core("pods"), config.Authorization.Authorizer, proxy.NewTransport()
	slices := all[schema.GroupResource{Group: "discovery.k8s.io", Resource: "endpointslices"}]
	for path, storage := range map[string]rest.Storage{
		"pods/log":         podstream.NewLog(pods, nodes),
		"pods/exec":        podstream.NewExec(pods, nodes, authorizer),
		"pods/attach":      podstream.NewAttach(pods, nodes, authorizer),
		"pods/portforward": podstream.NewPortForward(pods, nodes, authorizer),
		"pods/proxy":       proxy.NewPod(pods, transport),
		"pods/eviction":    podeviction.New(pods, registry.NewStatus(pods), client.PolicyV1()),
		"nodes/proxy":      proxy.NewNode(nodes, transport),
		"services/proxy":   proxy.NewService(all.core("services"), slices, pods, transport),
	} {
		out.add(corev1.SchemeGroupVersion, path, storage)
	}
	return nil
}
