package server

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensionsserver "k8s.io/apiextensions-apiserver/pkg/apiserver"
	definitionlisters "k8s.io/apiextensions-apiserver/pkg/client/listers/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/healthz"
	"k8s.io/client-go/tools/cache"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	aggregator "k8s.io/kube-aggregator/pkg/apiserver"
	apiregistrationclient "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset/typed/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/controllers/autoregister"
)

// priority orders groups (higher first) and versions of a group in discovery, so that kubectl resolves short names as
// with kube-apiserver.
type priority struct{ group, version int32 }

// priorities are upstream's figures.
var priorities = map[schema.GroupVersion]priority{
	{Group: "", Version: "v1"}:                             {18000, 1},
	{Group: "events.k8s.io", Version: "v1"}:                {17750, 15},
	{Group: "apps", Version: "v1"}:                         {17800, 15},
	{Group: "authentication.k8s.io", Version: "v1"}:        {17700, 15},
	{Group: "authorization.k8s.io", Version: "v1"}:         {17600, 15},
	{Group: "autoscaling", Version: "v1"}:                  {17500, 15},
	{Group: "autoscaling", Version: "v2"}:                  {17500, 30},
	{Group: "batch", Version: "v1"}:                        {17400, 15},
	{Group: "certificates.k8s.io", Version: "v1"}:          {17300, 15},
	{Group: "networking.k8s.io", Version: "v1"}:            {17200, 15},
	{Group: "policy", Version: "v1"}:                       {17100, 15},
	{Group: "rbac.authorization.k8s.io", Version: "v1"}:    {17000, 15},
	{Group: "storage.k8s.io", Version: "v1"}:               {16800, 15},
	{Group: "apiextensions.k8s.io", Version: "v1"}:         {16700, 15},
	{Group: "admissionregistration.k8s.io", Version: "v1"}: {16700, 15},
	{Group: "scheduling.k8s.io", Version: "v1"}:            {16600, 15},
	{Group: "coordination.k8s.io", Version: "v1"}:          {16500, 15},
	{Group: "node.k8s.io", Version: "v1"}:                  {16300, 15},
	{Group: "discovery.k8s.io", Version: "v1"}:             {16200, 15},
	{Group: "flowcontrol.apiserver.k8s.io", Version: "v1"}: {16100, 21},
	{Group: "resource.k8s.io", Version: "v1"}:              {16000, 20},
}

// customPriority is for groups that only custom resources have.
var customPriority = priority{1000, 100}

// registerAPIServices keeps an APIService for every group version that this process serves, so that discovery and
// `kubectl get apiservices` show them: the built-in ones from the start, those of custom resources as definitions come
// and go.
func registerAPIServices(server *aggregator.APIAggregator, builtin *genericapiserver.GenericAPIServer, extensions *apiextensionsserver.CustomResourceDefinitions) error {
	client, err := apiregistrationclient.NewForConfig(server.GenericAPIServer.LoopbackClientConfig)
	if err != nil {
		return fmt.Errorf("make APIService client: %w", err)
	}
	controller := autoregister.NewAutoRegisterController(server.APIRegistrationInformers.Apiregistration().V1().APIServices(), client)

	var names []string
	own := sets.New[schema.GroupVersion]()
	for _, path := range builtin.ListedPaths() {
		gv, ok := groupVersionOfPath(path)
		if !ok || own.Has(gv) {
			continue
		}
		p, known := priorities[gv]
		if !known {
			continue
		}
		own.Insert(gv)
		service := apiService(gv, p)
		names = append(names, service.Name)
		controller.AddAPIServiceToSyncOnStart(service)
	}

	definitions := extensions.Informers.Apiextensions().V1().CustomResourceDefinitions()
	custom := &customServices{lister: definitions.Lister(), registration: controller, own: own, known: sets.New[schema.GroupVersion]()}
	handler, err := definitions.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { custom.sync() },
		UpdateFunc: func(any, any) { custom.sync() },
		DeleteFunc: func(any) { custom.sync() },
	})
	if err != nil {
		return fmt.Errorf("watch CustomResourceDefinitions: %w", err)
	}

	err = server.GenericAPIServer.AddPostStartHook("kube-apiserver-autoregistration", func(hook genericapiserver.PostStartHookContext) error {
		// Definitions first: a custom group that already has objects must not look gone for a moment.
		if !cache.WaitForCacheSync(hook.Done(), handler.HasSynced) {
			return errors.New("stopped before CustomResourceDefinitions were read")
		}
		go controller.Run(2, hook.Done())
		return nil
	})
	if err != nil {
		return err
	}
	lister := server.APIRegistrationInformers.Apiregistration().V1().APIServices().Lister()
	return server.GenericAPIServer.AddBootSequenceHealthChecks(healthz.NamedCheck("autoregister-completion", func(*http.Request) error {
		for _, name := range names {
			if _, err := lister.Get(name); err != nil {
				return fmt.Errorf("APIService %s is not registered yet", name)
			}
		}
		return nil
	}))
}

func groupVersionOfPath(path string) (schema.GroupVersion, bool) {
	if path == "/api/v1" {
		return schema.GroupVersion{Version: "v1"}, true
	}
	parts := strings.Split(path, "/")
	if len(parts) != 4 || parts[1] != "apis" {
		return schema.GroupVersion{}, false
	}
	return schema.GroupVersion{Group: parts[2], Version: parts[3]}, true
}

func apiService(gv schema.GroupVersion, p priority) *apiregistrationv1.APIService {
	return &apiregistrationv1.APIService{
		ObjectMeta: metav1.ObjectMeta{Name: gv.Version + "." + gv.Group},
		Spec: apiregistrationv1.APIServiceSpec{
			Group: gv.Group, Version: gv.Version, GroupPriorityMinimum: p.group, VersionPriority: p.version,
		},
	}
}

// customServices tells the registration which group versions custom resources have.
type customServices struct {
	lister       definitionlisters.CustomResourceDefinitionLister
	registration autoregister.AutoAPIServiceRegistration
	own          sets.Set[schema.GroupVersion]

	mu    sync.Mutex
	known sets.Set[schema.GroupVersion]
}

// sync compares the definitions with what was registered. Definitions are few; a full pass needs no bookkeeping.
func (c *customServices) sync() {
	definitions, err := c.lister.List(labels.Everything())
	if err != nil {
		return // a lister over a local cache does not fail
	}
	now := sets.New[schema.GroupVersion]()
	for _, d := range definitions {
		if !established(d) {
			continue
		}
		for _, v := range d.Spec.Versions {
			gv := schema.GroupVersion{Group: d.Spec.Group, Version: v.Name}
			if v.Served && !c.own.Has(gv) {
				now.Insert(gv)
			}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for gv := range now.Difference(c.known) {
		c.registration.AddAPIServiceToSync(apiService(gv, customPriority))
	}
	for gv := range c.known.Difference(now) {
		c.registration.RemoveAPIServiceToSync(gv.Version + "." + gv.Group)
	}
	c.known = now
}

func established(d *apiextensionsv1.CustomResourceDefinition) bool {
	for _, condition := range d.Status.Conditions {
		if condition.Type == apiextensionsv1.Established {
			return condition.Status == apiextensionsv1.ConditionTrue
		}
	}
	return false
}
