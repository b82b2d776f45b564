package server

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensionsserver "k8s.io/apiextensions-apiserver/pkg/apiserver"
	apiextensionsoptions "k8s.io/apiextensions-apiserver/pkg/cmd/server/options"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/options"
	serverstorage "k8s.io/apiserver/pkg/server/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	aggregatorscheme "k8s.io/kube-aggregator/pkg/apiserver/scheme"

	"github.com/reevehq/reeve/controlplane/apis"
	"github.com/reevehq/reeve/controlplane/scheme"
)

// countPeriod is how often objects are counted, for metrics and for the estimate of a list's cost. kube-apiserver's
// minute, stretched: on a host at rest it is most of what etcd has to do.
const countPeriod = 5 * time.Minute

func etcdOptions(c *Config) *options.EtcdOptions {
	backend := storagebackend.NewDefaultConfig(c.Etcd.Prefix, nil)
	backend.Transport = storagebackend.TransportConfig{
		ServerList: c.Etcd.Servers, TrustedCAFile: c.Etcd.CAFile, CertFile: c.Etcd.CertFile, KeyFile: c.Etcd.KeyFile,
	}
	o := options.NewEtcdOptions(backend)
	o.StorageConfig.CountMetricPollPeriod = countPeriod
	o.DefaultStorageMediaType = runtime.ContentTypeProtobuf
	return o
}

// applyStorage gives the built-in kinds their storage: protobuf, upstream's key prefixes, watch caches where the table
// asks for one.
func applyStorage(o *options.EtcdOptions, shared *sharedClient, config *genericapiserver.Config) error {
	enabled := serverstorage.NewResourceConfig()
	prefixes := map[schema.GroupResource]string{}
	builtin := *o
	for _, kind := range apis.Kinds() {
		enabled.EnableVersions(kind.ServedIn()...)
		prefixes[kind.GroupResource()] = kind.StoragePrefix()
		if !kind.Cached {
			builtin.WatchCacheSizes = append(builtin.WatchCacheSizes, kind.GroupResource().String()+"#0")
		}
	}
	factory := serverstorage.NewDefaultStorageFactory(builtin.StorageConfig, builtin.DefaultStorageMediaType, scheme.Codecs,
		serverstorage.NewDefaultResourceEncodingConfig(scheme.Scheme), enabled, prefixes)
	factory.StorageConfig.StorageObjectCountTracker = config.StorageObjectCountTracker
	factory.AddCohabitatingResources(
		corev1.Resource("events"), schema.GroupResource{Group: eventsv1.GroupName, Resource: "events"})
	if err := builtin.ApplyWithStorageFactoryTo(factory, config); err != nil {
		return err
	}
	config.RESTOptionsGetter = sharing{config.RESTOptionsGetter, shared, func(resource schema.GroupResource) bool {
		kind := apis.Find(resource)
		return kind != nil && kind.Cached
	}}
	return nil
}

// libraryStorage gives a library's own kinds (CustomResourceDefinition, APIService) their storage: JSON below
// /registry/<group>/<resource>, as upstream.
func libraryStorage(o *options.EtcdOptions, shared *sharedClient, config *genericapiserver.Config, codec runtime.Codec, version runtime.GroupVersioner) generic.RESTOptionsGetter {
	own := *o
	own.StorageConfig.Codec = codec
	own.StorageConfig.EncodeVersioner = version
	own.StorageConfig.StorageObjectCountTracker = config.StorageObjectCountTracker
	return sharing{
		own.CreateRESTOptionsGetter(&options.SimpleStorageFactory{StorageConfig: own.StorageConfig}, config.ResourceTransformers), shared, never,
	}
}

func definitionStorage(o *options.EtcdOptions, shared *sharedClient, config *genericapiserver.Config) generic.RESTOptionsGetter {
	return libraryStorage(o, shared, config, apiextensionsserver.Codecs.LegacyCodec(apiextensionsv1.SchemeGroupVersion),
		runtime.NewMultiGroupVersioner(apiextensionsv1.SchemeGroupVersion, schema.GroupKind{Group: apiextensionsv1.GroupName}))
}

func customResourceStorage(o *options.EtcdOptions, shared *sharedClient, config *genericapiserver.Config) generic.RESTOptionsGetter {
	return sharing{apiextensionsoptions.NewCRDRESTOptionsGetter(*o, config.ResourceTransformers, config.StorageObjectCountTracker), shared, never}
}

func apiServiceStorage(o *options.EtcdOptions, shared *sharedClient, config *genericapiserver.Config) generic.RESTOptionsGetter {
	return libraryStorage(o, shared, config, aggregatorscheme.Codecs.LegacyCodec(apiregistrationv1.SchemeGroupVersion),
		runtime.NewMultiGroupVersioner(apiregistrationv1.SchemeGroupVersion, schema.GroupKind{Group: apiregistrationv1.GroupName}))
}
