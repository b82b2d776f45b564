package server

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"go.opentelemetry.io/otel/trace/noop"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensionsserver "k8s.io/apiextensions-apiserver/pkg/apiserver"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/endpoints/discovery/aggregated"
	genericapiserver "k8s.io/apiserver/pkg/server"
	genericfilters "k8s.io/apiserver/pkg/server/filters"
	"k8s.io/apiserver/pkg/server/options"
	serverstorage "k8s.io/apiserver/pkg/server/storage"
	"k8s.io/apiserver/pkg/util/notfoundhandler"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	aggregator "k8s.io/kube-aggregator/pkg/apiserver"

	"github.com/reevehq/reeve/controlplane/authn"
	"github.com/reevehq/reeve/controlplane/authz"
	"github.com/reevehq/reeve/controlplane/registry/core/allocator"
	"github.com/reevehq/reeve/controlplane/scheme"
)

// Server is the whole API server, built and not yet serving.
type Server struct {
	config     Config
	aggregator *aggregator.APIAggregator
	informers  informers.SharedInformerFactory
	objects    *authn.ClusterObjects
	loopback   *rest.Config
	signer     *authn.Signer
	allocator  *allocator.Allocator
	shared     *sharedClient
	gate       *gate
	ready      chan struct{}
}

// New builds the server: it opens the store and installs every API, and serves nothing until Run.
func New(c Config) (*Server, error) {
	if err := c.complete(); err != nil {
		return nil, err
	}
	s := &Server{config: c, ready: make(chan struct{})}

	base := genericapiserver.NewConfig(scheme.Codecs)
	run := options.NewServerRunOptions()
	run.AdvertiseAddress = c.AdvertiseIP.AsSlice()
	// An idle watch is closed and opened again after 30 to 60 minutes, as upstream.
	if err := run.Complete(); err != nil {
		return nil, fmt.Errorf("configure API server: %w", err)
	}
	if err := run.ApplyTo(base); err != nil {
		return nil, fmt.Errorf("configure API server: %w", err)
	}
	base.LongRunningFunc = genericfilters.BasicLongRunningRequestCheck(
		sets.NewString("watch", "proxy"), sets.NewString("attach", "exec", "proxy", "log", "portforward"))
	base.OpenAPIConfig, base.OpenAPIV3Config = openAPIConfigs()
	// One manager, so that discovery lists what all three servers serve.
	base.AggregatedDiscoveryGroupManager = aggregated.NewResourceManager("apis")

	if err := s.applyServing(base); err != nil {
		return nil, err
	}
	s.loopback = base.LoopbackClientConfig
	s.loopback.ContentType = runtime.ContentTypeProtobuf
	s.loopback.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	s.loopback.DisableCompression = true
	s.gate = &gate{open: make(chan struct{}), token: s.loopback.BearerToken}
	base.BuildHandlerChainFunc = s.gate.build
	client, err := kubernetes.NewForConfig(s.loopback)
	if err != nil {
		return nil, fmt.Errorf("make loopback client: %w", err)
	}
	jsonConfig := rest.CopyConfig(s.loopback)
	jsonConfig.ContentType, jsonConfig.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON
	dynamicClient, err := dynamic.NewForConfig(jsonConfig)
	if err != nil {
		return nil, fmt.Errorf("make loopback client: %w", err)
	}
	s.informers = informers.NewSharedInformerFactoryWithOptions(client, informerResync, informers.WithTransform(dropManagedFields))

	etcd := etcdOptions(&s.config)
	if s.shared, err = newSharedClient(etcd.StorageConfig.Transport); err != nil {
		return nil, err
	}
	if err := applyStorage(etcd, s.shared, base); err != nil {
		return nil, fmt.Errorf("configure storage: %w", err)
	}
	rules, err := s.applyAuth(base, client)
	if err != nil {
		return nil, err
	}
	features := options.NewFeatureOptions()
	if err := features.ApplyTo(base, client, s.informers); err != nil {
		return nil, fmt.Errorf("configure priority and fairness: %w", err)
	}
	services := s.serviceResolver()
	webhookAuth := webhook.NewDefaultAuthenticationInfoResolverWrapper(
		http.DefaultTransport.(*http.Transport).Clone(), nil, jsonConfig, noop.NewTracerProvider())
	if err := s.applyAdmission(base, client, dynamicClient, services, webhookAuth); err != nil {
		return nil, err
	}

	// Custom resources come last in the chain: what they do not know does not exist.
	extensions, err := s.newExtensions(*base, etcd, services, webhookAuth)
	if err != nil {
		return nil, err
	}
	builtin, err := s.newBuiltin(*base, extensions.GenericAPIServer, client, rules)
	if err != nil {
		return nil, err
	}
	if err := s.newAggregator(*base, etcd, builtin, extensions, services); err != nil {
		return nil, err
	}
	return s, nil
}

// informerResync is off: what an informer shows is what the API has.
const informerResync = 0

func (s *Server) applyServing(base *genericapiserver.Config) error {
	serving := options.NewSecureServingOptions()
	serving.Listener = s.config.Listener
	serving.ServerCert.CertKey.CertFile = s.config.PKI.Serving.CertFile
	serving.ServerCert.CertKey.KeyFile = s.config.PKI.Serving.KeyFile
	if err := serving.WithLoopback().ApplyToConfig(base); err != nil {
		return fmt.Errorf("configure serving: %w", err)
	}
	base.ExternalAddress = net.JoinHostPort(s.config.AdvertiseIP.String(), fmt.Sprint(s.config.Listener.Addr().(*net.TCPAddr).Port))
	return nil
}

func (s *Server) serviceResolver() webhook.ServiceResolver {
	delegate := aggregator.NewClusterIPServiceResolver(s.informers.Core().V1().Services().Lister())
	self, err := url.Parse(s.loopback.Host)
	if err != nil {
		return delegate
	}
	return aggregator.NewLoopbackServiceResolver(delegate, self)
}

// apart gives a copy of the shared configuration for a server further down or up the chain: hooks and health checks are
// installed once.
func apart(base genericapiserver.Config) genericapiserver.Config {
	base.PostStartHooks = map[string]genericapiserver.PostStartHookConfigEntry{}
	return base
}

func (s *Server) newExtensions(base genericapiserver.Config, etcd *options.EtcdOptions, services webhook.ServiceResolver, auth webhook.AuthenticationInfoResolverWrapper) (*apiextensionsserver.CustomResourceDefinitions, error) {
	config := apart(base)
	config.RESTOptionsGetter = definitionStorage(etcd, s.shared, &config)
	config.MergedResourceConfig = serverstorage.NewResourceConfig()
	config.MergedResourceConfig.EnableVersions(apiextensionsv1.SchemeGroupVersion)
	full := &apiextensionsserver.Config{
		GenericConfig: &genericapiserver.RecommendedConfig{Config: config, SharedInformerFactory: s.informers},
		ExtraConfig: apiextensionsserver.ExtraConfig{
			CRDRESTOptionsGetter: customResourceStorage(etcd, s.shared, &config),
			MasterCount:          1,
			ServiceResolver:      services,
			AuthResolverWrapper:  auth,
		},
	}
	notFound := notfoundhandler.New(config.Serializer, genericapiserverNoMux)
	server, err := full.Complete().New(genericapiserver.NewEmptyDelegateWithCustomHandler(notFound))
	if err != nil {
		return nil, fmt.Errorf("build custom resource server: %w", err)
	}
	return server, nil
}

// genericapiserverNoMux tells the not-found handler that every path is installed before serving starts.
func genericapiserverNoMux(context.Context) bool { return true }

func (s *Server) newBuiltin(base genericapiserver.Config, next genericapiserver.DelegationTarget, client kubernetes.Interface, rules *authz.Rules) (*genericapiserver.GenericAPIServer, error) {
	config := base
	server, err := config.Complete(s.informers).New("kube-apiserver", next)
	if err != nil {
		return nil, fmt.Errorf("build built-in server: %w", err)
	}
	all, err := s.builtinStorages(config.RESTOptionsGetter, &config, client, rules)
	if err != nil {
		return nil, err
	}
	if err := install(server, all); err != nil {
		return nil, err
	}
	if err := s.serveIssuer(server); err != nil {
		return nil, err
	}
	s.addHooks(server, client)
	return server, nil
}

func (s *Server) newAggregator(base genericapiserver.Config, etcd *options.EtcdOptions, builtin *genericapiserver.GenericAPIServer, extensions *apiextensionsserver.CustomResourceDefinitions, services webhook.ServiceResolver) error {
	config := apart(base)
	config.RESTOptionsGetter = apiServiceStorage(etcd, s.shared, &config)
	config.MergedResourceConfig = serverstorage.NewResourceConfig()
	config.MergedResourceConfig.EnableVersions(apiregistrationv1.SchemeGroupVersion)
	// The aggregator merges the others' OpenAPI with its own handler.
	config.SkipOpenAPIInstallation = true
	full := aggregator.Config{
		GenericConfig: &genericapiserver.RecommendedConfig{Config: config, SharedInformerFactory: s.informers},
		ExtraConfig: aggregator.ExtraConfig{
			ProxyClientCertFile:       s.config.PKI.FrontProxy.CertFile,
			ProxyClientKeyFile:        s.config.PKI.FrontProxy.KeyFile,
			ServiceResolver:           services,
			RejectForwardingRedirects: true,
		},
	}
	server, err := full.Complete().NewWithDelegate(builtin)
	if err != nil {
		return fmt.Errorf("build aggregator: %w", err)
	}
	if err := registerAPIServices(server, builtin, extensions); err != nil {
		return fmt.Errorf("build aggregator: %w", err)
	}
	s.aggregator = server
	return nil
}

// Loopback returns a client configuration with full rights (system:masters) over the loopback address, protobuf
// first. It works while Run runs.
func (s *Server) Loopback() *rest.Config { return rest.CopyConfig(s.loopback) }

// Informers are the server's own, over its loopback connection, without managed fields. Others in the process may ask
// them for more kinds; what they start ends with their own context.
func (s *Server) Informers() informers.SharedInformerFactory { return s.informers }

// Ready is closed when the server has answered its own readiness check for the first time.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// readyPoll is how often a starting server asks itself whether it is ready.
const readyPoll = 20 * time.Millisecond

// Run serves until ctx ends, then drains and returns. It returns early with an error if it cannot serve.
func (s *Server) Run(ctx context.Context) error {
	prepared, err := s.aggregator.PrepareRun()
	if err != nil {
		return fmt.Errorf("prepare API server: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	background := make(chan struct{})
	go func() {
		defer close(background)
		s.objects.Run(ctx)
	}()
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		if s.awaitReady(ctx) {
			s.allocator.Run(ctx)
		}
	}()
	err = prepared.Run(ctx)
	cancel()
	<-background
	<-watched
	s.informers.Shutdown()
	s.shared.close()
	if err != nil {
		return fmt.Errorf("serve API: %w", err)
	}
	return nil
}

// awaitReady asks /readyz over the loopback client until it says ok.
func (s *Server) awaitReady(ctx context.Context) bool {
	client, err := kubernetes.NewForConfig(s.loopback)
	if err != nil {
		return false
	}
	ticker := time.NewTicker(readyPoll)
	defer ticker.Stop()
	for {
		attempt, cancel := context.WithTimeout(ctx, time.Second)
		err := client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(attempt).Error()
		cancel()
		if err == nil {
			close(s.ready)
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-ticker.C:
		}
	}
}
