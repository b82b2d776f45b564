package server

import (
	"fmt"
	"sync"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	etcdkubernetes "go.etcd.io/etcd/client/v3/kubernetes"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/etcd3"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/apiserver/pkg/storage/value/encrypt/identity"
	"k8s.io/client-go/tools/cache"
)

// sharedClient is one connection to etcd for every kind without a watch cache. The library opens one a kind: with some
// sixty kinds, 60 connections, each with its buffers and ten goroutines, of which nearly all sleep forever. Kinds with a
// watch cache keep one of their own, because a cache asks for the progress of its whole stream.
type sharedClient struct {
	client *etcdkubernetes.Client
	close  func()
}

// Figures of the library's own clients.
const (
	etcdDialTimeout      = 20 * time.Second
	etcdKeepaliveTime    = 30 * time.Second
	etcdKeepaliveTimeout = 10 * time.Second
)

func newSharedClient(c storagebackend.TransportConfig) (*sharedClient, error) {
	config := clientv3.Config{
		Endpoints: c.ServerList, DialTimeout: etcdDialTimeout, DialKeepAliveTime: etcdKeepaliveTime,
		DialKeepAliveTimeout: etcdKeepaliveTimeout, Logger: zap.NewNop(),
		//nolint:staticcheck // a store that cannot be reached should fail the start, not the first request
		DialOptions: []grpc.DialOption{grpc.WithBlock()},
	}
	if c.CertFile != "" || c.KeyFile != "" || c.TrustedCAFile != "" {
		var err error
		info := transport.TLSInfo{CertFile: c.CertFile, KeyFile: c.KeyFile, TrustedCAFile: c.TrustedCAFile}
		if config.TLS, err = info.ClientConfig(); err != nil {
			return nil, fmt.Errorf("configure etcd client: %w", err)
		}
	}
	client, err := etcdkubernetes.New(config)
	if err != nil {
		return nil, fmt.Errorf("connect to etcd %v: %w", c.ServerList, err)
	}
	client.KV = etcd3.NewETCDLatencyTracker(client.KV)
	return &sharedClient{client, sync.OnceFunc(func() { client.Close() })}, nil
}

// decorate is a generic.StorageDecorator over the shared connection, without a watch cache.
func (s *sharedClient) decorate(c *storagebackend.ConfigForResource, resourcePrefix string, _ func(runtime.Object) (string, error),
	newFunc, newListFunc func() runtime.Object, _ storage.AttrFunc, _ storage.IndexerFuncs, _ *cache.Indexers,
) (storage.Interface, factory.DestroyFunc, error) {
	transformer := c.Transformer
	if transformer == nil {
		transformer = identity.NewEncryptCheckTransformer()
	}
	versioner := storage.APIObjectVersioner{}
	store, err := etcd3.New(s.client, nil, c.Codec, newFunc, newListFunc, c.Prefix, resourcePrefix, c.GroupResource, transformer,
		c.LeaseManagerConfig, etcd3.NewDefaultDecoder(c.Codec, versioner), versioner)
	if err != nil {
		return nil, nil, err
	}
	return store, sync.OnceFunc(store.Close), nil
}

// sharing hands out the shared connection for the kinds that are not cached.
type sharing struct {
	generic.RESTOptionsGetter
	shared *sharedClient
	cached func(schema.GroupResource) bool
}

func (g sharing) GetRESTOptions(resource schema.GroupResource, example runtime.Object) (generic.RESTOptions, error) {
	o, err := g.RESTOptionsGetter.GetRESTOptions(resource, example)
	if err == nil && !g.cached(resource) {
		o.Decorator = g.shared.decorate
	}
	return o, err
}

func never(schema.GroupResource) bool { return false }
