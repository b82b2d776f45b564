package dns

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coredns/coredns/plugin/kubernetes"
	"github.com/coredns/coredns/plugin/kubernetes/object"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// records are what the kubernetes plugin answers from: the plugin's own trimmed objects, indexed the ways that it asks.
// Compared with the plugin's informers it keeps no second copy in a queue, no Pods, and lets go of each API object at once.
type records struct {
	modified atomic.Int64 // Unix seconds of the last change, the zone's serial number

	mu         sync.RWMutex
	services   map[string]*object.Service   // by "name.namespace"
	slices     map[string]*object.Endpoints // by "namespace/name" of the slice
	byService  map[string]map[string]struct{}
	serviceIPs map[string]map[string]struct{} // IP → services
	podIPs     map[string]map[string]struct{} // IP → slices
	namespaces map[string]struct{}
	generation uint64 // counts changes
	saved      uint64 // the generation that is on disk
	synced     struct{ services, slices, namespaces bool }
	ready      chan struct{} // closed when all are synced
}

func newRecords() *records {
	return &records{
		services: map[string]*object.Service{}, slices: map[string]*object.Endpoints{},
		byService: map[string]map[string]struct{}{}, serviceIPs: map[string]map[string]struct{}{},
		podIPs: map[string]map[string]struct{}{}, namespaces: map[string]struct{}{},
		ready: make(chan struct{}),
	}
}

// changed needs the lock.
func (r *records) changed() {
	r.modified.Store(time.Now().Unix())
	r.generation++
}

// markSynced needs the lock.
func (r *records) markSynced(flag *bool) {
	*flag = true
	if r.synced.services && r.synced.slices && r.synced.namespaces {
		select {
		case <-r.ready:
		default:
			close(r.ready)
		}
	}
}

func put(index map[string]map[string]struct{}, key, value string) {
	if index[key] == nil {
		index[key] = map[string]struct{}{}
	}
	index[key][value] = struct{}{}
}

func drop(index map[string]map[string]struct{}, key, value string) {
	delete(index[key], value)
	if len(index[key]) == 0 {
		delete(index, key)
	}
}

func (r *records) setService(s *corev1.Service) {
	o, err := object.ToService(s)
	if err != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.putService(o.(*object.Service))
}

func (r *records) putService(s *object.Service) {
	r.removeService(s.Index)
	r.services[s.Index] = s
	for _, ip := range s.ClusterIPs {
		put(r.serviceIPs, ip, s.Index)
	}
	r.changed()
}

func (r *records) removeService(index string) {
	if old := r.services[index]; old != nil {
		for _, ip := range old.ClusterIPs {
			drop(r.serviceIPs, ip, index)
		}
		delete(r.services, index)
		r.changed()
	}
}

func (r *records) deleteService(s *corev1.Service) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.removeService(object.ServiceKey(s.Name, s.Namespace))
}

func (r *records) replaceServices(all []*corev1.Service) {
	r.mu.Lock()
	defer r.mu.Unlock()
	seen := map[string]bool{}
	for _, s := range all {
		if o, err := object.ToService(s); err == nil {
			svc := o.(*object.Service)
			seen[svc.Index] = true
			r.putService(svc)
		}
	}
	for index := range r.services {
		if !seen[index] {
			r.removeService(index)
		}
	}
	r.markSynced(&r.synced.services)
}

// toEndpoints answers nil for a slice that names nothing.
func toEndpoints(s *discoveryv1.EndpointSlice) *object.Endpoints {
	if s.Labels[discoveryv1.LabelServiceName] == "" || s.AddressType == discoveryv1.AddressTypeFQDN {
		return nil
	}
	o, err := object.EndpointSliceToEndpoints(s)
	if err != nil {
		return nil
	}
	return o.(*object.Endpoints)
}

func (r *records) setSlice(s *discoveryv1.EndpointSlice) {
	key := s.Namespace + "/" + s.Name
	e := toEndpoints(s)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.putSlice(key, e)
}

func (r *records) putSlice(key string, e *object.Endpoints) {
	if old := r.slices[key]; old != nil {
		drop(r.byService, old.Index, key)
		for _, ip := range old.IndexIP {
			drop(r.podIPs, ip, key)
		}
		delete(r.slices, key)
		r.changed()
	}
	if e == nil {
		return
	}
	r.slices[key] = e
	put(r.byService, e.Index, key)
	for _, ip := range e.IndexIP {
		put(r.podIPs, ip, key)
	}
	r.changed()
}

func (r *records) deleteSlice(s *discoveryv1.EndpointSlice) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.putSlice(s.Namespace+"/"+s.Name, nil)
}

func (r *records) replaceSlices(all []*discoveryv1.EndpointSlice) {
	r.mu.Lock()
	defer r.mu.Unlock()
	seen := map[string]bool{}
	for _, s := range all {
		key := s.Namespace + "/" + s.Name
		seen[key] = true
		r.putSlice(key, toEndpoints(s))
	}
	for key := range r.slices {
		if !seen[key] {
			r.putSlice(key, nil)
		}
	}
	r.markSynced(&r.synced.slices)
}

func (r *records) setNamespace(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.namespaces[strings.Clone(name)] = struct{}{}
	r.changed()
}

func (r *records) deleteNamespace(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.namespaces, name)
	r.changed()
}

func (r *records) replaceNamespaces(names []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.namespaces)
	for _, n := range names {
		r.namespaces[strings.Clone(n)] = struct{}{}
	}
	r.changed()
	r.markSynced(&r.synced.namespaces)
}

// What follows is what the kubernetes plugin asks of its API connection.

// ServiceList answers every Service.
func (r *records) ServiceList() []*object.Service {
	r.mu.RLock()
	defer r.mu.RUnlock()
	out := make([]*object.Service, 0, len(r.services))
	for _, s := range r.services {
		out = append(out, s)
	}
	return out
}

// EndpointsList answers every slice.
func (r *records) EndpointsList() []*object.Endpoints {
	r.mu.RLock()
	defer r.mu.RUnlock()
	out := make([]*object.Endpoints, 0, len(r.slices))
	for _, e := range r.slices {
		out = append(out, e)
	}
	return out
}

// SvcIndex answers the Service "name.namespace".
func (r *records) SvcIndex(index string) []*object.Service {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if s := r.services[index]; s != nil {
		return []*object.Service{s}
	}
	return nil
}

// SvcIndexReverse answers the Services with a cluster IP.
func (r *records) SvcIndexReverse(ip string) []*object.Service {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var out []*object.Service
	for index := range r.serviceIPs[ip] {
		out = append(out, r.services[index])
	}
	return out
}

// EpIndex answers the slices of the Service "name.namespace".
func (r *records) EpIndex(index string) []*object.Endpoints {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var out []*object.Endpoints
	for key := range r.byService[index] {
		out = append(out, r.slices[key])
	}
	return out
}

// EpIndexReverse answers the slices with an endpoint's address.
func (r *records) EpIndexReverse(ip string) []*object.Endpoints {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var out []*object.Endpoints
	for key := range r.podIPs[ip] {
		out = append(out, r.slices[key])
	}
	return out
}

// GetNamespaceByName fails for a namespace that does not exist.
func (r *records) GetNamespaceByName(name string) (*object.Namespace, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if _, ok := r.namespaces[name]; !ok {
		return nil, errors.New("namespace not found")
	}
	return &object.Namespace{Name: name}, nil
}

// HasSynced reports that all watches have delivered their first lists.
func (r *records) HasSynced() bool {
	select {
	case <-r.ready:
		return true
	default:
		return false
	}
}

// Modified is the zone's serial number.
func (r *records) Modified(kubernetes.ModifiedMode) int64 { return r.modified.Load() }

// Run and Stop are the plugin's way to start informers; ours run beside it.
func (r *records) Run() {}

// Stop does nothing, as Run.
func (r *records) Stop() error { return nil }

// The rest serves options of the plugin that are not used here: Pods are answered from their names alone, external names
// and multi-cluster zones not at all.

// PodIndex answers none.
func (r *records) PodIndex(string) []*object.Pod { return nil }

// SvcExtIndexReverse answers none.
func (r *records) SvcExtIndexReverse(string) []*object.Service { return nil }

// ServiceImportList answers none.
func (r *records) ServiceImportList() []*object.ServiceImport { return nil }

// SvcImportIndex answers none.
func (r *records) SvcImportIndex(string) []*object.ServiceImport { return nil }

// McEpIndex answers none.
func (r *records) McEpIndex(string) []*object.MultiClusterEndpoints { return nil }

// GetNodeByName fails: Nodes are not watched.
func (r *records) GetNodeByName(context.Context, string) (*corev1.Node, error) {
	return nil, errors.New("nodes are not watched")
}
