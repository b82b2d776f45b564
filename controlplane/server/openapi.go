package server

import (
	"sync"

	apiextensionsserver "k8s.io/apiextensions-apiserver/pkg/apiserver"
	openapinamer "k8s.io/apiserver/pkg/endpoints/openapi"
	genericapiserver "k8s.io/apiserver/pkg/server"
	utilopenapi "k8s.io/apiserver/pkg/util/openapi"
	aggregatorscheme "k8s.io/kube-aggregator/pkg/apiserver/scheme"
	openapicommon "k8s.io/kube-openapi/pkg/common"

	"github.com/reevehq/reeve/controlplane/openapi"
	"github.com/reevehq/reeve/controlplane/scheme"
)

// openAPIConfigs gives the three servers one description of every type. They share it: the definitions are large.
var openAPIConfigs = sync.OnceValues(func() (*openapicommon.Config, *openapicommon.OpenAPIV3Config) {
	definitions := utilopenapi.GetOpenAPIDefinitionsWithoutDisabledFeatures(openapi.GetOpenAPIDefinitions)
	namer := openapinamer.NewDefinitionNamer(scheme.Scheme, apiextensionsserver.Scheme, aggregatorscheme.Scheme)
	v2 := genericapiserver.DefaultOpenAPIConfig(definitions, namer)
	v2.Info.Title = "Kubernetes"
	v3 := genericapiserver.DefaultOpenAPIV3Config(definitions, namer)
	v3.Info.Title = "Kubernetes"
	return v2, v3
})
